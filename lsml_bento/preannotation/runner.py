"""Reading, predicting and writing side by side, a few pages of tasks at a time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Generic, Protocol, TypeVar

from lsml_bento.contract import Task
from lsml_bento.diagnostics.check import check_results
from lsml_bento.preannotation.engine import Inference
from lsml_bento.preannotation.selection import (
    Answer,
    PreannotationError,
    predictions_of,
)
from lsml_bento.preannotation.tally import Outcome, Page, Tally
from lsml_bento.prediction.call_threads import CallThreads

log = logging.getLogger(__name__)

_Page = TypeVar("_Page", bound=Page)
_Taken = TypeVar("_Taken", bound=Page, contravariant=True)
_Line = asyncio.Queue["tuple[_Page, asyncio.Task[list[Answer]]] | None"]

Look = Callable[[Sequence[Task], Sequence[Answer]], None]
"""Is shown the answers of each page before they are written."""


class Sink(Protocol[_Taken]):
    """Where answers go, page by page in order."""

    def write(self, page: _Taken, answers: Sequence[Answer]) -> Outcome:
        """Take the answers of a page, one per task.

        Raises:
            PreannotationError: if they can not be written.
        """


class NotFilled(PreannotationError):
    """Predictions that the label config has no place for."""


class Bulk(Generic[_Page]):
    """One run over pages of tasks. Memory holds a few pages, however many there are.

    Args:
        inference: predicts.
        sink: takes the answers.
        tally: counts them.
        look: may refuse them.

    Attributes:
        stopped: whether ``stop`` was called.
    """

    def __init__(
        self, inference: Inference, sink: Sink[_Page], tally: Tally, look: Look
    ) -> None:
        self._inference = inference
        self._sink = sink
        self._tally = tally
        self._look = look
        self._reader: asyncio.Task[None] | None = None
        self.stopped = False

    async def run(self, pages: Iterator[_Page]) -> None:
        """Predict every page, and write it.

        What was read before an error is written all the same, unless it can not be.

        Raises:
            LsmlError: if reading, predicting or writing fails for good.
        """
        reading, writing = CallThreads(1, "read"), CallThreads(1, "write")
        line: _Line[_Page] = asyncio.Queue(self._inference.pages_ahead)
        self._reader = asyncio.create_task(self._read(pages, reading, line))
        try:
            await self._write(line, writing)
            with suppress(asyncio.CancelledError) if self.stopped else nullcontext():
                await self._reader
        finally:
            self._reader.cancel()
            while not line.empty():
                if (entry := line.get_nowait()) is not None:
                    entry[1].cancel()
            reading.close()
            writing.close()

    def stop(self) -> None:
        """Read no more, and let the run end with what is being predicted now."""
        self.stopped = True
        self._inference.stop()
        if self._reader is not None:
            self._reader.cancel()

    async def _read(
        self, pages: Iterator[_Page], reading: CallThreads, line: _Line[_Page]
    ) -> None:
        try:
            while not self.stopped:
                page = await reading.run(next, pages, None)
                if page is None:
                    return
                predicting = asyncio.create_task(self._inference.predict(page.tasks))
                predicting.add_done_callback(_retrieve)
                await line.put((page, predicting))
        finally:
            await line.put(None)

    async def _write(self, line: _Line[_Page], writing: CallThreads) -> None:
        while (entry := await line.get()) is not None:
            page, predicting = entry
            answers = await predicting
            outcome = await writing.run(self._take, page, answers)
            self._tally.add(outcome, page.at)

    def _take(self, page: _Page, answers: list[Answer]) -> Outcome:
        self._look(page.tasks, answers)
        return self._sink.write(page, answers)


class DryRun:
    """Counts answers, and writes none.

    Args:
        version: the model version.
    """

    def __init__(self, version: str) -> None:
        self._version = version

    def write(self, page: Page, answers: Sequence[Answer]) -> Outcome:
        """Count the answers of a page."""
        outcome = Outcome(failures=list(page.unread))
        for task, answer in zip(page.tasks, answers, strict=True):
            if isinstance(answer, Exception):
                outcome.failed("", task, answer)
            elif answer is not None:
                outcome.answered(found=bool(predictions_of(answer, self._version)))
        return outcome


class FirstLook:
    """Whether the model fills the label config, judged by its first predictions.

    Label Studio hides or refuses regions that its label config has no place for. If
    that is so for every task of the first page that has regions, it is so for all.

    Args:
        label_config: the XML.
    """

    def __init__(self, label_config: str) -> None:
        self._label_config = label_config
        self._is_done = False

    def __call__(self, tasks: Sequence[Task], answers: Sequence[Answer]) -> None:
        """Judge a page, until one had regions.

        Raises:
            NotFilled: with the first reason, if every task's prediction has an error.
        """
        if self._is_done:
            return
        faults = [
            self._fault(task, answer)
            for task, answer in zip(tasks, answers, strict=True)
            if isinstance(answer, bytes) and _has_regions(answer)
        ]
        found = [fault for fault in faults if fault is not None]
        self._is_done = bool(faults)
        if found and len(found) == len(faults):
            raise NotFilled(
                "the model does not fill the label config, and no such prediction was "
                f"written: {found[0]}; `lsml-bento check` tries the two together"
            )
        if found:
            log.warning("a prediction will not be shown: %s", found[0])

    def _fault(self, task: Task, slot: bytes) -> str | None:
        found = check_results(self._label_config, [json.loads(slot)], [task])
        sentences = [f.sentence for f in found if f.severity == "error"]
        if not sentences:
            return None
        return f"task {task.get('id')!r:.50}" + sentences[0].removeprefix("task 1")


def _has_regions(slot: bytes) -> bool:
    return any(prediction["result"] for prediction in predictions_of(slot, ""))


def _retrieve(predicting: asyncio.Task[list[Answer]]) -> None:
    """Keep asyncio from reporting what pages behind a failed one met."""
    if not predicting.cancelled():
        predicting.exception()
