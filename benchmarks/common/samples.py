"""Numbers as they were measured, by workload, measure, arm and round."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

LIMIT = "limit"
OURS = "ours"


@dataclass(frozen=True)
class Sample:
    """One measured number."""

    workload: str
    measure: str
    arm: str
    round: int
    value: float


class Samples:
    """All samples of a run."""

    def __init__(self) -> None:
        self._all: list[Sample] = []

    def add(
        self, workload: str, arm: str, round_: int, found: dict[str, float]
    ) -> None:
        """Keep what one turn of one arm found, by measure."""
        self._all += [
            Sample(workload, measure, arm, round_, value)
            for measure, value in found.items()
        ]

    def by_round(self, workload: str, measure: str, arm: str) -> dict[int, float]:
        """The values of one measure, by round."""
        return {
            s.round: s.value
            for s in self._all
            if (s.workload, s.measure, s.arm) == (workload, measure, arm)
        }

    def median(self, workload: str, measure: str, arm: str) -> float | None:
        """The median over rounds; None where nothing was measured."""
        found = self.by_round(workload, measure, arm)
        return statistics.median(found.values()) if found else None

    def total(self, measure_part: str, arm: str) -> float | None:
        """The sum over everything whose measure contains that text."""
        found = [
            s.value for s in self._all if s.arm == arm and measure_part in s.measure
        ]
        return sum(found) if found else None

    def median_ratio(
        self, workload: str, measure: str, arm: str, over: str, over_measure: str
    ) -> float | None:
        """The median of each round's own ratio: rounds drift apart, arms less so."""
        top = self.by_round(workload, measure, arm)
        bottom = self.by_round(workload, over_measure, over)
        ratios = [top[r] / bottom[r] for r in top if bottom.get(r)]
        return statistics.median(ratios) if ratios else None

    def measures(self, workload: str) -> list[str]:
        """The measures of a workload in the order of their first appearance."""
        found = [s.measure for s in self._all if s.workload == workload]
        return list(dict.fromkeys(found))

    def workloads(self) -> list[str]:
        """The workloads in the order of their first appearance."""
        return list(dict.fromkeys(s.workload for s in self._all))

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.write_text(json.dumps([asdict(s) for s in self._all], indent=1))
