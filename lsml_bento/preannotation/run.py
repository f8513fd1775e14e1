"""One run of ``preannotate``: its options, its report, and how a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lsml_bento.contract import Project, Task
from lsml_bento.diagnostics.results import Findings, check_prediction
from lsml_bento.diagnostics.results import predictions_of as slot_predictions
from lsml_bento.model.label_config import parse_label_config
from lsml_bento.preannotation.durable_files import locked
from lsml_bento.preannotation.engine import Answer, Batches, Engine
from lsml_bento.preannotation.pipeline import (
    SHOWN,
    Failure,
    Outcome,
    Page,
    Pipeline,
    Sink,
    Totals,
    predictions_of,
)
from lsml_bento.preannotation.prediction_file import (
    FileCheckpoint,
    Paths,
    PredictionFile,
    first_failures,
    has_failed_tasks,
)
from lsml_bento.preannotation.retry import Retry
from lsml_bento.preannotation.task_file import Position, TaskFile
from lsml_bento.prediction.call_threads import CallThreads

log = logging.getLogger(__name__)

_CHECKED_FIRST = 1000
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Page = TypeVar("_Page", bound=Page)
_Answer = TypeVar("_Answer")

ShowProgress = Callable[[Totals, int | None], Awaitable[None]]
"""Shows how far the totals are, of a total that may be unknown, until cancelled."""


@dataclass(frozen=True)
class Options:
    """What to predict and where to write it. Paths are absolute."""

    target: str | None = None
    backend: str | None = None
    project: str | None = None
    tasks: Path | None = None
    label_config: Path | None = None
    output: Path | None = None
    filters: dict[str, Any] | None = None
    view: int | None = None
    only_missing: bool = False
    limit: int | None = None
    dry_run: bool = False
    overwrite: bool = False
    watch_s: float | None = None
    batch_size: int | None = None


@dataclass
class Report:
    """The result of a run.

    Attributes:
        seconds: the run took, once the model was created.
        failed: tasks without a prediction, including those of earlier runs.
        failures: the first of them.
        failed_file: lists all of them.
        was_complete: whether an earlier run had read all tasks.
        check: how well the predictions fit the label config.
    """

    model_version: str = ""
    totals: Totals = field(default_factory=Totals)
    seconds: float = 0.0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    failed_file: Path | None = None
    was_complete: bool = False
    check: LabelConfigCheck | None = None


class LabelConfigCheck:
    """Checks whether predictions fit the label config, and never stops a run.

    Label Studio hides or refuses regions that do not. The first predictions are all
    checked. While these fit, one of each later page is.

    Attributes:
        checked: predicted tasks with regions that were checked.
        misfits: those with a region that Label Studio hides or refuses.
        examples: what is wrong with the first of these.
        warned: those with a region that Label Studio may show in an odd place.
    """

    def __init__(self, label_config: str) -> None:
        self.checked = self.misfits = self.warned = 0
        self.examples: list[str] = []
        self._label_config = label_config

    def __call__(self, tasks: Sequence[Task], answers: Sequence[Answer]) -> None:
        """Check a page."""
        only_one = self.checked >= _CHECKED_FIRST and not self.misfits + self.warned
        for task, answer in zip(tasks, answers, strict=True):
            if isinstance(answer, bytes) and self._check(task, answer) and only_one:
                return

    @cached_property
    def _interface(self) -> Any:
        return parse_label_config(self._label_config)

    def _check(self, task: Task, answer: bytes) -> bool:
        """Check the answer for a task; return whether it has regions."""
        found = predictions_of(answer, "")
        if not any(one["result"] for one in found):
            return False
        findings = Findings()
        place = f"task {task.get('id')!r:.50}"
        for one in slot_predictions(answer, place, findings):
            check_prediction(self._interface, one, task, place, findings)
        self.checked += 1
        by_severity = {one.severity: one.message for one in reversed(findings.all())}
        if message := by_severity.get("error"):
            if not self.misfits:
                log.warning("Label Studio will not show a prediction: %s", message)
            self.misfits += 1
            self.examples += [message][: SHOWN - len(self.examples)]
        elif message := by_severity.get("warning"):
            if not self.warned:
                log.warning("A prediction may be wrong: %s", message)
            self.warned += 1
        return True


class DryRun:
    """A sink that counts answers and writes none."""

    def __init__(self, version: str) -> None:
        self._version = version

    def write(self, page: Page, answers: Sequence[Answer]) -> Outcome:
        outcome = Outcome(failures=list(page.unread))
        for task, answer in zip(page.tasks, answers, strict=True):
            if isinstance(answer, Exception):
                outcome.add_failure("", task, answer)
            elif answer is not None:
                is_empty = not predictions_of(answer, self._version)
                outcome.add_prediction(is_empty=is_empty)
        return outcome


class Run:
    """One run: its engine, its progress, and its end.

    The first SIGINT or SIGTERM lets it finish and write the batches that are being
    predicted, the second ends the process.

    Args:
        home: directory for checkpoints of projects.
        show: shows the progress.
        say: prints a message.

    Attributes:
        report: filled during the run.
        signal: that ends the run; None before one came.
    """

    def __init__(
        self,
        options: Options,
        batch_size: int,
        home: Path,
        show: ShowProgress,
        say: Callable[[str], object],
    ) -> None:
        self.options = options
        self.batch_size = batch_size
        self.home = home
        self.say = say
        self.report = Report()
        self.signal: int | None = None
        self._show = show
        self._signalled = asyncio.Event()
        self._stops: list[Callable[[], object]] = []
        self._handles_signals = False
        self._thread = CallThreads(1, "label-studio")

    @contextlib.asynccontextmanager
    async def batches(
        self, engine: Engine, project: Project, label_config: str
    ) -> AsyncIterator[Batches]:
        """Prepare an engine, and close it at the end."""
        batches = Batches(engine, self.batch_size)
        try:
            preparing = engine.prepare(project, label_config)
            self.report.model_version = await self.until_signal(preparing)
            yield batches
        finally:
            await batches.close()

    async def predict(
        self,
        batches: Batches,
        sink: Sink[_Page],
        check: LabelConfigCheck,
        pages: Iterator[_Page],
        total: int | None,
    ) -> None:
        """Predict and write pages until they end or a signal comes.

        ``total`` is the last page's ``at``, None if unknown.
        """
        self.report.check = check
        pipeline = Pipeline(batches, sink, self.report.totals, check)
        started = time.monotonic()
        showing = asyncio.ensure_future(self._show(self.report.totals, total))
        try:
            with self.on_signal(pipeline.stop):
                await pipeline.run(pages)
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
            self.report.seconds += time.monotonic() - started

    async def predict_only(
        self,
        batches: Batches,
        check: LabelConfigCheck,
        pages: Iterator[Page],
        total: int | None,
    ) -> None:
        """Predict pages and write nothing."""
        sink = DryRun(self.report.model_version)
        await self.predict(batches, sink, check, pages, total)
        self.report.failed = self.report.totals.failed
        self.report.failures = self.report.totals.failures

    # Signals

    async def in_thread(
        self, function: Callable[..., _Answer], *arguments: Any
    ) -> _Answer:
        """Call a function that may wait for Label Studio.

        Raises:
            asyncio.CancelledError: at a signal. The call is not waited for.
        """
        return await self.until_signal(self._thread.run(function, *arguments))

    async def until_signal(self, call: Awaitable[_Answer]) -> _Answer:
        """Await a call that may take long.

        Raises:
            asyncio.CancelledError: at a signal.
        """
        waiting = asyncio.ensure_future(call)
        with self.on_signal(waiting.cancel):
            return await waiting

    async def wait_for_signal(self, seconds: float) -> bool:
        """Wait for a signal, at most so long; return whether one came."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._signalled.wait(), seconds)
        return self._signalled.is_set()

    @contextlib.contextmanager
    def on_signal(self, stop: Callable[[], object]) -> Iterator[None]:
        """Call ``stop`` at the first signal that comes in this block or came before.

        Before the first such block, signals end the process.
        """
        if not self._handles_signals:
            self._handles_signals = True
            for number in _SIGNALS:
                with contextlib.suppress(NotImplementedError):  # on Windows
                    loop = asyncio.get_running_loop()
                    loop.add_signal_handler(number, self._handle, number)
        self._stops.append(stop)
        try:
            if self.signal is not None:
                stop()
            yield
        finally:
            self._stops.remove(stop)

    def _handle(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        for handled in _SIGNALS:
            loop.remove_signal_handler(handled)
            signal.signal(handled, signal.SIG_DFL)
        self.signal = number
        self._signalled.set()
        self.say("Finishing the current batches. Press Ctrl-C again to stop now.")
        for stop in self._stops:
            stop()


# A file


async def predict_file(
    run: Run, tasks: TaskFile, engine: Engine, project: Project, label_config: str
) -> None:
    """Predict a file's tasks into another file, or only predict them."""
    options = run.options
    check = LabelConfigCheck(label_config)
    async with run.batches(engine, project, label_config) as batches:
        if options.output is None:
            pages = tasks.pages(Position(), run.batch_size, options.limit)
            await run.predict_only(batches, check, pages, tasks.size)
            return
        start = FileCheckpoint(
            tasks=tasks.digest(),
            label_config=hashlib.sha256(label_config.encode()).hexdigest(),
            model_version=run.report.model_version,
        )
        with locked(Paths.of(options.output).checkpoint):
            output = PredictionFile(
                options.output, start, tasks.unit, overwrite=options.overwrite
            )
            await _fill(run, batches, check, tasks, output)


async def _fill(
    run: Run,
    batches: Batches,
    check: LabelConfigCheck,
    tasks: TaskFile,
    output: PredictionFile,
) -> None:
    """Continue an output, or retry the tasks that failed in a complete one."""
    report, before = run.report, output.checkpoint
    size, limit = run.batch_size, run.options.limit
    left = None if limit is None else max(0, limit - before.done)
    report.was_complete = before.ended or left == 0
    now = before
    if not report.was_complete:
        report.totals.at = before.offset
        with output:
            pages = tasks.pages(output.position, size, left)
            await run.predict(batches, output, check, pages, tasks.size)
            output.ended = tasks.ended
        now = output.checkpoint
    elif has_failed_tasks(output.paths.failed):
        with Retry(output.paths.output, before) as retry:
            failed = retry.pages(size)
            await run.predict(batches, retry, check, failed, before.failures)
        now = retry.checkpoint
    report.failed = now.failures
    if now.failures:
        report.failed_file = output.paths.failed
        report.failures = first_failures(output.paths.failed)
