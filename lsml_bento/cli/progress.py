"""The progress of ``preannotate``: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from lsml_bento.cli.text import span
from lsml_bento.preannotation.outcomes import Totals

_UPDATE_EVERY_S = 0.25
_LINE_EVERY_S = 10.0
_WINDOW_S = 30.0


class Meter:
    """Rates over the last half minute.

    Args:
        totals: of the run.
        total: the final value of ``totals.at``; None if unknown.
    """

    def __init__(self, totals: Totals, total: int | None) -> None:
        self.totals = totals
        self.total = total
        self._seen: deque[tuple[float, int, int]] = deque()

    def read(self, now: float) -> str:
        """Return e.g. ``"1,200 tasks, 410 tasks/s, 46 s left, 3 failed"``."""
        totals = self.totals
        self._seen.append((now, totals.tasks, totals.at))
        while now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        then, tasks_then, at_then = self._seen[0]
        passed = max(now - then, 1e-9)
        rate = (totals.tasks - tasks_then) / passed
        parts = [f"{totals.tasks:,} tasks", f"{rate:,.0f} tasks/s"]
        speed = (totals.at - at_then) / passed
        if self.total is not None and speed:
            parts.append(f"{span(max(0, self.total - totals.at) / speed)} left")
        if totals.skipped:
            parts.append(f"{totals.skipped:,} skipped")
        if totals.failed:
            parts.append(f"{totals.failed:,} failed")
        return ", ".join(parts)

    @property
    def share(self) -> float | None:
        """The part that is done, from 0 to 1; None if unknown."""
        return min(1.0, self.totals.at / self.total) if self.total else None


async def show(console: Console, totals: Totals, total: int | None) -> None:
    """Show the progress until cancelled.

    Args:
        console: without a terminal, a line is printed every ten seconds.
        totals: of the run.
        total: the final value of ``totals.at``; None if unknown.
    """
    meter = Meter(totals, total)
    with Progress(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        shown = bar.add_task("", total=None)
        line_at = time.monotonic() + _LINE_EVERY_S
        while True:
            now = time.monotonic()
            text, share = meter.read(now), meter.share
            bar.update(
                shown,
                description=text,
                completed=share or 0.0,
                total=None if share is None else 1.0,
                refresh=True,
            )
            if bar.disable and now >= line_at:
                line_at = now + _LINE_EVERY_S
                percent = "" if share is None else f"{share:.0%}: "
                console.print(percent + text, markup=False, soft_wrap=True)
            await asyncio.sleep(_UPDATE_EVERY_S)
