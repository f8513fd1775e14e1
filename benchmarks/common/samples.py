"""Measured numbers, and the goals that they must reach.

A number belongs to a workload (a table of the page), a measure (a row), a series (a
column, such as lsml-bento or LitServe) and a round.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ALONE = "alone"
OURS = "ours"
UNMEASURED = "not measured"


@dataclass(frozen=True)
class Sample:
    workload: str
    measure: str
    series: str
    round: int
    value: float


class Samples:
    """All samples of a run."""

    def __init__(self) -> None:
        self._all: list[Sample] = []

    def add(
        self, workload: str, series: str, round_: int, found: dict[str, float]
    ) -> None:
        """Keep the numbers that a series had in a round, by measure."""
        self._all += [
            Sample(workload, measure, series, round_, value)
            for measure, value in found.items()
        ]

    def by_round(self, workload: str, measure: str, series: str) -> dict[int, float]:
        """The values of a measure, by round."""
        return {
            s.round: s.value
            for s in self._all
            if (s.workload, s.measure, s.series) == (workload, measure, series)
        }

    def median(self, workload: str, measure: str, series: str) -> float | None:
        """The median over rounds; None if there is no value."""
        found = self.by_round(workload, measure, series)
        return statistics.median(found.values()) if found else None

    def total(self, measure_part: str, series: str) -> float | None:
        """The sum of all measures whose name contains that text."""
        found = [
            s.value
            for s in self._all
            if s.series == series and measure_part in s.measure
        ]
        return sum(found) if found else None

    def median_ratio(
        self, workload: str, measure: str, series: str, over: str, over_measure: str
    ) -> float | None:
        """The median of each round's ratio; rounds differ as the machine does."""
        top = self.by_round(workload, measure, series)
        bottom = self.by_round(workload, over_measure, over)
        ratios = [top[r] / bottom[r] for r in top if bottom.get(r)]
        return statistics.median(ratios) if ratios else None

    def measures(self, workload: str) -> list[str]:
        """The measures of a workload, in the order of their first value."""
        found = [s.measure for s in self._all if s.workload == workload]
        return list(dict.fromkeys(found))

    def workloads(self) -> list[str]:
        """The workloads, in the order of their first value."""
        return list(dict.fromkeys(s.workload for s in self._all))

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.write_text(json.dumps([asdict(s) for s in self._all], indent=1))


# Goals

Measure = Callable[[Samples], float | None]


@dataclass(frozen=True)
class Goal:
    """A bound for a measured number."""

    text: str
    bound: float
    unit: str
    measure: Measure
    at_least: bool = False

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g} {self.unit}".strip()

    def verdict(self, value: float | None) -> str:
        if value is None:
            return UNMEASURED
        reached = value >= self.bound if self.at_least else value <= self.bound
        return "pass" if reached else "MISS"


def median(workload: str, measure: str) -> Measure:
    """The median of our rounds."""
    return lambda samples: samples.median(workload, measure, OURS)


def highest(workload: str, measure: str) -> Measure:
    """The highest of our rounds."""

    def most(samples: Samples) -> float | None:
        return max(samples.by_round(workload, measure, OURS).values(), default=None)

    return most


def total(workload: str, *measures: str) -> Measure:
    """The sum of these measures over all our rounds."""

    def summed(samples: Samples) -> float | None:
        found = [samples.by_round(workload, measure, OURS) for measure in measures]
        values = [value for each in found for value in each.values()]
        return sum(values) if values else None

    return summed


def ratio(
    workload: str, measure: str, *, over: str = "", series: str = ALONE
) -> Measure:
    """Our measure divided by a measure of another series, by default the same one."""
    return lambda samples: samples.median_ratio(
        workload, measure, OURS, series, over or measure
    )


def difference(
    workload: str, measure: str, *, minus: str = "", series: str = ALONE
) -> Measure:
    """Our measure less a measure of another series, by default the same one."""

    def left(samples: Samples) -> float | None:
        ours = samples.median(workload, measure, OURS)
        other = samples.median(workload, minus or measure, series)
        return None if ours is None or other is None else ours - other

    return left
