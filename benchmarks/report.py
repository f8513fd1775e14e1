"""The tables: on the terminal and in results.md."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import noise
from benchmarks.arms import ARMS
from benchmarks.goals import GOALS, UNMEASURED
from benchmarks.samples import LIMIT, OURS, Samples

_NOTES = Path(__file__).with_name("notes.md")
_TITLES = {LIMIT: "model alone"} | {arm.name: arm.title for arm in ARMS}
_HOW = """\
Every arm is started afresh for each workload and round and is alone while measured; the
arms take turns. Load: wrk (closed loop, one thread, on the same machine) with bodies in
the shape that Label Studio was recorded to send, one task each unless said otherwise;
its latencies are corrected for coordinated omission. Numbers are medians over rounds,
`(lowest-highest)` beside them; ratios are medians of each round's own ratio.
The columns "vs" are lsml-bento's number divided by the other's. The model
alone runs in a process of its own with the same torch threads, in batches of 1 beside 1
client, of 8 beside 8 and of 32 beside 64. Answers are checked, each for its own task,
before the clock runs; failed requests have a row only where there were any. The health
route is asked while 64 clients keep the transformer busy, with a torch thread for every
core."""


@dataclass
class Run:
    """All that a run found."""

    machine: dict[str, str]
    samples: Samples = field(default_factory=Samples)
    remarks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)


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


def _goals(samples: Samples) -> Grid:
    rows = []
    for goal in GOALS:
        value = goal.measure(samples)
        shown = f"{number(value)} {goal.unit}".strip()
        rows.append([goal.text, shown, goal.wanted, goal.verdict(value)])
    return Grid("Goals", ("goal", "measured", "wanted", "verdict"), rows)


def _cell(samples: Samples, workload: str, measure: str, arm: str) -> str:
    found = samples.by_round(workload, measure, arm).values()
    middle = number(samples.median(workload, measure, arm))
    if len(found) < 2 or min(found) == max(found):
        return middle
    return f"{middle} ({number(min(found))}-{number(max(found))})"


def _ratio(samples: Samples, workload: str, measure: str, other: str) -> str:
    ratio = samples.median_ratio(workload, measure, OURS, other, measure)
    return "-" if ratio is None else f"{ratio:.2f}"


def _clients(measure: str) -> int:
    """Sorts measures by the number of clients, those without one behind them."""
    count, dash, _ = measure.partition("-client ")
    return int(count) if dash else sys.maxsize


def _all_well(samples: Samples, workload: str, measure: str) -> bool:
    """Whether this counts failures and there were none."""
    return measure.endswith("failed") and not any(
        any(samples.by_round(workload, measure, arm).values()) for arm in _TITLES
    )


def _workload(samples: Samples, workload: str) -> Grid:
    measures = sorted(samples.measures(workload), key=_clients)
    measures = [m for m in measures if not _all_well(samples, workload, m)]
    arms = [
        arm
        for arm in _TITLES
        if any(samples.by_round(workload, m, arm) for m in measures)
    ]
    others = [arm for arm in arms if arm != OURS] if OURS in arms else []
    head = ["measure", *(_TITLES[arm] for arm in arms)]
    head += [f"vs {_TITLES[other]}" for other in others]
    rows = [
        [
            measure,
            *(_cell(samples, workload, measure, arm) for arm in arms),
            *(_ratio(samples, workload, measure, other) for other in others),
        ]
        for measure in measures
    ]
    return Grid(workload, head, rows)


def _grids(run: Run) -> list[Grid]:
    tables = [_workload(run.samples, name) for name in run.samples.workloads()]
    return [_goals(run.samples), *tables]


def show(run: Run, console: Console) -> None:
    """Print everything that was measured."""
    for grid in _grids(run):
        measured = [row for row in grid.rows if row[-1] != UNMEASURED]
        dataclasses.replace(grid, rows=measured).draw(console)
    console.print(f"Other load: {noise.describe(run.busy)}", markup=False)
    for line in (*run.remarks, *run.failures):
        console.print(line, markup=False)


def _list(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"- {line}" for line in lines]
    return [f"## {title}\n", *found, ""] if found else []


def write(run: Run, path: Path) -> None:
    """Write the page, with the hand-written notes.md at its end."""
    described = run.machine | {"other load": noise.describe(run.busy)}
    machine = [f"- {key}: {value}" for key, value in described.items()]
    parts = ["# Benchmark results\n", *machine, "", _HOW, ""]
    parts += [f"- **{arm.title}**: {arm.notes}" for arm in ARMS]
    parts += ["", *(grid.markdown() for grid in _grids(run))]
    parts += _list("Memory under load", run.remarks)
    parts += _list("What failed in this run", run.failures)
    if _NOTES.exists():
        parts.append(_NOTES.read_text())
    path.write_text("\n".join(parts).rstrip() + "\n")
