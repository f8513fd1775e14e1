"""A page of results: printed as tables, and written after each round."""

from __future__ import annotations

import argparse
import dataclasses
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from benchmarks.common import machine
from benchmarks.common.samples import UNMEASURED, Goal, Samples

NOTES = "<!-- Notes, written by hand. A new run keeps everything below this line. -->"


@dataclass(frozen=True)
class Grid:
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
    """Format with three significant digits, or all digits above 100."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "none answered"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@dataclass
class Page:
    """The results of a run.

    Attributes:
        title: its heading.
        described: the machine that measured, by title.
        how: how the numbers were measured.
        goals: the rows of the first table.
        columns: the heading of each series, in their order.
        console: prints progress and tables.
        out: the file to write, if any.
        notes: the page whose handwritten notes are kept.
        samples: the numbers.
        failures: what failed, one line each.
        busy: how busy the machine was with other work, before each step.
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
    def step(self, what: str) -> Iterator[None]:
        """Measure one thing; if it fails, note that and let the run continue."""
        self.console.print(what, style="dim")
        self.busy.append(machine.busy_share())
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the other steps still count
            self.fail(f"{what}: {type(error).__name__}: {error}")

    def fail(self, line: str) -> None:
        self.failures.append(line)
        self.console.print(line, style="red", markup=False)

    @property
    def is_missed(self) -> bool:
        """Whether a measured goal was missed."""
        return any(g.verdict(g.measure(self.samples)) == "MISS" for g in self.goals)

    # Tables

    def grids(self) -> list[Grid]:
        """The goals and a table for each workload."""
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
        rows = [
            [
                measure,
                *(self.cell(workload, measure, series) for series in self.columns),
            ]
            for measure in self.samples.measures(workload)
        ]
        return Grid(workload, ("measure", *self.columns.values()), rows)

    def cell(self, workload: str, measure: str, series: str) -> str:
        """The median, with the lowest and highest value if they differ."""
        found = self.samples.by_round(workload, measure, series).values()
        middle = number(self.samples.median(workload, measure, series))
        if len(set(found)) < 2:
            return middle
        return f"{middle} ({number(min(found))}-{number(max(found))})"

    def lists(self) -> dict[str, list[str]]:
        """Lists below the tables, by heading."""
        return {"Failures of this run": self.failures}

    # Output

    def show(self) -> None:
        for grid in self.grids():
            measured = [row for row in grid.rows if row[-1] != UNMEASURED]
            dataclasses.replace(grid, rows=measured).draw(self.console)
        self.console.print(
            f"Other load: {machine.describe_load(self.busy)}", markup=False
        )
        for line in (line for lines in self.lists().values() for line in lines):
            self.console.print(line, markup=False)

    def write(self) -> None:
        """Write the results so far, so that an aborted run keeps its rounds."""
        if self.out is None:
            return
        rows = {**self.described, "other load": machine.describe_load(self.busy)}
        parts = [f"# {self.title}\n", *(f"- {key}: {rows[key]}" for key in rows)]
        parts += ["", self.how, "", *(grid.markdown() for grid in self.grids())]
        for heading, lines in self.lists().items():
            if lines:
                parts += [f"## {heading}\n", *(f"- {line}" for line in lines), ""]
        if self.notes is not None and self.notes.exists():
            _, mark, notes = self.notes.read_text().partition(NOTES)
            parts += [mark + notes]
        self.out.write_text("\n".join(parts).rstrip() + "\n")

    def end(self) -> None:
        self.show()
        self.write()
        if self.out is not None:
            self.console.print(f"Written: {self.out}")


def wide_console(columns: int = 150) -> Console:
    """A console as wide as the terminal, or that wide in a pipe."""
    return Console(width=None if sys.stdout.isatty() else columns)


def exit_on_sigterm() -> None:
    """Turn SIGTERM into an exception, so that every server is ended."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def some_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes names from these, separated by commas."""

    def parse(text: str) -> list[str]:
        found = text.split(",")
        unknown = sorted(set(found) - set(choices))
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)} is unknown. Choose from: {', '.join(choices)}"
            )
        return found

    return parse
