"""Read, predict and write pages of tasks concurrently, and count the outcomes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from lsml_bento.contract import Task
from lsml_bento.preannotation.engine import Answer, Batches
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.failures import for_client

SHOWN = 20
"""Failures kept in memory and listed at the end; a file lists all of them."""


class Failure(NamedTuple):
    """A task that was not predicted, or an entry that is not a task.

    Attributes:
        where: e.g. ``"line 17"`` of a file; empty for a task of a project.
        task_id: None if the task has none.
        reason: one sentence.
    """

    where: str
    task_id: int | str | None
    reason: str

    def __str__(self) -> str:
        task = "" if self.task_id is None else f"task {self.task_id!r:.50}"
        named = f"{self.where} ({task})" if self.where and task else self.where or task
        return f"{named}: {self.reason}"


@dataclass(frozen=True)
class Page:
    """Tasks that are read, predicted and written together.

    Attributes:
        tasks: the input of ``predict``.
        at: the position of the page's end, in the unit of the run's total.
        unread: entries among them that are not tasks.
    """

    tasks: list[Task]
    at: int
    unread: Sequence[Failure] = ()


@dataclass
class Outcome:
    """What became of the tasks of one page.

    Attributes:
        predicted: tasks with an answer.
        empty: predicted tasks for which the model returned no prediction.
        skipped: tasks that already had a prediction of the model version.
        failures: in the order of the tasks.
    """

    predicted: int = 0
    empty: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add_prediction(self, *, is_empty: bool) -> None:
        """Count a task that was predicted."""
        self.predicted += 1
        self.empty += is_empty

    def add_failure(self, where: str, task: Task, error: Exception) -> Failure:
        """Count a task that failed."""
        reason = " ".join(str(for_client(error)).split())
        failure = Failure(where, task.get("id"), reason)
        self.failures.append(failure)
        return failure


@dataclass
class Totals:
    """What became of the tasks of a run.

    Attributes:
        failures: the first ``SHOWN``.
        at: how far the run is, in the unit of its total.
    """

    predicted: int = 0
    empty: int = 0
    skipped: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    at: int = 0

    @property
    def tasks(self) -> int:
        """Tasks that were tried."""
        return self.predicted + self.failed

    def add(self, outcome: Outcome, at: int) -> None:
        """Add the outcome of a page that ends at a position."""
        self.predicted += outcome.predicted
        self.empty += outcome.empty
        self.skipped += outcome.skipped
        self.failed += len(outcome.failures)
        self.failures += outcome.failures[: SHOWN - len(self.failures)]
        self.at = max(self.at, at)


def predictions_of(answer: bytes, version: str) -> list[dict[str, Any]]:
    """Return the predictions in an answer, all labelled with this model version.

    A version that the model wrote into a prediction is replaced: the run looks for its
    predictions by ``version``.
    """
    entry = json.loads(answer)
    found = entry if isinstance(entry, list) else [entry]
    return [
        {**one, "model_version": version}
        for one in found
        if isinstance(one, dict) and "result" in one
    ]


_Page = TypeVar("_Page", bound=Page)
_Taken = TypeVar("_Taken", bound=Page, contravariant=True)
_Pages = asyncio.Queue["tuple[_Page, asyncio.Task[list[Answer]]] | None"]

Check = Callable[[Sequence[Task], Sequence[Answer]], None]
"""Called with the answers of each page before they are written."""


class Sink(Protocol[_Taken]):
    """Where answers go, page by page, in order."""

    def write(self, page: _Taken, answers: Sequence[Answer]) -> Outcome:
        """Write the answers of a page, one per task.

        Raises:
            PreannotationError: if they cannot be written.
        """


class Pipeline(Generic[_Page]):
    """One pass over pages of tasks. Memory holds a few pages."""

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
        """Predict and write every page; after an error, those read before it."""
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


def _retrieve(predicting: asyncio.Task[list[Answer]]) -> None:
    """Keep asyncio from reporting errors of pages behind a page that failed."""
    if not predicting.cancelled():
        predicting.exception()
