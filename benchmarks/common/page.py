"""A page of numbers: measured in turns, shown as tables, written after each round."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from benchmarks import noise
from benchmarks.common.samples import Samples
from benchmarks.goals import UNMEASURED, Goal


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn."""

    title: str
    head: Sequence[str]
    rows: list[list[str]]

    def draw(self, console: Console) -> None:
        table = Table(title=self.title, title_justify="left")
        for i, name in enumerate(self.head):
            table.add_column(name, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        rule = ["---"] + ["---:"] * (len(self.head) - 1)
        lines = ["| " + " | ".join(row) + " |" for row in (self.head, rule, *self.rows)]
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """Three significant digits, thousands in full."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "none answered"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@dataclass
class Page:
    """All that a run found.

    Attributes:
        title: of the page.
        described: the machine that measured, in rows.
        how: what the numbers mean.
        goals: of the first table.
        columns: the heading of each arm, in their order.
        console: gets progress and tables.
        out: the file to write; a run of parts has none.
        notes: written by hand, the end of the page where there are some.
        samples: the numbers.
        failures: what failed, a line each.
        busy: how busy the machine was with other things, before each turn.
    """

    title: str
    described: Mapping[str, str]
    how: str
    goals: Sequence[Goal]
    columns: Mapping[str, str]
    console: Console
    out: Path | None = None
    notes: Path | None = None
    samples: Samples = field(default_factory=Samples)
    failures: list[str] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """One that fails is noted; the others are still measured."""
        self.console.print(what, style="dim")
        self.busy.append(noise.busy_share())
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a night's numbers depend on it
            self.fail(f"{what}: {type(error).__name__}: {error}")

    def fail(self, line: str) -> None:
        """Note a failure."""
        self.failures.append(line)
        self.console.print(line, style="red", markup=False)

    @property
    def is_missed(self) -> bool:
        """Whether a goal was measured and not reached."""
        return any(g.verdict(g.measure(self.samples)) == "MISS" for g in self.goals)

    # Tables

    def grids(self) -> list[Grid]:
        """The goals, and a table for each workload."""
        tables = [self.table(name) for name in self.samples.workloads()]
        return [self._goals(), *tables]

    def _goals(self) -> Grid:
        rows = []
        for goal in self.goals:
            value = goal.measure(self.samples)
            shown = f"{number(value)} {goal.unit}".strip()
            rows.append([goal.text, shown, goal.wanted, goal.verdict(value)])
        return Grid("Goals", ("goal", "measured", "wanted", "verdict"), rows)

    def table(self, workload: str) -> Grid:
        """A row for each measure."""
        rows = [
            [measure, *(self.cell(workload, measure, arm) for arm in self.columns)]
            for measure in self.samples.measures(workload)
        ]
        return Grid(workload, ("measure", *self.columns.values()), rows)

    def cell(self, workload: str, measure: str, arm: str) -> str:
        """The median, and the lowest and the highest where they differ."""
        found = self.samples.by_round(workload, measure, arm).values()
        middle = number(self.samples.median(workload, measure, arm))
        if len(set(found)) < 2:
            return middle
        return f"{middle} ({number(min(found))}-{number(max(found))})"

    def lists(self) -> dict[str, list[str]]:
        """What is no number, by heading."""
        return {"What failed in this run": self.failures}

    # What a person sees

    def show(self) -> None:
        """Print everything that was measured."""
        for grid in self.grids():
            measured = [row for row in grid.rows if row[-1] != UNMEASURED]
            dataclasses.replace(grid, rows=measured).draw(self.console)
        self.console.print(f"Other load: {noise.describe(self.busy)}", markup=False)
        for line in (line for lines in self.lists().values() for line in lines):
            self.console.print(line, markup=False)

    def write(self) -> None:
        """Write the page as far as it is: a run that is cut keeps what it has."""
        if self.out is None:
            return
        rows = {**self.described, "other load": noise.describe(self.busy)}
        parts = [f"# {self.title}\n", *(f"- {key}: {rows[key]}" for key in rows)]
        parts += ["", self.how, "", *(grid.markdown() for grid in self.grids())]
        for heading, lines in self.lists().items():
            if lines:
                parts += [f"## {heading}\n", *(f"- {line}" for line in lines), ""]
        if self.notes is not None and self.notes.exists():
            parts.append(self.notes.read_text())
        self.out.write_text("\n".join(parts).rstrip() + "\n")

    def end(self) -> None:
        """Show and write it."""
        self.show()
        self.write()
        if self.out is not None:
            self.console.print(f"Written: {self.out}")


def wide_console(columns: int = 150) -> Console:
    """As wide as the terminal, and that wide in a file."""
    return Console(width=None if sys.stdout.isatty() else columns)


def exit_on_sigterm() -> None:
    """End as by an exception, so that every server is ended on the way out."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
