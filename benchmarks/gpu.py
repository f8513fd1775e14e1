"""`python -m benchmarks.gpu`: what is left of a GPU's speed behind lsml-bento; gpu.md.

`--device cpu --quick` shows on any machine that it runs through; a GPU's numbers come
from a GPU only.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from benchmarks import accelerated, arms, load, machine, noise
from benchmarks.accelerated import FILES, SERVED
from benchmarks.goals import Goal, Measure
from benchmarks.gpu_parts import CLIENTS, Plan, alone, files, json_of, served
from benchmarks.report import Grid, number
from benchmarks.samples import LIMIT, OURS, Samples
from benchmarks.servers import ServerFailedError
from benchmarks.workloads import BATCH

_RESULTS = Path(__file__).with_name("gpu.md")
_HOW = f"""\
The transformer of `make bench` with its random weights, under bfloat16 autocast, and
one of BERT base's depth and width (12 layers x 768), in batches of {BATCH}. The model
alone is in a process of its own, its texts in memory. Served: `bentoml serve` and
{CLIENTS} closed-loop clients of wrk on the same machine, one task in each request. File
to file: `lsml-bento preannotate` from JSONL to JSONL; what a run of one batch takes,
start-up above all, is taken off. Answers are checked, each for its own task: of the
server before the clock runs, of files all. Numbers are medians over rounds,
`(lowest-highest)` beside them; ratios are medians of each round's own ratio."""

_TROUBLE = (
    ServerFailedError,
    RuntimeError,
    OSError,
    ValueError,
    subprocess.SubprocessError,
)

_QUICK = Plan(1, 1.0, 1_000)


# The goals


def _ratio(workload: str, measure: str) -> Measure:
    return lambda samples: samples.median_ratio(workload, measure, OURS, LIMIT, measure)


GOALS = [
    Goal(f"{name}: {measure}, of the model alone", bound, "", ratio, at_least=True)
    for name in accelerated.WORKLOADS
    for measure, bound in ((SERVED, 0.9), (FILES, 0.95))
    for ratio in (_ratio(name, measure),)
]


# A run


class _Run:
    """Takes the parts in turn, and keeps what they found."""

    def __init__(self, console: Console) -> None:
        self.samples = Samples()
        self.failures: list[str] = []
        self.busy: list[float] = []
        self._console = console

    def round(self, index: int, name: str, plan: Plan, env: dict[str, str]) -> None:
        for arm, part in ((LIMIT, alone), (OURS, served), (OURS, files)):
            with self._turn(f"round {index + 1}, {name}, {part.__name__}"):
                self.samples.add(name, arm, index, part(name, plan, env))

    @contextmanager
    def _turn(self, what: str) -> Iterator[None]:
        self._console.print(what, style="dim")
        self.busy.append(noise.busy_share())
        try:
            yield
        except _TROUBLE as error:
            self.failures.append(f"{what}: {error}")
            self._console.print(f"{what} failed: {error}", markup=False)

    def grids(self) -> list[Grid]:
        goals = [
            [goal.text, number(value), goal.wanted, goal.verdict(value)]
            for goal in GOALS
            for value in (goal.measure(self.samples),)
        ]
        tables = [
            Grid(name, ("measure", "model alone", "lsml-bento"), self._rows(name))
            for name in self.samples.workloads()
        ]
        head = ("goal", "measured", "wanted", "verdict")
        return [Grid("Goals", head, goals), *tables]

    def _rows(self, name: str) -> list[list[str]]:
        return [
            [measure, *(self._cell(name, measure, arm) for arm in (LIMIT, OURS))]
            for measure in self.samples.measures(name)
        ]

    def _cell(self, name: str, measure: str, arm: str) -> str:
        found = self.samples.by_round(name, measure, arm).values()
        middle = number(self.samples.median(name, measure, arm))
        if len(set(found)) < 2:
            return middle
        return f"{middle} ({number(min(found))}-{number(max(found))})"

    def write(self, described: dict[str, str], path: Path) -> None:
        rows = described | {"other load": noise.describe(self.busy)}
        lines = ["# What is left of a GPU's speed\n"]
        lines += [f"- {key}: {value}" for key, value in rows.items()]
        lines += ["", _HOW, "", *(grid.markdown() for grid in self.grids())]
        if self.failures:
            lines += ["## What failed in this run\n"]
            lines += [f"- {line}" for line in self.failures]
        path.write_text("\n".join(lines).rstrip() + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, cuda:1, .. or cpu (cuda)")
    add("--quick", action="store_true", help="one small round")
    names = tuple(accelerated.WORKLOADS)
    add("--only", choices=names, help="one model in place of both")
    add("--torch-threads", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    add("--out", type=Path, help="the page to write (gpu.md after a whole run on cuda)")
    return parser


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    # As an exception, so that every server is ended on the way out.
    raise SystemExit(128 + signum)


def main() -> int:
    """Run it; 1 if a part failed, 2 if there is no such device."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _exit_on_signal)
    env = arms.environment(options.torch_threads) | {"BENCH_DEVICE": options.device}
    device = str(json_of([], env))
    if not device:
        print(
            "torch finds no GPU here: run this on a machine with one, or with "
            "--device cpu --quick to see that it runs through."
        )
        return 2
    load.require_tools()
    console = Console(width=None if sys.stdout.isatty() else 150)
    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    described = {"device": device} | machine.describe(command, options.torch_threads)
    del described["litserve"]
    run, plan = _Run(console), _QUICK if options.quick else Plan()
    chosen = [options.only] if options.only else list(accelerated.WORKLOADS)
    for index in range(plan.rounds):
        for workload in chosen:
            run.round(index, workload, plan, env)
    for grid in run.grids():
        grid.draw(console)
    is_part = options.quick or options.only or options.device == "cpu"
    out: Path | None = options.out or (None if is_part else _RESULTS)
    if out:
        run.write(described, out)
        console.print(f"Written: {out}")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
