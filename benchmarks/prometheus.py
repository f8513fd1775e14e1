"""Quantiles and means from a Prometheus histogram on `/metrics`."""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Iterator

_LINE = re.compile(r"^(?P<name>[\w:]+)\{(?P<labels>[^}]*)\} (?P<value>\S+)")

Buckets = dict[float, float]


def scrape(url: str, metric: str, label: str) -> Buckets:
    """Cumulative counts by upper bound, summed over the series with that label.

    Args:
        url: The page, e.g. `http://127.0.0.1:3000/metrics`.
        metric: The histogram's name without `_bucket`.
        label: One `key="value"` that the series must have.
    """
    found: Buckets = {}
    for labels, value in _series(url, f"{metric}_bucket"):
        if label not in labels:
            continue
        bound = next(p for p in labels if p.startswith("le=")).split('"')[1]
        upper = math.inf if bound == "+Inf" else float(bound)
        found[upper] = found.get(upper, 0) + value
    return found


def sum_and_count(url: str, metric: str) -> tuple[float, float]:
    """What a histogram has counted, over all its series: the values and how many."""
    values, counts = (
        sum(value for _, value in _series(url, f"{metric}_{part}"))
        for part in ("sum", "count")
    )
    return values, counts


def _series(url: str, name: str) -> Iterator[tuple[list[str], float]]:
    with urllib.request.urlopen(url, timeout=30) as page:
        lines = page.read().decode().splitlines()
    for line in lines:
        match = _LINE.match(line)
        if match and match["name"] == name:
            yield match["labels"].split(","), float(match["value"])


def since(before: Buckets, after: Buckets) -> Buckets:
    """What was counted between two scrapes."""
    return {bound: count - before.get(bound, 0) for bound, count in after.items()}


def quantile(buckets: Buckets, q: float) -> float | None:
    """The quantile, linear inside its bucket; None where nothing was counted.

    Beyond the last finite bound the answer is infinite, not a guess.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    wanted = q * buckets[bounds[-1]]
    below, lower = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= wanted:
            inside = (wanted - below) / (count - below) if count > below else 1.0
            return lower + (bound - lower) * inside if bound < math.inf else math.inf
        below, lower = count, bound
    return math.inf
