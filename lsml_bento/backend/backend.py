"""What Label Studio asks of a backend, free of HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lsml_bento.backend.training import Learning, Wake
from lsml_bento.contract import PredictRequest, Project, SetupRequest, Task
from lsml_bento.errors import ModelError, NotReady, StateError
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import Media
from lsml_bento.model.render import EMPTY_SLOT, Slot, for_annotator
from lsml_bento.prediction.batcher import Batcher
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.disconnect import DisconnectWatch, HungUp
from lsml_bento.prediction.failures import for_client, slots_of
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.predictor import Group, Predictor
from lsml_bento.prediction.request_queue import Lane, Observer, Ticket
from lsml_bento.prediction.version_follower import VersionFollower
from lsml_bento.projects.overview import known_versions, projects_at_a_glance
from lsml_bento.settings import Settings
from lsml_bento.state.heartbeat import Heartbeat
from lsml_bento.state.store import State, resolve
from lsml_bento.training.publisher import sweep
from lsml_bento.versions.weights import Weights

log = logging.getLogger(__name__)

_SETUP_WAIT_S = 2.0
"""Label Studio waits three seconds for ``/setup``, the network included."""

_FOLLOW_EVERY_S = 0.25
"""How often the active versions are looked at; a new one serves within a second."""

_LAST_ERRORS = 1_000
"""Projects whose last error is kept."""


class Backend:
    """The use cases of one serving process.

    Args:
        source: where the user's class comes from.
        state: shared with the other processes.
        media: given to model objects.
        settings: what the environment decides.
        observer: is told of batches and waits.
        weights: where those of versions are; None where there are no versions.
        inbox: where events wait that the state does not take; None to refuse them.
        wake: is told of jobs that wait.
        took: is told how many seconds an event took.

    Attributes:
        learning: events, jobs and versions.
        presence: of this process among those of the backend.
        is_ready: whether the user's class was imported.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        media: Media,
        settings: Settings,
        observer: Observer | None = None,
        *,
        weights: Weights | None = None,
        inbox: Path | None = None,
        wake: Wake = lambda _: None,
        took: Callable[[float], None] = lambda _: None,
    ) -> None:
        threads = settings.threads or 1
        self._source = source
        self._state = state
        self._weights = weights
        self._deadline_s = settings.predict_deadline_s
        self._models = ModelPool(
            *(source, state, media, weights),
            max_models=settings.max_models,
            max_objects=threads,
        )
        self._serving = VersionFollower(self._models, state)
        self.heartbeat = Heartbeat(state, source.name)
        self.learning = Learning(source, state, wake, inbox, took)
        self._predictor = Predictor(self._models, state, self._serving)
        self._device = CallThreads(threads, "predict")
        self._making = CallThreads(2, "setup")
        self._reading = CallThreads(4, "state")
        self._swapping = CallThreads(1, "versions")
        self.is_ready = False
        self._following: list[asyncio.Task[None]] = []
        self._preparing: dict[tuple[Project, str | None], asyncio.Future[str]] = {}
        self._last_errors: dict[Project, str] = {}
        self._batcher = Batcher(
            self._predict_batch,
            max_batch_size=settings.max_batch_size or 32,
            slots=threads,
            queue_size=settings.queue_size,
            observer=observer,
        )

    @property
    def model_class(self) -> str:
        """The name of the user's class."""
        return self._source.name

    def health(self) -> dict[str, str]:
        """Up, whatever the model does; never waits."""
        return {"status": "UP", "model_class": self.model_class}

    async def start(self) -> None:
        """Import the user's class, so that ``/setup`` finds it; again, if it failed.

        From the first call on new versions are served as soon as they are promoted.
        """
        is_first = not self._following
        if is_first:
            self._following = [asyncio.create_task(self._follow())]
        try:
            await self._making.run(self._source.load)
            self.is_ready = True
            await self._reading.run(self.learning.remember_rules)
        except StateError as error:
            log.warning("when the class learns was not noted: %s", error)
        except ModelError as error:
            said = "%s; the server stays up and tries again"
            level = logging.ERROR if is_first else logging.DEBUG
            log.log(level, said, error, exc_info=error.__cause__)

    async def close(self) -> bool:
        """Answer all that was taken, then let go.

        Returns:
            Whether every call of ``predict`` ended; a request ends at its deadline.
        """
        for following in self._following:
            following.cancel()
        ended = await self._batcher.close(self._deadline_s)
        await asyncio.to_thread(self.learning.close)
        for threads in (self._device, self._making, self._reading, self._swapping):
            threads.close()
        self.heartbeat.leave()
        self._state.close()
        return ended

    async def setup(self, request: SetupRequest) -> str:
        """The model version that serves a project; its model object is made.

        Raises:
            NotReady: if making it takes longer than 2 s and no version is known.
            LsmlError: if the class, its setup or the label config fails.
        """
        project, version = await self._reading.run(self._remember, request)
        if version is not None:
            return version
        preparing = self._prepare(project, request.label_config)
        await asyncio.wait({preparing}, timeout=_SETUP_WAIT_S)
        if preparing.done():
            return preparing.result()
        values = await self._reading.run(self._state.read, project)
        active = await self._reading.run(self._serving.version, project)
        if known := active or values.get("model_version"):
            return str(known)
        raise NotReady(
            f"{self.model_class} is still being made for project {project} and has no "
            "version yet: Label Studio asks again by itself"
        )

    async def predict(
        self, request: PredictRequest, hung_up: HungUp | None = None
    ) -> list[Slot]:
        """One slot per task, in order; ``[]`` for a task that failed.

        Args:
            request: tasks of one project.
            hung_up: awaited beside the work; tasks still queued are dropped when it
                returns.

        Raises:
            LsmlError: if every task failed, with the first reason.
            DeadlineExceeded: if none was reached in time.
            QueueFull: if too many tasks wait.
        """
        project = request.project
        if project.created_at is None:
            project = await self._reading.run(resolve, project, self._state)
        ticket = self._submit(request, project)
        answers = await self._answers(ticket, hung_up)
        interactive = ticket.lane is Lane.INTERACTIVE
        self.learning.observe(project, request.tasks)
        for failure in [a for a in answers if isinstance(a, Exception)][:1]:
            self._note_error(project, for_client(failure))
        slots = slots_of(project, request.tasks, answers, self._deadline_s)
        return [for_annotator(slot) for slot in slots] if interactive else slots

    async def versions(self) -> list[str]:
        """Every model version known, of all projects."""
        return await self._reading.run(known_versions, self._state)

    async def status(self) -> dict[str, Any]:
        """Versions and last errors per project, and what waits."""
        errors = dict(self._last_errors)
        projects = await self._reading.run(projects_at_a_glance, self._state, errors)
        return {
            "model_class": self.model_class,
            "max_batch_size": self._batcher.limit,
            "waiting": {lane.value: n for lane, n in self._batcher.waiting().items()},
            "projects": projects,
        }

    async def figures(self) -> dict[str, Any]:
        """What monitors want to know of jobs."""
        return await self._reading.run(self.learning.figures)

    def active_versions(self) -> dict[str, str]:
        """The version that serves here, by project."""
        active = self._serving.active()
        return {str(project): version or "base" for project, version in active.items()}

    async def sweep(self) -> None:
        """Remove what is in the model store of versions that there are no more."""
        if self._weights is not None:
            await self._reading.run(sweep, self._state, self._weights)

    async def _follow(self) -> None:
        while True:
            await self._swapping.run(self._serving.follow)
            await asyncio.sleep(_FOLLOW_EVERY_S)

    # How a prediction flows

    def _submit(self, request: PredictRequest, project: Project) -> Ticket:
        context = request.params.get("context")
        interactive = context is not None
        lane = Lane.BULK if len(request.tasks) > 1 else Lane.SINGLE
        return self._batcher.submit(
            Group.of(project, request.label_config, request.params, context),
            request.tasks,
            Lane.INTERACTIVE if interactive else lane,
            alone=interactive,
            deadline_s=self._deadline_s,
        )

    async def _answers(self, ticket: Ticket, hung_up: HungUp | None) -> list[Any]:
        def give_up() -> None:
            dropped = ticket.lane.value, len(ticket.items)
            log.info("the client hung up: %s request of %d tasks dropped", *dropped)
            self._batcher.withdraw(ticket)

        with DisconnectWatch(hung_up, give_up) as watch:
            try:
                answers = await ticket.done()
            finally:
                self._batcher.withdraw(ticket)
        return [EMPTY_SLOT] * len(answers) if watch.is_gone else answers

    async def _predict_batch(
        self, group: Group, tasks: list[Task]
    ) -> list[Slot | Exception]:
        return await self._device.run(self._predictor.predict, group, tasks)

    # What /setup needs

    def _remember(self, request: SetupRequest) -> tuple[Project, str | None]:
        """The project that is meant, and the version if its model object is made."""
        project = resolve(request.project, self._state)
        if "extra_params" in request.model_fields_set:
            asked = request.extra_params
            if self._state.read(project).get("extra_params") != asked:
                self._state.write(project, {"extra_params": asked})
        return project, self._predictor.serving(project, request.label_config)

    def _prepare(
        self, project: Project, label_config: str | None
    ) -> asyncio.Future[str]:
        key = project, label_config
        preparing = self._preparing.get(key)
        if preparing is None:
            preparing = self._making.run(self._predictor.prepare, project, label_config)
            self._preparing[key] = preparing
            preparing.add_done_callback(lambda done: self._prepared(key, done))
        return preparing

    def _prepared(
        self, key: tuple[Project, str | None], done: asyncio.Future[str]
    ) -> None:
        del self._preparing[key]
        if not done.cancelled() and (error := done.exception()) is not None:
            self._note_error(key[0], error)

    def _note_error(self, project: Project, error: BaseException) -> None:
        self._last_errors.pop(project, None)
        self._last_errors[project] = str(error)
        if len(self._last_errors) > _LAST_ERRORS:
            del self._last_errors[next(iter(self._last_errors))]
