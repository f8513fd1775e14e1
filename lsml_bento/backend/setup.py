"""Makes a project's model object and finds the version that serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from lsml_bento.contract import Project, SetupRequest
from lsml_bento.errors import NotReady
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.predictor import Predictor
from lsml_bento.state.store import State, resolve

_WAIT_S = 2.0
"""Label Studio waits three seconds for ``/setup``, the network included."""


@dataclass(eq=False)
class Setup:
    """Answers ``/setup``."""

    model_class: str
    predictor: Predictor
    pool: ModelPool
    state: State
    setup_threads: CallThreads
    state_threads: CallThreads
    note_error: Callable[[Project, BaseException], None]
    _preparing: dict[tuple[Project, str | None], asyncio.Future[str]] = field(
        default_factory=dict, init=False
    )

    async def __call__(self, request: SetupRequest) -> str:
        """Make the project's model object; return the version that serves.

        Raises:
            NotReady: if making it takes longer than 2 s and no version is known.
            LsmlError: if the class, its setup or the label config fails.
        """
        project, version = await self.state_threads.run(self._remember, request)
        if version is not None:
            return version
        preparing = self._prepare(project, request.label_config)
        await asyncio.wait({preparing}, timeout=_WAIT_S)
        if preparing.done():
            return preparing.result()
        if (known := await self.state_threads.run(self._known, project)) is not None:
            return known
        raise NotReady(
            f"{self.model_class} is still being made for project {project} and has no "
            "version yet: save the connection again in a few seconds"
        )

    def _remember(self, request: SetupRequest) -> tuple[Project, str | None]:
        """Store what Label Studio sent.

        Returns:
            The project, and its version if its model object is made.
        """
        project = resolve(request.project, self.state)
        if "extra_params" in request.model_fields_set:
            sent = request.extra_params
            if self.state.read(project).get("extra_params") != sent:
                self.state.write(project, {"extra_params": sent})
        return project, self.predictor.serving(project, request.label_config)

    def _known(self, project: Project) -> str | None:
        base = self.state.read(project).get("model_version")
        version = self.pool.version(project) or base
        return str(version) if version else None

    def _prepare(
        self, project: Project, label_config: str | None
    ) -> asyncio.Future[str]:
        key = project, label_config
        preparing = self._preparing.get(key)
        if preparing is None:
            preparing = self.setup_threads.run(self.predictor.prepare, *key)
            self._preparing[key] = preparing
            preparing.add_done_callback(lambda done: self._prepared(key, done))
        return preparing

    def _prepared(
        self, key: tuple[Project, str | None], done: asyncio.Future[str]
    ) -> None:
        del self._preparing[key]
        if not done.cancelled() and (error := done.exception()) is not None:
            self.note_error(key[0], error)
