"""What a run of ``preannotate`` is asked for, goes by, and comes to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from lsml_bento.cli.bulk_progress import Meter, show
from lsml_bento.cli.engines import Place
from lsml_bento.cli.interrupting import Interruption
from lsml_bento.contract import Project
from lsml_bento.preannotation.engine import Engine, Inference
from lsml_bento.preannotation.runner import Bulk, DryRun, FirstLook, Sink
from lsml_bento.preannotation.tally import Failure, Page, Tally
from lsml_bento.prediction.call_threads import CallThreads

_Page = TypeVar("_Page", bound=Page)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Asked:
    """What a person asked for; paths are absolute."""

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
    """What came of a run.

    Attributes:
        model_version: that predicted.
        tally: of this run.
        seconds: that it took, once the model was made.
        failed: tasks without a prediction, of earlier runs of the command too.
        failures: the first of them.
        failed_file: where all of them are.
        is_repeated: whether an earlier run of the command had read all tasks.
    """

    model_version: str = ""
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    failed_file: Path | None = None
    is_repeated: bool = False


class BulkRun:
    """One run: its inference, its progress on a console, and its end.

    Args:
        asked: what for.
        place: of the model.
        console: progress goes there.

    Attributes:
        report: filled as the run goes on.
        interruption: by signals.
    """

    def __init__(self, asked: Asked, place: Place, console: Console) -> None:
        self.asked = asked
        self.place = place
        self.report = Report()
        self.interruption = Interruption()
        self._console = console
        self._apart = CallThreads(1, "label-studio")

    @contextlib.asynccontextmanager
    async def inference(
        self, engine: Engine, project: Project, label_config: str
    ) -> AsyncIterator[tuple[Inference, FirstLook]]:
        """What predicts, its model made; and what looks at the first predictions.

        Raises:
            LsmlError: if the model can not be made.
        """
        inference = Inference(engine, self.place.max_batch_size)
        try:
            preparing = engine.prepare(project, label_config)
            self.report.model_version = await self.until_signal(preparing)
            yield inference, FirstLook(label_config)
        finally:
            await inference.close()

    async def go(
        self,
        inference: Inference,
        sink: Sink[_Page],
        look: FirstLook,
        pages: Iterator[_Page],
        total: int | None,
    ) -> None:
        """Predict and write pages, until their end or a signal.

        Args:
            inference: predicts.
            sink: takes the answers.
            look: may refuse them.
            pages: of tasks.
            total: what their ``at`` goes to; None if nobody knows.

        Raises:
            LsmlError: if it can not be done to the end.
        """
        bulk = Bulk(inference, sink, self.report.tally, look)
        began = time.monotonic()
        meter = Meter(self.report.tally, total)
        showing = asyncio.create_task(show(meter, self._console))
        try:
            with self.interruption.stopping(bulk.stop):
                await bulk.run(pages)
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
            self.report.seconds += time.monotonic() - began

    async def rehearse(
        self,
        inference: Inference,
        look: FirstLook,
        pages: Iterator[Page],
        total: int | None,
    ) -> None:
        """Predict, and write nothing."""
        sink = DryRun(self.report.model_version)
        await self.go(inference, sink, look, pages, total)
        self.report.failed = self.report.tally.failed
        self.report.failures = self.report.tally.failures

    async def apart(self, function: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """Call what waits for Label Studio in a thread.

        Raises:
            asyncio.CancelledError: at a signal; the call is left alone.
        """
        return await self.until_signal(self._apart.run(function, *arguments))

    async def until_signal(self, call: Awaitable[_Answer]) -> _Answer:
        """Wait for what may take long.

        Raises:
            asyncio.CancelledError: at a signal.
        """
        waiting = asyncio.ensure_future(call)
        with self.interruption.stopping(waiting.cancel):
            return await waiting
