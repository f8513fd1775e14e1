"""How far a run of ``preannotate`` is: a bar on a terminal, else lines."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from lsml_bento.cli.words import span
from lsml_bento.preannotation.tally import Tally

_LOOK_S = 0.25
_LINE_S = 10.0
_WINDOW_S = 30.0


class Meter:
    """Rates over the last half minute.

    Args:
        tally: what is counted.
        total: what ``tally.at`` goes to; None if nobody knows.
    """

    def __init__(self, tally: Tally, total: int | None) -> None:
        self.tally = tally
        self.total = total
        self._seen: deque[tuple[float, int, int]] = deque()

    def read(self, now: float) -> str:
        """``"1,200 tasks, 410 tasks/s, 46 s left, 3 failed"``, at a time in seconds."""
        tally = self.tally
        tasks = tally.predicted + tally.failed
        self._seen.append((now, tasks, tally.at))
        while now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        began, tasks_then, at_then = self._seen[0]
        passed = max(now - began, 1e-9)
        parts = [f"{tasks:,} tasks", f"{(tasks - tasks_then) / passed:,.0f} tasks/s"]
        speed = (tally.at - at_then) / passed
        if self.total is not None and speed:
            parts.append(f"{span(max(0, self.total - tally.at) / speed)} left")
        if tally.skipped:
            parts.append(f"{tally.skipped:,} had one")
        if tally.failed:
            parts.append(f"{tally.failed:,} failed")
        return ", ".join(parts)

    @property
    def share(self) -> float | None:
        """How far it is, from 0 to 1."""
        return min(1.0, self.tally.at / self.total) if self.total else None


async def show(meter: Meter, console: Console) -> None:
    """Show a meter until cancelled."""
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
        due = time.monotonic() + _LINE_S
        while True:
            now = time.monotonic()
            said, share = meter.read(now), meter.share
            bar.update(
                shown,
                description=said,
                completed=share or 0.0,
                total=None if share is None else 1.0,
                refresh=True,
            )
            if bar.disable and now >= due:
                due = now + _LINE_S
                percent = "" if share is None else f"{share:.0%}: "
                console.print(percent + said, markup=False, soft_wrap=True)
            await asyncio.sleep(_LOOK_S)
