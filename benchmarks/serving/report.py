"""The goals of the serving benchmark, and its page, results.md."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.common.page import Grid, Page
from benchmarks.common.samples import (
    ALONE,
    OURS,
    Goal,
    difference,
    median,
    ratio,
)
from benchmarks.serving.candidates import CANDIDATES

RESULTS = Path(__file__).with_name("results.md")
_TITLES = {ALONE: "model alone"} | {one.name: one.title for one in CANDIDATES}
_HOW = """\
Each workload and round starts the server again, and it runs alone while it is measured;
the order of the servers changes from round to round. wrk generates the load on the same
machine: a closed loop in one thread, with bodies in the shape that Label Studio was
recorded to send, one task each unless stated otherwise. wrk corrects latencies for
coordinated omission. Numbers are medians over rounds, followed by `(lowest-highest)`.
Ratios are medians of the ratio in each round. A column "vs" is lsml-bento's number
divided by the other's. The model alone runs in its own process with
the same number of torch threads, in batches of 1 for 1 client, 8 for 8 clients and 32
for 64 clients. Before the clock runs, each answer is checked to belong to its task.
Rows that count failures are shown only if there were any. The health route is measured
while 64 clients keep the transformer busy, with one torch thread per core."""


def _bulk(workload: str) -> Goal:
    one_post = "500 in one POST tasks/s"
    return Goal(
        f"{workload}: 500 tasks in one POST, of the model alone",
        0.95,
        "",
        ratio(workload, one_post),
        at_least=True,
    )


def _interactive(workload: str) -> Goal:
    return Goal(
        f"{workload}: interactive during 1,000-task POSTs, "
        "queue p99 above one batch of 32",
        10,
        "ms",
        difference(
            workload, "interactive in bulk queue p99 ms", minus="batch of 32 ms"
        ),
    )


GOALS = (
    Goal(
        "device, 64 clients: of the model alone at batch 32",
        0.85,
        "",
        ratio("device", "64-client req/s"),
        at_least=True,
    ),
    Goal(
        "device, 64 clients: p99 in batches of 32",
        4,
        "",
        ratio("device", "64-client p99 ms", over="batch of 32 ms"),
    ),
    Goal(
        "device, 1 client: p50 above the model alone",
        1.5,
        "ms",
        difference("device", "1-client p50 ms"),
    ),
    Goal(
        "failed requests, all workloads and rounds",
        0,
        "",
        lambda samples: samples.total("failed", OURS),
    ),
    Goal("trivial, 1 client: p50", 0.7, "ms", median("trivial", "1-client p50 ms")),
    Goal(
        "trivial, 64 clients",
        2500,
        "req/s",
        median("trivial", "64-client req/s"),
        at_least=True,
    ),
    Goal(
        "transformer, 8 clients: of the model alone at batch 8",
        0.7,
        "",
        ratio("transformer", "8-client req/s"),
        at_least=True,
    ),
    _bulk("device"),
    _bulk("transformer"),
    _interactive("device"),
    _interactive("transformer"),
    Goal(
        "/health p99 while predictions saturate the cores",
        50,
        "ms",
        median("health", "p99 ms"),
    ),
    Goal(
        "`lsml-bento start` of a light model to /health",
        4,
        "s",
        median("startup", "start s"),
    ),
    Goal(
        "serving process without torch, idle",
        200,
        "MiB",
        median("memory", "idle serving process MiB"),
    ),
    Goal(
        "8 projects in turn: p50, of one project's",
        1.1,
        "",
        ratio("projects", "8 projects p50 ms", over="1 project p50 ms", series=OURS),
    ),
    Goal(
        "100 projects in turn: memory per 1,000 requests above one project's",
        0.5,
        "MiB",
        difference(
            "projects",
            "100 projects MiB per 1,000 requests",
            minus="1 project MiB per 1,000 requests",
            series=OURS,
        ),
    ),
)


@dataclass
class Results(Page):
    """The page, with a column for each server and each ratio."""

    remarks: list[str] = field(default_factory=list)

    def table(self, workload: str) -> Grid:
        measures = sorted(self.samples.measures(workload), key=_clients)
        measures = [m for m in measures if not self._is_without_failure(workload, m)]
        shown = [
            one
            for one in self.columns
            if any(self.samples.by_round(workload, m, one) for m in measures)
        ]
        others = [one for one in shown if one != OURS] if OURS in shown else []
        head = ["measure", *(self.columns[one] for one in shown)]
        head += [f"vs {self.columns[other]}" for other in others]
        rows = [
            [
                measure,
                *(self.cell(workload, measure, one) for one in shown),
                *(self._ratio(workload, measure, other) for other in others),
            ]
            for measure in measures
        ]
        return Grid(workload, head, rows)

    def _is_without_failure(self, workload: str, measure: str) -> bool:
        """Whether the measure counts failures and there were none."""
        return measure.endswith("failed") and not any(
            any(self.samples.by_round(workload, measure, one).values())
            for one in self.columns
        )

    def _ratio(self, workload: str, measure: str, other: str) -> str:
        ratio = self.samples.median_ratio(workload, measure, OURS, other, measure)
        return "-" if ratio is None else f"{ratio:.2f}"

    def lists(self) -> dict[str, list[str]]:
        return {"Memory under load": self.remarks, **super().lists()}


def results(described: dict[str, str], console: Console, out: Path | None) -> Results:
    """A page without numbers."""
    settings = "\n".join(f"- **{one.title}**: {one.notes}" for one in CANDIDATES)
    return Results(
        "Benchmark results",
        described,
        f"{_HOW}\n\n{settings}",
        GOALS,
        _TITLES,
        console,
        out,
        RESULTS,
    )


def _clients(measure: str) -> int:
    """The number of clients in a measure's name, for sorting; others come last."""
    count, dash, _ = measure.partition("-client ")
    return int(count) if dash else sys.maxsize
