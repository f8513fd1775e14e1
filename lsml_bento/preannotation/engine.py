"""Predictions of many tasks, always in full batches, with the reason of each failure.

The batcher is the server's. Where a server gives a batch up because both halves and
both ends fail alike, nobody waits here: what failed is tried again in smaller and
smaller parts, until each task has failed by itself, or so many have that the model
itself seems broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lsml_bento.contract import Project, Task
from lsml_bento.errors import DeviceLost, MediaError, PredictionError
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import Media
from lsml_bento.model.render import Slot
from lsml_bento.preannotation.selection import Answer, PreannotationError
from lsml_bento.prediction.batcher import Batcher, Lane, Ticket
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.predictor import Group, Predictor
from lsml_bento.prediction.version_follower import VersionFollower
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import Change, State, below, identify
from lsml_bento.versions.version import pointer_key
from lsml_bento.versions.weights import Weights

_OWN_FAULTS = (MediaError, PredictionError, PreannotationError)
"""Errors that are a task's own, or everybody's, however they came."""

_BROKEN_AFTER = 20
"""Tasks that fail alone, alike and in a row, before no more are tried alone."""

_UNLIMITED = 1 << 62


class Engine(Protocol):
    """What predicts: a model in this process, or a backend that is asked.

    Attributes:
        calls: calls at a time that keep it busy.
    """

    calls: int

    async def prepare(self, project: Project, label_config: str) -> str:
        """Get ready for a project and its label config.

        Returns:
            The model version that predicts.

        Raises:
            LsmlError: if it can not.
        """

    async def predict(self, tasks: list[Task]) -> Sequence[Slot | Exception]:
        """One call: an answer per task, or an error for all of them.

        Raises:
            PreannotationError: if there is no use in going on.
        """

    async def close(self) -> None:
        """Let go of threads and connections."""


class Inference:
    """Feeds an engine.

    Args:
        engine: predicts.
        max_batch_size: tasks in one call at most.
    """

    def __init__(self, engine: Engine, max_batch_size: int) -> None:
        self._engine = engine
        self._batcher = Batcher(
            self._call,
            max_batch_size=max_batch_size,
            slots=engine.calls,
            queue_size=_UNLIMITED,
        )
        self._open: set[Ticket] = set()
        self._stopped = False
        self._failed_alone: tuple[type[Exception], int] = (Exception, 0)

    @property
    def pages_ahead(self) -> int:
        """Pages of a full batch that wait, so that no call waits for one."""
        return self._engine.calls + 2

    async def predict(self, tasks: list[Task]) -> list[Answer]:
        """An answer per task; None for what was not reached before ``stop``.

        Raises:
            PreannotationError: if there is no use in going on.
        """
        answers = await self._answers(tasks, "bulk")
        part = len(tasks)
        while part > 1 and not self._stopped and not self._is_broken:
            part = max(1, part // 8)
            await self._try_again(tasks, answers, part)
        return answers

    def stop(self) -> None:
        """Drop what waits; calls that run go on."""
        self._stopped = True
        for ticket in self._open:
            if not ticket.has_begun:
                self._batcher.withdraw(ticket)

    async def close(self) -> None:
        """Wait for the calls that run, then let go."""
        self.stop()
        await self._batcher.close()
        await self._engine.close()

    @property
    def _is_broken(self) -> bool:
        return self._failed_alone[1] >= _BROKEN_AFTER

    async def _answers(self, tasks: list[Task], group: object) -> list[Answer]:
        if self._stopped:
            return [None] * len(tasks)
        ticket = self._batcher.submit(group, tasks, Lane.BULK)
        self._open.add(ticket)
        try:
            answers: list[Answer] = await ticket.done()
        finally:
            self._open.discard(ticket)
            self._batcher.withdraw(ticket)
        for answer in answers:
            if isinstance(answer, PreannotationError):
                raise answer
            if isinstance(answer, bytes):
                self._failed_alone = (Exception, 0)
        return answers

    async def _try_again(
        self, tasks: list[Task], answers: list[Answer], part: int
    ) -> None:
        """Give tasks that failed in company another call, with less of it."""
        failed = [n for n, answer in enumerate(answers) if _may_be_innocent(answer)]
        for start in range(0, len(failed), part):
            if self._stopped or self._is_broken:
                return
            places = failed[start : start + part]
            found = await self._answers([tasks[n] for n in places], object())
            for place, answer in zip(places, found, strict=True):
                answers[place] = answers[place] if answer is None else answer
            if part == 1 and isinstance(found[0], Exception):
                self._count_alone(found[0])

    def _count_alone(self, error: Exception) -> None:
        kind, times = self._failed_alone
        same = kind is type(error)
        self._failed_alone = (type(error), times + 1 if same else 1)

    async def _call(self, _: object, tasks: list[Task]) -> Sequence[Slot | Exception]:
        return await self._engine.predict(tasks)


class LocalEngine:
    """A model in this process, made and called as a server does it.

    Args:
        source: where the user's class comes from.
        state: says which version of a project serves.
        media: given to the model.
        weights: where those of versions are; None where there are no versions.
        threads: calls of ``predict`` at a time.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        media: Media,
        weights: Weights | None = None,
        threads: int = 1,
    ) -> None:
        any_task = AnnotationStore(state).any_task
        pool = ModelPool(source, state, media, weights, any_task, max_objects=threads)
        self._follower = VersionFollower(pool, state, JobStore(state).complain)
        self._predictor = Predictor(pool, state)
        self._device = CallThreads(threads, "predict")
        self._group: Group | None = None
        # One more than there are threads: the next call waits in the thread's queue.
        self.calls = threads + 1

    async def prepare(self, project: Project, label_config: str) -> str:
        """Make the model of the version that serves now."""
        await self._device.run(self._follower.follow)
        prepare = self._predictor.prepare
        version = await self._device.run(prepare, project, label_config)
        self._group = Group.of(project, label_config, {}, None)
        return version

    async def predict(self, tasks: list[Task]) -> Sequence[Slot | Exception]:
        """Call the model's ``predict`` once."""
        assert self._group is not None, "prepare() comes first"  # noqa: S101
        predict = self._predictor.predict
        try:
            return await self._device.run(predict, self._group, tasks)
        except DeviceLost as error:
            raise PreannotationError(f"{error}; run the same command again") from error

    async def close(self) -> None:
        """Let the threads end; one that is stuck is left alone."""
        self._device.close()


def snapshot(state: State, project: Project) -> MemoryState:
    """What a model sees of a project, to be changed by nobody else.

    A model sets its values and its label config while it is made; with tasks out of a
    file, those are no business of the project's servers.
    """
    copied = MemoryState()
    identity = identify(project)
    pairs = [
        *state.scan(below("value", *identity)),
        *state.scan(below("version", *identity)),
    ]
    pointer = pointer_key(project)
    if (found := state.get(pointer)) is not None:
        pairs.append((pointer, found))

    def copy(change: Change) -> None:
        for key, value in pairs:
            change.put(key, value)

    copied.change(copy)
    return copied


def _may_be_innocent(answer: Answer) -> bool:
    return isinstance(answer, Exception) and not isinstance(answer, _OWN_FAULTS)
