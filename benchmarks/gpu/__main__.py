"""`python -m benchmarks.gpu`: what is left of a GPU's speed behind lsml-bento; gpu.md.

`--device cpu --quick` shows on any machine that it runs through, with a small model in
place of the larger one; a GPU's numbers come from a GPU only.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import accelerated
from benchmarks.accelerated import FILES, SERVED
from benchmarks.common import machine
from benchmarks.common.page import Page, exit_on_sigterm, wide_console
from benchmarks.common.samples import LIMIT, OURS
from benchmarks.common.workloads import BATCH
from benchmarks.goals import Goal, Measure, highest, median
from benchmarks.gpu_parts import (
    CLIENTS,
    CLOSE,
    COMPARED,
    FAILED,
    MEAN_BATCH,
    Plan,
    alone,
    files,
    json_of,
    served,
)
from benchmarks.serving import candidates as arms

_RESULTS = Path(__file__).with_name("results.md")
_ABOUT = {
    "transformer": "the transformer of `make bench`",
    "larger": "one of BERT large's 24 layers x 1024, for texts of 400 words",
    "small": "one of 2 layers x 64, for texts of 100 words",
}
_HOW = f"""\
The models, with random weights: {{models}}.
The model alone is in a process of its own and goes through the same tasks again and
again, in batches of {BATCH}. Served: `bentoml serve` and {CLIENTS} closed-loop clients
of wrk on the same machine, one task in each request. File to file:
`lsml-bento preannotate` from JSONL to JSONL, {{tasks:,}} tasks, by the time that it
tells itself, from the first batch on. Answers are checked, each for its own task: of
the server before the clock runs, of files all; and the scores of the first {COMPARED}
tasks are within {CLOSE} of what the same model gives in float32 on the CPU. Numbers are
medians over rounds, `(lowest-highest)` beside them; ratios are medians of each round's
own ratio."""

_QUICK = Plan(1, 1.0, 1_000)


def _ratio(workload: str, measure: str) -> Measure:
    return lambda samples: samples.median_ratio(workload, measure, OURS, LIMIT, measure)


def _goals(name: str) -> list[Goal]:
    ratios = [
        Goal(
            f"{name}: {measure}, of the model alone",
            bound,
            "",
            _ratio(name, measure),
            at_least=True,
        )
        for measure, bound in ((SERVED, 0.9), (FILES, 0.95))
    ]
    return [
        *ratios,
        Goal(f"{name}: {FAILED}", 0, "", highest(name, FAILED)),
        Goal(f"{name}: {MEAN_BATCH}", 30, "", median(name, MEAN_BATCH), at_least=True),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, cuda:1, .. or cpu (cuda)")
    add("--quick", action="store_true", help="one small round")
    names = tuple(accelerated.WORKLOADS)
    add("--only", choices=names, help="one model in place of two")
    add("--rounds", type=int, help=f"of everything ({Plan.rounds})")
    add("--tasks", type=int, help=f"from file to file ({Plan.tasks:,})")
    add("--torch-threads", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    add("--out", type=Path, help="the page to write (gpu.md after a whole run on cuda)")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = _QUICK if options.quick else Plan()
    return replace(
        plan, rounds=options.rounds or plan.rounds, tasks=options.tasks or plan.tasks
    )


def _measure(page: Page, plan: Plan, names: list[str], env: dict[str, str]) -> None:
    for index in range(plan.rounds):
        for name in names:
            for arm, part in ((LIMIT, alone), (OURS, served), (OURS, files)):
                with page.turn(f"round {index + 1}, {name}, {part.__name__}"):
                    page.samples.add(name, arm, index, part(name, plan, env))
        page.write()


def main() -> int:
    """Run it; 1 if a part failed, 2 if there is no such device."""
    options = _parser().parse_args()
    exit_on_sigterm()
    env = arms.environment(options.torch_threads) | {"BENCH_DEVICE": options.device}
    device = str(json_of([], env))
    if not device:
        print(
            "torch finds no GPU here: run this on a machine with one, or with "
            "--device cpu --quick to see that it runs through."
        )
        return 2
    plan, is_cpu = _plan(options), options.device == "cpu"
    names = ["transformer", "small" if is_cpu else "larger"]
    if options.only:
        names = [options.only]
    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    described = {"device": device} | machine.describe(command, options.torch_threads)
    del described["litserve"]
    is_part = options.quick or options.only or is_cpu
    page = Page(
        "What is left of a GPU's speed",
        described,
        _HOW.format(models="; ".join(_ABOUT[name] for name in names), tasks=plan.tasks),
        [goal for name in names for goal in _goals(name)],
        {LIMIT: "model alone", OURS: "lsml-bento"},
        wide_console(),
        options.out or (None if is_part else _RESULTS),
    )
    _measure(page, plan, names, env)
    page.end()
    return 1 if page.failures else 0


if __name__ == "__main__":
    sys.exit(main())
