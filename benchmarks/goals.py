"""The goals, each beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.common.samples import LIMIT, OURS, Samples

UNMEASURED = "not measured"

Measure = Callable[[Samples], float | None]


@dataclass(frozen=True)
class Goal:
    """One number that the service must reach."""

    text: str
    bound: float
    unit: str
    measure: Measure
    at_least: bool = False

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g} {self.unit}".strip()

    def verdict(self, value: float | None) -> str:
        """pass, MISS, or that it was not measured."""
        if value is None:
            return UNMEASURED
        reached = value >= self.bound if self.at_least else value <= self.bound
        return "pass" if reached else "MISS"


def median(workload: str, measure: str) -> Measure:
    """Ours, over the rounds."""
    return lambda samples: samples.median(workload, measure, OURS)


def highest(workload: str, measure: str) -> Measure:
    """Ours, of all rounds."""

    def most(samples: Samples) -> float | None:
        return max(samples.by_round(workload, measure, OURS).values(), default=None)

    return most


def total(workload: str, *measures: str) -> Measure:
    """Ours, of all rounds and measures together."""

    def summed(samples: Samples) -> float | None:
        found = [samples.by_round(workload, measure, OURS) for measure in measures]
        values = [value for each in found for value in each.values()]
        return sum(values) if values else None

    return summed


def _of_limit(workload: str, measure: str, limit: str) -> Measure:
    return lambda samples: samples.median_ratio(workload, measure, OURS, LIMIT, limit)


def _above_limit(workload: str, measure: str, limit: str) -> Measure:
    def difference(samples: Samples) -> float | None:
        ours = samples.median(workload, measure, OURS)
        alone = samples.median(workload, limit, LIMIT)
        return None if ours is None or alone is None else ours - alone

    return difference


def _growth(samples: Samples) -> float | None:
    """What 100 projects add to the memory beyond what one project's requests add."""
    many = samples.median("projects", "100 projects MiB per 1,000 requests", OURS)
    one = samples.median("projects", "1 project MiB per 1,000 requests", OURS)
    return None if many is None or one is None else many - one


def _projects(samples: Samples) -> float | None:
    return samples.median_ratio(
        "projects", "8 projects p50 ms", OURS, OURS, "1 project p50 ms"
    )


def _bulk(workload: str) -> Goal:
    one_post = "500 in one POST tasks/s"
    return Goal(
        f"{workload}: 500 tasks in one POST, of the model alone",
        0.95,
        "",
        _of_limit(workload, one_post, one_post),
        at_least=True,
    )


def _interactive(workload: str) -> Goal:
    return Goal(
        f"{workload}: interactive during 1,000-task POSTs, "
        "p99 in the queue above one batch of 32",
        10,
        "ms",
        _above_limit(workload, "interactive in bulk queue p99 ms", "batch of 32 ms"),
    )


GOALS = (
    Goal(
        "device, 64 clients: of the model alone at batch 32",
        0.85,
        "",
        _of_limit("device", "64-client req/s", "64-client req/s"),
        at_least=True,
    ),
    Goal(
        "device, 64 clients: p99 in batches of 32",
        4,
        "",
        _of_limit("device", "64-client p99 ms", "batch of 32 ms"),
    ),
    Goal(
        "device, 1 client: p50 above the model alone",
        1.5,
        "ms",
        _above_limit("device", "1-client p50 ms", "1-client p50 ms"),
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
        _of_limit("transformer", "8-client req/s", "8-client req/s"),
        at_least=True,
    ),
    _bulk("device"),
    _bulk("transformer"),
    _interactive("device"),
    _interactive("transformer"),
    Goal(
        "/health p99 while predict saturates the cores",
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
    Goal("8 projects in turn: p50 of one project's", 1.1, "", _projects),
    Goal(
        "100 projects in turn: memory per 1,000 requests above one project's",
        0.5,
        "MiB",
        _growth,
    ),
)
