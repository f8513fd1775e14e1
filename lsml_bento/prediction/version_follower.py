"""Switches this process to the versions that the state says are active.

Each process switches by itself. It makes and tests the new version's objects before it
uses them in place of the old ones. A version that does not load replaces nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from lsml_bento.contract import Project
from lsml_bento.errors import LsmlError
from lsml_bento.model.invoke import free_memory
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Pointer, Version, Versions

log = logging.getLogger(__name__)

_TRY_AGAIN_S = 30.0

NoteOnJob = Callable[[str, str | None], None]
"""``note(job, error)``: why the version of a job is not served; None if it is now."""


@dataclass(frozen=True)
class _Refused:
    """A pointer to a version that did not load.

    Attributes:
        moves: of the pointer; the version after another move is loaded at once.
        until: when the version is loaded again.
    """

    moves: int
    until: float


class VersionFollower:
    """Makes a pool serve the active versions."""

    def __init__(self, pool: ModelPool, state: State, note_on_job: NoteOnJob) -> None:
        self._pool = pool
        self._versions = Versions(state)
        self._note_on_job = note_on_job
        self._refused: dict[Project, _Refused] = {}
        self._has_reloaded = False

    def follow(self) -> None:
        """Serve the active versions, as far as they load; never raises."""
        self._follow()
        # The old modules, or those of a failed import, are reference cycles.
        if self._has_reloaded and not self._pool.has_old_objects():
            self._has_reloaded = False
            with suppress(RuntimeError):  # of a lost GPU, which predict() reports
                free_memory()

    def _follow(self) -> None:
        try:
            pointers = self._versions.pointers()
        except LsmlError as error:
            log.debug("Active versions could not be read: %s", error)
            return
        for project, served in self._pool.versions().items():
            # A deleted project no longer has a pointer.
            pointer = pointers.get(project, Pointer())
            try:
                if self._is_due(project, served, pointer):
                    self._switch(project, served, pointer)
            except LsmlError as error:
                log.debug("Version switch postponed: project=%s: %s", project, error)
            except Exception:  # the other projects must still be switched
                log.exception("Version switch failed unexpectedly: project=%s", project)
                self._put_off(project, pointer)

    def _is_due(self, project: Project, served: str | None, pointer: Pointer) -> bool:
        if served == pointer.version and not self._pool.has_stand_in(project):
            return False
        refused = self._refused.get(project)
        if refused is None or refused.moves != pointer.moves:
            return True
        return time.monotonic() > refused.until

    def _switch(self, project: Project, old: str | None, pointer: Pointer) -> None:
        new = pointer.version
        start = time.monotonic()
        found: Version | None = None
        try:
            found = self._find(project, new)
            reload = self._differs_in_modules(project, old, found)
            self._has_reloaded |= reload
            self._pool.serve(project, new, reload=reload)
        except LsmlError as error:
            self._refuse(project, pointer, found, error)
            return
        if self._refused.pop(project, None) is not None:
            self._note(found, None)
        log.info(
            "Version serves: project=%s version=%s before=%s seconds=%.2f",
            project,
            new or "base",
            old or "base",
            time.monotonic() - start,
        )

    def _find(self, project: Project, version: str | None) -> Version | None:
        return None if version is None else self._versions.find(project, version)

    def _differs_in_modules(
        self, project: Project, old: str | None, found: Version | None
    ) -> bool:
        """Whether one of two versions keeps what it learned in the class's modules."""
        if found is not None and found.afresh:
            return True
        try:
            before = self._find(project, old)
        except LsmlError:  # deleted in the meantime
            return False
        return before is not None and before.afresh

    def _refuse(
        self,
        project: Project,
        pointer: Pointer,
        found: Version | None,
        error: LsmlError,
    ) -> None:
        version = self._pool.version(project)
        served = None if self._pool.has_stand_in(project) else version
        log.error(
            "Version not served: project=%s version=%s: %s; %s still serves",
            project,
            pointer.version,
            error,
            served or "the base",
            exc_info=error.__cause__,
        )
        self._put_off(project, pointer)
        where = f"the server {socket.gethostname()}, process {os.getpid()},"
        self._note(found, f"{where} still serves {served or 'the base'}: {error}")

    def _put_off(self, project: Project, pointer: Pointer) -> None:
        until = time.monotonic() + _TRY_AGAIN_S
        self._refused[project] = _Refused(pointer.moves, until)

    def _note(self, version: Version | None, error: str | None) -> None:
        if version is None or version.job is None:
            return
        try:
            self._note_on_job(version.job, error)
        except LsmlError as trouble:
            log.debug("Job could not be updated: job=%s: %s", version.job, trouble)
