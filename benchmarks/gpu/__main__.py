"""Measure how much of a GPU's speed is left behind lsml-bento.

`python -m benchmarks.gpu` needs a GPU. `--device cpu --quick` is a trial run on any
machine, with a small model instead of the larger one.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks.common import alone, machine, tasks, wrk
from benchmarks.common.models import GPU_TARGETS
from benchmarks.common.page import Page, exit_on_sigterm, wide_console
from benchmarks.common.preannotate import preannotate
from benchmarks.common.samples import ALONE, OURS, Goal, highest, median, ratio
from benchmarks.common.servers import SERVICE, Server, serve, torch_threads
from benchmarks.common.workloads import BATCH

_CLIENTS = 64
_SCORED = 64
_CLOSE = 0.02
_SERVED = f"{_CLIENTS} clients, tasks/s"
_FILES = "file to file, tasks/s"
_FAILED = f"{_CLIENTS} clients, failed"
_MEAN_BATCH = f"{_CLIENTS} clients, mean batch"
_BATCH_SIZE = "bentoml_service_adaptive_batch_size"

_COMMAND = "python -m benchmarks.gpu"
_RESULTS = Path(__file__).with_name("results.md")
_ABOUT = {
    "transformer": "`transformer`, as in `make bench`",
    "larger": "`larger`, with BERT large's 24 layers x 1024, for texts of 400 words",
    "small": "`small`, with 2 layers x 64, for texts of 100 words",
}
_HOW = f"""\
The models have random weights: {{models}}. The model alone runs in its own process,
repeats the same tasks and predicts in batches of {BATCH}. Served: `bentoml serve` with
{_CLIENTS} closed-loop clients of wrk on the same machine, one task per request. File to
file: `lsml-bento preannotate` from JSONL to JSONL with {{tasks:,}} tasks; the command
reports the time itself, from the first batch on. Each answer is checked to belong to
its task: those of the server before the clock runs, those in files all. The scores of
the first {_SCORED} tasks must be within {_CLOSE} of what the same model computes in
float32 on the CPU. Numbers are medians over rounds, followed by `(lowest-highest)`.
Ratios are medians of the ratio in each round."""

Found = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How long and how often a run measures; about ten minutes on an H100."""

    rounds: int = 2
    seconds: float = 10.0
    tasks: int = 40_000


_QUICK = Plan(1, 1.0, 1_000)


def _goals(name: str) -> list[Goal]:
    ratios = [
        Goal(
            f"{name}: {measure}, of the model alone",
            bound,
            "",
            ratio(name, measure),
            at_least=True,
        )
        for measure, bound in ((_SERVED, 0.9), (_FILES, 0.95))
    ]
    return [
        *ratios,
        Goal(f"{name}: {_FAILED}", 0, "", highest(name, _FAILED)),
        Goal(
            f"{name}: {_MEAN_BATCH}", 30, "", median(name, _MEAN_BATCH), at_least=True
        ),
    ]


# Measures


def _alone(name: str, plan: Plan, env: dict[str, str]) -> Found:
    found = alone.ask("batches", name, plan.seconds, env)
    return {
        _SERVED: found["tasks/s"],
        _FILES: found["tasks/s"],
        f"batch of {BATCH} ms": found["batch ms"],
    }


def _served(name: str, plan: Plan, env: dict[str, str]) -> Found:
    named = {"BENCH_TARGET": GPU_TARGETS[name], "BENCH_NAME": f"bench-gpu-{name}"}
    with serve(SERVICE, env=env | named, health="/health", limit_s=120) as server:
        _check(server, name)
        url, bodies = f"{server.url}/predict", tasks.singles(name, 256)
        wrk.closed_loop(url, bodies, clients=_CLIENTS, seconds=1)
        before = _sum_and_count(server)
        seen = wrk.closed_loop(url, bodies, clients=_CLIENTS, seconds=plan.seconds)
        after = _sum_and_count(server)
        size, batches = (new - old for new, old in zip(after, before, strict=True))
        return {
            _SERVED: seen.per_second,
            f"{_CLIENTS} clients, p50 ms": seen.p50,
            f"{_CLIENTS} clients, p99 ms": seen.p99,
            _FAILED: seen.failed,
            _MEAN_BATCH: size / max(1.0, batches),
        }


def _sum_and_count(server: Server) -> list[float]:
    """The tasks of all batches so far, and the number of batches."""
    names = (f"{_BATCH_SIZE}_sum", f"{_BATCH_SIZE}_count")
    return [sum(sample.value for sample in server.metric(name)) for name in names]


def _files(name: str, plan: Plan, env: dict[str, str]) -> Found:
    run = preannotate(GPU_TARGETS[name], name, plan.tasks, env)
    _compare(name, run.scores)
    return {_FILES: run.rate, "file to file, wall s": run.wall_s}


def _check(server: Server, name: str) -> None:
    """Check a server's answers.

    Raises:
        RuntimeError: if one is wrong.
    """
    first = range(1, _SCORED + 1)
    _, answer = wrk.post_once(f"{server.url}/predict", tasks.body(name, first))
    wrong = tasks.concurrent(server.port, name)
    if problem := tasks.problem(answer, first):
        wrong.append(problem)
    if wrong:
        raise RuntimeError(f"{len(wrong)} wrong answers, first: {wrong[0]}")
    _compare(name, [slot["score"] for slot in tasks.slots(answer)])


def _compare(name: str, scores: list[float]) -> None:
    if wrong := tasks.far_score(scores, _expected(name)[: len(scores)], _CLOSE):
        raise RuntimeError(wrong)


@cache
def _expected(name: str) -> list[float]:
    """The scores of the first tasks, in float32 on the CPU."""
    env = torch_threads(os.cpu_count() or 1) | {"BENCH_DEVICE": "cpu"}
    found: list[float] = alone.ask("scores", name, _SCORED, env)
    return found


# A run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(_COMMAND, description=__doc__)
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, cuda:1, ... or cpu (default: cuda)")
    add("--quick", action="store_true", help="one short round")
    add("--only", choices=tuple(GPU_TARGETS), help="measure one model")
    add("--rounds", type=int, help=f"rounds per model (default: {Plan.rounds})")
    add("--tasks", type=int, help=f"tasks in the file (default: {Plan.tasks:,})")
    add("--torch-threads", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    add("--out", type=Path, help="page to write (default: results.md after a full run)")
    return parser


def main() -> int:
    """Measure; 1 if a part failed, 2 if there is no such device."""
    options = _parser().parse_args()
    exit_on_sigterm()
    wrk.require_tools()
    env = torch_threads(options.torch_threads) | {"BENCH_DEVICE": options.device}
    device = str(alone.ask("device", options.device, 0, env))
    if not device:
        print(
            "torch finds no GPU. Run this on a machine with one, or make a trial run "
            "with --device cpu --quick."
        )
        return 2
    plan, is_cpu = _QUICK if options.quick else Plan(), options.device == "cpu"
    plan = replace(
        plan, rounds=options.rounds or plan.rounds, tasks=options.tasks or plan.tasks
    )
    default = ["transformer", "small" if is_cpu else "larger"]
    names = [options.only] if options.only else default
    described = {"device": device} | machine.describe(_COMMAND)
    is_part = options.quick or options.only or is_cpu
    page = Page(
        "How much of a GPU's speed is left",
        described,
        _HOW.format(models="; ".join(_ABOUT[name] for name in names), tasks=plan.tasks),
        [goal for name in names for goal in _goals(name)],
        {ALONE: "model alone", OURS: "lsml-bento"},
        wide_console(),
        options.out or (None if is_part else _RESULTS),
        _RESULTS,
    )
    parts = (
        ("alone", ALONE, _alone),
        ("served", OURS, _served),
        ("files", OURS, _files),
    )
    for round_ in range(plan.rounds):
        for name in names:
            for part, series, measure in parts:
                with page.step(f"round {round_ + 1}, {name}, {part}"):
                    page.samples.add(name, series, round_, measure(name, plan, env))
        page.write()
    page.end()
    return 1 if page.failures else 0


if __name__ == "__main__":
    sys.exit(main())
