"""The page of `python -m benchmarks.serving`, results.md: beside the peers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.common.page import Grid, Page
from benchmarks.common.samples import LIMIT, OURS
from benchmarks.goals import GOALS
from benchmarks.serving.candidates import ARMS

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
class Results(Page):
    """The page, with each peer's numbers in a column of its own."""

    remarks: list[str] = field(default_factory=list)

    def table(self, workload: str) -> Grid:
        measures = sorted(self.samples.measures(workload), key=_clients)
        measures = [m for m in measures if not self._all_well(workload, m)]
        arms = [
            arm
            for arm in self.columns
            if any(self.samples.by_round(workload, m, arm) for m in measures)
        ]
        others = [arm for arm in arms if arm != OURS] if OURS in arms else []
        head = ["measure", *(self.columns[arm] for arm in arms)]
        head += [f"vs {self.columns[other]}" for other in others]
        rows = [
            [
                measure,
                *(self.cell(workload, measure, arm) for arm in arms),
                *(self._ratio(workload, measure, other) for other in others),
            ]
            for measure in measures
        ]
        return Grid(workload, head, rows)

    def _all_well(self, workload: str, measure: str) -> bool:
        """Whether this counts failures and there were none."""
        return measure.endswith("failed") and not any(
            any(self.samples.by_round(workload, measure, arm).values())
            for arm in self.columns
        )

    def _ratio(self, workload: str, measure: str, other: str) -> str:
        ratio = self.samples.median_ratio(workload, measure, OURS, other, measure)
        return "-" if ratio is None else f"{ratio:.2f}"

    def lists(self) -> dict[str, list[str]]:
        return {"Memory under load": self.remarks, **super().lists()}


def results(described: dict[str, str], console: Console, out: Path | None) -> Results:
    """The page before anything is measured."""
    arms = "\n".join(f"- **{arm.title}**: {arm.notes}" for arm in ARMS)
    return Results(
        "Benchmark results",
        described,
        f"{_HOW}\n\n{arms}",
        GOALS,
        _TITLES,
        console,
        out,
        _NOTES,
    )


def _clients(measure: str) -> int:
    """Sorts measures by the number of clients, those without one behind them."""
    count, dash, _ = measure.partition("-client ")
    return int(count) if dash else sys.maxsize
