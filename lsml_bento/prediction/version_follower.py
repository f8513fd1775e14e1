"""Which version of each project this process serves, and its way to the next one.

The state says which version is to serve. A process gets there by itself: it makes the
new version's objects beside the old ones, tries them, and only then uses them. One
that can not be loaded replaces nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass

from lsml_bento.contract import Project
from lsml_bento.errors import LsmlError
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Versions
from lsml_bento.versions.version import Pointer, Version

log = logging.getLogger(__name__)

_TRY_AGAIN_S = 30.0


@dataclass(frozen=True)
class _Refused:
    """A pointer that could not be followed.

    Attributes:
        moves: of the pointer; after another move it is followed again.
        until: when it is tried again all the same.
    """

    moves: int
    until: float


class VersionFollower:
    """The versions that one process serves.

    Args:
        models: its model objects.
        state: shared with the other processes.
    """

    def __init__(self, models: ModelPool, state: State) -> None:
        self._models = models
        self._versions = Versions(state)
        self._job_store = JobStore(state)
        self._served: dict[Project, str | None] = {}
        self._refused: dict[Project, _Refused] = {}

    def version(self, project: Project) -> str | None:
        """The version that serves a project here, None for the base.

        Raises:
            StateError: if the state did not answer at a project's first request.
        """
        if project in self._served:
            return self._served[project]
        version = self._versions.pointer(project).version
        return self._served.setdefault(project, version)

    def active(self) -> dict[Project, str | None]:
        """The versions of all projects that were asked for here, None for the base."""
        return {
            project: None if self._models.lacks(project, version) else version
            for project, version in dict(self._served).items()
        }

    def follow(self) -> None:
        """Serve what the state says, as far as it can be loaded; never raises."""
        try:
            pointers = self._versions.pointers()
        except LsmlError as error:
            log.debug("the active versions could not be read: %s", error)
            return
        for project in list(self._served):
            # A project that was forgotten has no pointer any more.
            pointer = pointers.get(project, Pointer())
            if not self._is_due(project, pointer):
                continue
            try:
                self._swap(project, pointer)
            except Exception:  # the next projects are swapped all the same
                log.exception("project=%s: a bug in lsml-bento", project)
                self._put_off(project, pointer)

    def _is_due(self, project: Project, pointer: Pointer) -> bool:
        served = self._served[project]
        if served == pointer.version and not self._models.lacks(project, served):
            return False
        refused = self._refused.get(project)
        if refused is None or refused.moves != pointer.moves:
            return True
        return time.monotonic() > refused.until

    def _swap(self, project: Project, pointer: Pointer) -> None:
        old, new = self._served[project], pointer.version
        start = time.monotonic()
        found: Version | None = None
        try:
            found = self._find(project, new)
            if self._is_afresh(project, old, found):
                self._models.reload()
            self._models.replace(project, old, new)
        except LsmlError as error:
            self._refuse(project, pointer, found, error)
            return
        self._served[project] = new
        self._models.settle(project, new)
        if self._refused.pop(project, None) is not None:
            self._tell(found, None)
        log.info(
            "version %s serves project=%s in place of %s, after %.2f s",
            new or "base",
            project,
            old or "the base",
            time.monotonic() - start,
        )

    def _find(self, project: Project, version: str | None) -> Version | None:
        return None if version is None else self._versions.find(project, version)

    def _is_afresh(
        self, project: Project, old: str | None, found: Version | None
    ) -> bool:
        """Whether what the class's modules learned differs between two versions."""
        if found is not None and found.afresh:
            return True
        try:
            before = self._find(project, old)
        except LsmlError:  # forgotten meanwhile
            return False
        return before is not None and before.afresh

    def _refuse(
        self,
        project: Project,
        pointer: Pointer,
        found: Version | None,
        error: LsmlError,
    ) -> None:
        served = self.active()[project] or "the base"
        log.error(
            "version %s of project=%s is not served: %s; %s goes on serving",
            pointer.version,
            project,
            error,
            served,
            exc_info=error.__cause__,
        )
        self._put_off(project, pointer)
        where = f"the server {socket.gethostname()}, process {os.getpid()},"
        self._tell(found, f"{where} goes on with {served}: {error}")

    def _put_off(self, project: Project, pointer: Pointer) -> None:
        until = time.monotonic() + _TRY_AGAIN_S
        self._refused[project] = _Refused(pointer.moves, until)
        # What was made of the new version goes.
        self._models.settle(project, self._served[project])

    def _tell(self, version: Version | None, error: str | None) -> None:
        """Note on a version's job that it is not served, or that it is after all."""
        if version is None or version.job is None:
            return
        try:
            self._job_store.complain(version.job, error)
        except LsmlError as trouble:
            log.debug("job %s was not told: %s", version.job, trouble)
