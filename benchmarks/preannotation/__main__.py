"""Measure `lsml-bento preannotate` from file to file, and the model alone.

It also measures how memory grows with a hundred times as many tasks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.common import alone, machine
from benchmarks.common.models import TARGETS
from benchmarks.common.page import Page, exit_on_sigterm, wide_console
from benchmarks.common.preannotate import preannotate
from benchmarks.common.samples import OURS, Goal, ratio

_COMMAND = "python -m benchmarks.preannotation"
_RESULTS = Path(__file__).with_name("results.md")
_HOW = f"""\
Each number comes from its own process. `lsml-bento preannotate {TARGETS["device"]}`
reads tasks from a JSON Lines file and writes them with their predictions to another.
The model alone gets the tasks from memory, in batches of 32. Both rates count from the
first call, when the model is made already; "wall" is the whole command, including the
start of Python. Each round measures all rows once, and ratios are medians of the ratio
in each round. Memory is the highest resident set of the process (`ru_maxrss`) with the
trivial model, which leaves reading and writing the least time."""

_ROUNDS = 3
_TASKS = 20_000
_FEW, _MANY = 1_000, 100_000

_TABLE = "Measured"
_ALONE = "model alone, tasks/s"
_OURS = "preannotate, tasks/s"


def _round(scale: int) -> dict[str, float]:
    count = _TASKS // scale
    limit = alone.ask("rate", "device", count, {})
    ours = preannotate(TARGETS["device"], "device", count)
    few, many = (
        preannotate(TARGETS["trivial"], "trivial", size // scale).mib
        for size in (_FEW, _MANY)
    )
    return {
        _ALONE: limit,
        _OURS: ours.rate,
        "preannotate, wall s": ours.wall_s,
        _memory(_FEW // scale): few,
        _memory(_MANY // scale): many,
    }


def _memory(count: int) -> str:
    return f"memory of {count:,} tasks, MiB"


def _goals(scale: int) -> list[Goal]:
    few, many = _FEW // scale, _MANY // scale
    return [
        Goal(
            f"{_TASKS // scale:,} tasks, file to file: of the model alone",
            0.9,
            "",
            ratio(_TABLE, _OURS, over=_ALONE, series=OURS),
            at_least=True,
        ),
        Goal(
            f"memory of {many:,} tasks, of {few:,}",
            1.2,
            "",
            ratio(_TABLE, _memory(many), over=_memory(few), series=OURS),
        ),
    ]


def main() -> int:
    """Measure; 1 if a part failed or a goal was missed."""
    parser = argparse.ArgumentParser(_COMMAND, description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one round with a tenth of the tasks"
    )
    options = parser.parse_args()
    exit_on_sigterm()
    scale = 10 if options.quick else 1
    page = Page(
        "What preannotate reaches",
        machine.describe(_COMMAND),
        _HOW,
        _goals(scale),
        {OURS: "median (lowest-highest)"},
        wide_console(120),
        None if options.quick else _RESULTS,
        _RESULTS,
    )
    for round_ in range(1 if options.quick else _ROUNDS):
        with page.step(f"round {round_ + 1}"):
            page.samples.add(_TABLE, OURS, round_, _round(scale))
        page.write()
    page.end()
    return int(bool(page.failures) or page.is_missed)


if __name__ == "__main__":
    sys.exit(main())
