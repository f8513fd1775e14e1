"""Measure webhooks during fits, version swaps under load, and long lists."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.common import machine
from benchmarks.common.page import Page, exit_on_sigterm, some_of, wide_console
from benchmarks.common.samples import OURS, Goal, highest, median, total
from benchmarks.learning import events, listings, swaps

_COMMAND = "python -m benchmarks.learning"
_RESULTS = Path(__file__).with_name("results.md")
_HOW = """\
Each part starts its own server and worker with an empty home. The load comes from one
client process on the same machine, and the tables show how late that process itself
was. The latency of an event counts from the moment at which it was due. Events are
`ANNOTATION_CREATED` with 3 KB, as Label Studio was recorded to send them, each with
another annotation and task. "New connection" opens a connection for each event, as
Label Studio does. A fit trains a small torch model in the worker's child process.
"Lost" counts annotations that are not stored afterwards. A swap lasts from the request
that activates a version until both serving processes have answered with it; a request
that overlaps this time counts as during the swap. Numbers are medians over rounds,
followed by `(lowest-highest)`. Failures are summed over rounds, and upper limits are
compared with the highest value of all rounds."""


@dataclass(frozen=True)
class _Plan:
    """How long and how often a run measures; durations in seconds."""

    rounds: int = 3
    events_s: float = 30.0
    fit_s: float = 8.0
    locked_s: float = 10.0
    promotions: int = 20
    large_promotions: int = 6
    large_mib: int = 500


_QUICK = _Plan(1, 8.0, 3.0, 4.0, 6, 2, 500)

_BURSTS = {
    f"200 events/s during fits, {title}, {kind}": (name, kind == "new connection")
    for name, title in (("sqlite", "SQLite"), ("redis", "Redis"))
    for kind in ("keep-alive", "new connection")
}
_LOCKS = {
    "50 events/s, SQLite locked for 3 s": "sqlite",
    "50 events/s, Redis stopped for 3 s": "redis",
}
_SWAP = "swap, 8 clients, 2 processes, 1 MiB of weights"
_LARGE = "swap, 8 clients, 2 processes, 500 MB of weights"
_LISTS = f"listing {listings.JOBS:,} jobs and {listings.VERSIONS:,} versions"

_Work = Callable[[], dict[str, float]]

PARTS = ("events", "locked", "swap", "large", "lists")


def _works(plan: _Plan, part: str) -> dict[str, _Work]:
    """The measurements of a part, by the title of their table."""
    if part == "events":
        return {
            title: partial(
                events.during_fits,
                name,
                fresh=fresh,
                seconds=plan.events_s,
                fit_s=plan.fit_s,
            )
            for title, (name, fresh) in _BURSTS.items()
        }
    if part == "locked":
        return {
            title: partial(events.while_locked, name, seconds=plan.locked_s)
            for title, name in _LOCKS.items()
        }
    if part == "lists":
        return {_LISTS: listings.listings}
    if part == "large":
        times, mib = plan.large_promotions, plan.large_mib
        large = partial(swaps.swaps, mib=mib, times=times, every_s=8, from_base=True)
        return {_LARGE: large}
    times = plan.promotions
    swap = partial(swaps.swaps, mib=1, times=times, every_s=2, from_base=False)
    return {_SWAP: swap}


# Goals


def _of_events(part: str) -> list[Goal]:
    return [
        Goal(f"{part}: not answered 2xx", 0, "", total(part, "failed")),
        Goal(f"{part}: p99", 20, "ms", median(part, "p99 ms")),
        Goal(f"{part}: lost", 0, "", total(part, "lost")),
        Goal(f"{part}: fits at a time", 1, "", highest(part, "running at a time")),
        Goal(f"{part}: waiting jobs", 1, "", highest(part, "waiting at a time")),
    ]


def _of_locks(part: str) -> list[Goal]:
    return [
        Goal(f"{part}: not answered 2xx", 0, "", total(part, "failed")),
        Goal(f"{part}: slowest", 1000, "ms", highest(part, "max ms")),
        Goal(
            f"{part}: lost or out of order", 0, "", total(part, "lost", "out of order")
        ),
    ]


def _of_lists() -> list[Goal]:
    kinds = listings.DIRECTORIES
    commands = [f"{n} list, {kind}," for kind in kinds for n in ("jobs", "versions")]
    names = ["GET jobs", "GET versions", *commands]
    return [
        Goal(f"{_LISTS}: {name.strip(',')}", 1, "s", median(_LISTS, f"{name} s"))
        for name in names
    ]


GOALS = [
    *(goal for part in _BURSTS for goal in _of_events(part)),
    *(goal for part in _LOCKS for goal in _of_locks(part)),
    Goal(f"{_SWAP}: failed requests", 0, "", total(_SWAP, "failed")),
    Goal(
        f"{_SWAP}: each process serves it after",
        swaps.WITHIN_S,
        "s",
        highest(_SWAP, "served s, at most"),
    ),
    Goal(
        f"{_SWAP}: p99 during a swap, of the usual",
        2,
        "",
        median(_SWAP, "p99 during a swap, of the usual"),
    ),
    Goal(f"{_LARGE}: failed requests", 0, "", total(_LARGE, "failed")),
    *_of_lists(),
]


# A run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(_COMMAND, description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round, about 5 minutes")
    parts = ",".join(PARTS)
    add(
        "--only",
        type=some_of(PARTS),
        default=list(PARTS),
        metavar="PART,...",
        help=f"measure only some of {parts}",
    )
    add("--rounds", type=int, help=f"rounds per part (default: {_Plan.rounds})")
    add("--out", type=Path, help="page to write (default: results.md after a full run)")
    return parser


def main() -> int:
    """Measure; 1 if a part failed."""
    options = _parser().parse_args()
    exit_on_sigterm()
    described = machine.describe(_COMMAND)
    described["torch threads"] = "the worker gives each fit all cores but one"
    is_whole = not options.quick and set(options.only) == set(PARTS)
    page = Page(
        "What learning reaches",
        described,
        _HOW,
        GOALS,
        {OURS: "measured"},
        wide_console(),
        options.out or (_RESULTS if is_whole else None),
        _RESULTS,
    )
    plan = _QUICK if options.quick else _Plan()
    for round_ in range(options.rounds or plan.rounds):
        for part in options.only:
            for title, work in _works(plan, part).items():
                with page.step(f"round {round_ + 1}, {title}"):
                    found = {k: v for k, v in work().items() if not math.isnan(v)}
                    page.samples.add(title, OURS, round_, found)
        page.write()
    page.end()
    return 1 if page.failures else 0


if __name__ == "__main__":
    sys.exit(main())
