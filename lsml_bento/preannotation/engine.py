"""What predicts in a run: the engine, and the batches that it is called with.

Pages fill batches together. A batch that fails is bisected, so that each task fails for
its own reason only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from lsml_bento.contract import Project, Task
from lsml_bento.errors import DeviceLost, MediaError, OutOfMemory, WrongCount
from lsml_bento.model.invoke import Slot
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import Media
from lsml_bento.preannotation.bisection import Bisection
from lsml_bento.preannotation.selection import PreannotationError
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.predictor import Group, Predictor
from lsml_bento.prediction.version_follower import NoteOnJob, VersionFollower
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import Change, State, below, identify
from lsml_bento.versions.registry import pointer_key
from lsml_bento.versions.weights import Weights

log = logging.getLogger(__name__)

_BROKEN_AFTER = 20
"""Tasks in a row that fail alone with the same error before the model is taken to be
broken, and batches are not bisected any more."""

Answer = bytes | Exception | None
"""A prediction as JSON, the error of a task, or None for a task that was not reached
before the run was stopped."""


class Engine(Protocol):
    """A model in this process, or a running backend."""

    calls: int
    """Concurrent calls that keep it busy."""

    async def prepare(self, project: Project, label_config: str) -> str:
        """Get ready for a project; return the model version that predicts.

        Raises:
            LsmlError: if the engine cannot predict.
        """

    async def predict(self, tasks: list[Task]) -> Sequence[Slot | Exception]:
        """Return an answer or an error for each task.

        Raises:
            PreannotationError: if the run cannot continue.
            Exception: if the whole batch failed; parts of it may succeed.
        """

    async def close(self) -> None:
        """Close threads and connections."""


class LocalEngine:
    """A model in this process, created and called as a server does it.

    Args:
        state: names the active version of a project.
        weights: of versions; None if there are no versions.
        any_task: returns a task of a project, to test a version with that was made for
            another label config.
        note_on_job: notes on a version's job that the version does not load; None if
            the active version does not change during the run.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        media: Media,
        weights: Weights | None = None,
        threads: int = 1,
        any_task: Callable[[Project], Task | None] = lambda _: None,
        note_on_job: NoteOnJob | None = None,
    ) -> None:
        pool = ModelPool(source, state, media, weights, any_task, max_objects=threads)
        self._follower = note_on_job and VersionFollower(pool, state, note_on_job)
        self._predictor = Predictor(pool, state)
        self._threads = CallThreads(threads, "predict")
        self._group: Group | None = None
        # One more than there are threads, so that no thread waits for its next call.
        self.calls = threads + 1

    async def prepare(self, project: Project, label_config: str) -> str:
        """Create the model object of the active version."""
        if self._follower is not None:
            await self._threads.run(self._follower.follow)
        prepare = self._predictor.prepare
        version = await self._threads.run(prepare, project, label_config)
        self._group = Group.for_request(project, label_config, {}, None)
        return version

    async def predict(self, tasks: list[Task]) -> Sequence[Slot | Exception]:
        """Call the model's ``predict`` once."""
        assert self._group is not None, "call prepare() first"  # noqa: S101
        predict = self._predictor.predict
        try:
            return await self._threads.run(predict, self._group, tasks)
        except DeviceLost as error:
            raise PreannotationError(f"{error}; run the same command again") from error

    async def close(self) -> None:
        """End the threads after their calls, without waiting for them."""
        self._threads.close()


class _Waiting:
    """A page whose answers are being collected."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks = tasks
        self.answers: list[Answer] = [None] * len(tasks)
        self.taken = 0
        self.left = len(tasks)
        self.done = asyncio.Event()

    def put(self, index: int, answer: Answer) -> None:
        self.answers[index] = answer
        self.left -= 1
        if not self.left:
            self.done.set()


class Batches:
    """Calls an engine with full batches of tasks."""

    def __init__(self, engine: Engine, max_batch_size: int) -> None:
        self._engine = engine
        self._limit = max_batch_size
        self._queue: deque[_Waiting] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._last_failure: type[Exception] | None = None
        self._failed_alone = 0

    @property
    def pages_ahead(self) -> int:
        """Pages to read ahead, so that no call waits for the reader."""
        return self._engine.calls + 2

    async def predict(self, tasks: list[Task]) -> list[Answer]:
        """Return an answer per task; None for tasks not reached before ``stop``.

        Raises:
            PreannotationError: if the run cannot continue.
        """
        if self._stopped or not tasks:
            return [None] * len(tasks)
        page = _Waiting(tasks)
        self._queue.append(page)
        self._start_worker()
        try:
            await page.done.wait()
        finally:
            if page in self._queue:
                self._queue.remove(page)
        for answer in page.answers:
            if isinstance(answer, PreannotationError):
                raise answer
        return page.answers

    def stop(self) -> None:
        """Drop the pages that no worker has started."""
        self._stopped = True
        for page in [page for page in self._queue if not page.taken]:
            self._queue.remove(page)
            page.done.set()

    async def close(self) -> None:
        """Wait for the calls that run, and close the engine."""
        self.stop()
        if self._workers:
            await asyncio.wait(self._workers)
        await self._engine.close()

    def _start_worker(self) -> None:
        """Start another worker if the engine takes one more call.

        It takes its batch when it first runs, after others have queued their pages.
        """
        if self._queue and len(self._workers) < self._engine.calls:
            self._workers.add(asyncio.create_task(self._work()))

    async def _work(self) -> None:
        try:
            while batch := self._take():
                self._start_worker()
                tasks = [page.tasks[n] for page, n in batch]
                answers = await self._call(tasks)
                if isinstance(answers, Exception):
                    answers = await self._bisect(tasks, answers)
                for (page, n), answer in zip(batch, answers, strict=True):
                    page.put(n, answer)
        finally:
            self._workers.discard(asyncio.current_task())

    def _take(self) -> list[tuple[_Waiting, int]]:
        """Take the next batch from the pages that wait."""
        batch: list[tuple[_Waiting, int]] = []
        while self._queue and len(batch) < self._limit:
            page = self._queue[0]
            start, most = page.taken, page.taken + self._limit - len(batch)
            page.taken = min(most, len(page.tasks))
            batch += [(page, n) for n in range(start, page.taken)]
            if page.taken == len(page.tasks):
                self._queue.popleft()
        return batch

    async def _bisect(self, tasks: list[Task], error: Exception) -> list[Answer]:
        """Predict halves of a batch that failed, until single tasks fail."""
        answers: list[Answer] = []
        parts = Bisection([tasks], self._limit)
        for part in parts:
            is_whole = len(part) == len(tasks)
            found = error if is_whole else await self._call(part)
            parts.limit = self._limit
            if not isinstance(found, Exception):
                answers += found
            elif len(part) > 1 and self._may_be_one_task(found):
                parts.halve(part)
            else:
                self._count(part, found)
                answers += [found] * len(part)
        return answers

    async def _call(self, tasks: list[Task]) -> Sequence[Answer] | Exception:
        try:
            answers = await self._engine.predict(tasks)
            if len(answers) != len(tasks):
                raise WrongCount(len(tasks), len(answers))
        except (OutOfMemory, WrongCount) as error:
            limit = len(tasks) // 2 if isinstance(error, OutOfMemory) else 1
            if 0 < limit < self._limit:
                self._limit = limit
                log.warning("Batch size reduced to %d: %s", limit, error)
            return error
        except Exception as error:  # noqa: BLE001 - user code raises anything
            return error
        if any(isinstance(answer, bytes) for answer in answers):
            self._failed_alone = 0
        return answers

    def _may_be_one_task(self, error: Exception) -> bool:
        """Whether smaller parts of a failed batch are worth a call."""
        is_over = self._stopped or self._failed_alone >= _BROKEN_AFTER
        return not is_over and not isinstance(error, PreannotationError)

    def _count(self, part: list[Task], error: Exception) -> None:
        """Count tasks that fail alone, in a row and alike."""
        if len(part) > 1 or isinstance(error, MediaError):
            return
        is_alike = type(error) is self._last_failure
        self._failed_alone = self._failed_alone + 1 if is_alike else 1
        self._last_failure = type(error)


def snapshot(state: State, project: Project) -> MemoryState:
    """Copy a project's state, so that a run over a file does not change the original.

    A model writes values and its label config while it is created.
    """
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

    copied = MemoryState()
    copied.change(copy)
    return copied
