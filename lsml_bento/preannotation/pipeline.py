"""Read, predict and write pages of tasks concurrently.

Pages fill batches together. A batch that fails is bisected, so that each task fails for
its own reason only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Generic, Protocol, TypeVar

from lsml_bento.contract import Task
from lsml_bento.errors import MediaError, OutOfMemory, WrongCount
from lsml_bento.preannotation.bisection import Bisection
from lsml_bento.preannotation.engine import Engine
from lsml_bento.preannotation.outcomes import Answer, Outcome, Page, Totals
from lsml_bento.preannotation.selection import PreannotationError
from lsml_bento.prediction.call_threads import CallThreads

log = logging.getLogger(__name__)

_BROKEN_AFTER = 20
"""Tasks in a row that fail alone with the same error before the model is taken to be
broken, and batches are not bisected any more."""

_Page = TypeVar("_Page", bound=Page)
_Taken = TypeVar("_Taken", bound=Page, contravariant=True)
_Pages = asyncio.Queue["tuple[_Page, asyncio.Task[list[Answer]]] | None"]

Check = Callable[[Sequence[Task], Sequence[Answer]], None]
"""Called with the answers of each page before they are written; may raise."""


class Sink(Protocol[_Taken]):
    """Where answers go, page by page, in order."""

    def write(self, page: _Taken, answers: Sequence[Answer]) -> Outcome:
        """Write the answers of a page, one per task.

        Raises:
            PreannotationError: if they cannot be written.
        """


class Pipeline(Generic[_Page]):
    """One pass over pages of tasks. Memory holds a few pages.

    Args:
        batches: predict.
        sink: receives the answers.
        totals: counts them.
        check: may refuse them.

    Attributes:
        stopped: whether ``stop`` was called.
    """

    def __init__(
        self, batches: Batches, sink: Sink[_Page], totals: Totals, check: Check
    ) -> None:
        self._batches = batches
        self._sink = sink
        self._totals = totals
        self._check = check
        self._reader: asyncio.Task[None] | None = None
        self.stopped = False

    async def run(self, pages: Iterator[_Page]) -> None:
        """Predict and write every page.

        Pages that were read before an error are still written if possible.

        Raises:
            LsmlError: if reading, predicting or writing fails.
        """
        reading, writing = CallThreads(1, "read"), CallThreads(1, "write")
        queue: _Pages[_Page] = asyncio.Queue(self._batches.pages_ahead)
        self._reader = asyncio.create_task(self._read(pages, reading, queue))
        try:
            await self._write(queue, writing)
            with suppress(asyncio.CancelledError) if self.stopped else nullcontext():
                await self._reader
        finally:
            self._reader.cancel()
            while not queue.empty():
                if (entry := queue.get_nowait()) is not None:
                    entry[1].cancel()
            reading.close()
            writing.close()

    def stop(self) -> None:
        """Read no more pages, and end after the batches that are being predicted."""
        self.stopped = True
        self._batches.stop()
        if self._reader is not None:
            self._reader.cancel()

    async def _read(
        self, pages: Iterator[_Page], reading: CallThreads, queue: _Pages[_Page]
    ) -> None:
        try:
            while not self.stopped:
                page = await reading.run(next, pages, None)
                if page is None:
                    return
                predicting = asyncio.create_task(self._batches.predict(page.tasks))
                predicting.add_done_callback(_retrieve)
                await queue.put((page, predicting))
        finally:
            await queue.put(None)

    async def _write(self, queue: _Pages[_Page], writing: CallThreads) -> None:
        while (entry := await queue.get()) is not None:
            page, predicting = entry
            answers = await predicting
            outcome = await writing.run(self._write_page, page, answers)
            self._totals.add(outcome, page.at)

    def _write_page(self, page: _Page, answers: list[Answer]) -> Outcome:
        self._check(page.tasks, answers)
        return self._sink.write(page, answers)


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
    """Calls an engine with full batches of tasks.

    Args:
        engine: predicts.
        max_batch_size: the most tasks in one call.
    """

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
        """Drop pages of which no task was taken yet."""
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


def _retrieve(predicting: asyncio.Task[list[Answer]]) -> None:
    """Keep asyncio from reporting errors of pages behind a page that failed."""
    if not predicting.cancelled():
        predicting.exception()
