"""`python -m benchmarks.serving`: every arm in turn, the tables, results.md."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import lifecycle
from benchmarks.common import machine, page, workloads
from benchmarks.common import wrk as load
from benchmarks.common.samples import OURS
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.serving import candidates as arms
from benchmarks.serving import report, setup
from benchmarks.turns import SINGLE, Turns

_PARTS = (*workloads.NAMES, "health", *SINGLE)
_RESULTS = Path(__file__).with_name("results.md")


def _names(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        found = text.split(",")
        unknown = sorted(set(found) - set(choices))
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)} is unknown. Available: {', '.join(choices)}"
            )
        return found

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="one round, under 3 minutes")
    add(
        "--only",
        type=_names(_PARTS),
        default=list(_PARTS),
        metavar="PART,...",
        help=f"of {', '.join(_PARTS)}",
    )
    add(
        "--arms",
        type=_names(arms.NAMES),
        default=list(arms.NAMES),
        metavar="ARM,...",
        help=f"of {', '.join(arms.NAMES)}",
    )
    add("--rounds", type=int, help="turns of every arm")
    add("--soak-s", type=float, help="seconds of the long load at 64 clients")
    # The server and the load generator need a core of their own: with torch on all of
    # them its threads wait for each other at every layer, and only that is measured.
    add("--torch-threads", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    add(
        "--start-command",
        default=lifecycle.START,
        help="what start-up is measured with; {port} is replaced",
    )
    add("--out", type=Path, help="the page to write (default: results.md if all ran)")
    add("--samples", type=Path, help="also write every number as JSON")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    if options.soak_s is not None:
        plan = dataclasses.replace(plan, soak_s=options.soak_s)
    return plan


def _measure(
    results: report.Results, turns: Turns, options: argparse.Namespace, rounds: int
) -> None:
    for round_ in range(rounds):
        for name in workloads.NAMES:
            if name in options.only:
                turns.workload(name, round_)
        if "health" in options.only:
            turns.health(round_)
        results.write()
    for part in SINGLE:
        if part in options.only and OURS in options.arms:
            turns.single(part, options.start_command)


def _out(options: argparse.Namespace) -> Path | None:
    """The page to write: the committed one only after a whole run."""
    partial = options.quick or set(options.only) != set(_PARTS)
    partial = partial or set(options.arms) != set(arms.NAMES)
    chosen: Path | None = options.out
    return chosen or (None if partial else _RESULTS)


def main() -> int:
    """Run what was asked for; 1 if a part failed."""
    options = _parser().parse_args()
    page.exit_on_sigterm()
    try:
        load.require_tools()
    except load.MissingToolError as error:
        sys.exit(str(error))
    if "litserve" in options.arms:
        setup.main()
    command = "python -m " + " ".join(["benchmarks.serving", *sys.argv[1:]])
    described = machine.describe(command, options.torch_threads)
    results = report.results(described, page.wide_console(), _out(options))
    chosen = [arm for arm in arms.ARMS if arm.name in options.arms]
    plan = _plan(options)
    turns = Turns(results, plan, chosen, options.torch_threads)
    _measure(results, turns, options, plan.rounds)
    if options.samples:
        results.samples.save(options.samples)
    results.end()
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
