"""`python -m benchmarks.preannotating`: what preannotate must reach, preannotation.md.

The device model of `workloads.py` over a file of tasks, beside the same model alone;
and how much memory a hundred times as many tasks take. `--quick` takes a tenth.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from benchmarks import machine, noise, payloads, workloads
from benchmarks.report import Grid, number

_RESULTS = Path(__file__).with_name("preannotation.md")
_TOOL = Path(sys.executable).with_name("lsml-bento")
_HOW = """\
Each number is a process of its own: `lsml-bento preannotate benchmarks.models:Device`
reads tasks from a file of JSON Lines and writes them to another with their predictions;
the model alone is called with tasks in memory, in batches of 32. Both rates are taken
from the first call on, once the model is made; "wall" is the whole command, start of
Python included. The rounds take turns, and ratios are medians of each round's own.
Memory is the highest resident set of the process (`ru_maxrss`), with the trivial model,
which leaves reading and writing the least time to wait for it."""

_ROUNDS = 3
_TASKS = 20_000
_FEW, _MANY = 1_000, 100_000


def _write_tasks(path: Path, count: int) -> None:
    with path.open("w") as file:
        for task_id in range(1, count + 1):
            task = {"id": task_id, "data": {"text": payloads.text(task_id)}}
            file.write(json.dumps(task) + "\n")


def _preannotate(model: str, count: int) -> dict[str, float]:
    """Tasks/s, seconds of the whole command, and MiB."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        _write_tasks(place / "tasks.jsonl", count)
        (place / "label_config.xml").write_text(payloads.label_config("device"))
        command = [str(_TOOL), "preannotate", f"benchmarks.models:{model}", "--json"]
        for option, name in (
            ("--tasks", "tasks.jsonl"),
            ("--output", "output.jsonl"),
            ("--label-config", "label_config.xml"),
        ):
            command += [option, str(place / name)]
        environ = {**os.environ, "LSML_HOME": directory, "BENTOML_HOME": directory}
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=payloads.REPOSITORY, env=environ, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        answer = process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        _check(place / "output.jsonl", count)
    report = json.loads(answer)
    return {
        "tasks/s": report["predicted"] / report["seconds"],
        "wall s": wall,
        "MiB": usage.ru_maxrss / 1024,
    }


def _check(output: Path, count: int) -> None:
    """See that each task has its own answer, which holds the task's id."""
    with output.open() as lines:
        for task_id, line in enumerate(lines, 1):
            [prediction] = json.loads(line)["predictions"]
            if prediction["result"][0]["id"] != f"t{task_id}":
                raise RuntimeError(f"line {task_id} has the answer of another task")
    if task_id != count:
        raise RuntimeError(f"{task_id} lines for {count} tasks")


def _alone(count: int) -> float:
    """Tasks/s of the model in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.preannotating", "alone", str(count)]
    done = subprocess.run(
        command, cwd=payloads.REPOSITORY, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def _alone_here(count: int) -> float:
    model = workloads.make("device")
    tasks = [{"id": n, "data": {"text": payloads.text(n)}} for n in range(count)]
    began = time.perf_counter()
    workloads.predict_in_batches(model, tasks)
    return count / (time.perf_counter() - began)


def _measure(console: Console, scale: int) -> tuple[list[Grid], list[float]]:
    ratios: list[float] = []
    alone: list[float] = []
    ours: list[dict[str, float]] = []
    few: list[float] = []
    many: list[float] = []
    busy: list[float] = []
    for round_ in range(_ROUNDS if scale == 1 else 1):
        console.print(f"round {round_ + 1}", style="dim")
        busy.append(noise.busy_share())
        alone.append(_alone(_TASKS // scale))
        ours.append(_preannotate("Device", _TASKS // scale))
        ratios.append(ours[-1]["tasks/s"] / alone[-1])
        few.append(_preannotate("Trivial", _FEW // scale)["MiB"])
        many.append(_preannotate("Trivial", _MANY // scale)["MiB"])
    growth = statistics.median(b / a for a, b in zip(few, many, strict=True))
    ratio = statistics.median(ratios)
    goals = [
        [
            f"{_TASKS // scale:,} tasks, file to file: of the model alone",
            number(ratio),
            ">= 0.9",
            "pass" if ratio >= 0.9 else "MISS",
        ],
        [
            f"memory of {_MANY // scale:,} tasks, of {_FEW // scale:,}",
            number(growth),
            "<= 1.2",
            "pass" if growth <= 1.2 else "MISS",
        ],
    ]
    measured = {
        "model alone, tasks/s": alone,
        "preannotate, tasks/s": [one["tasks/s"] for one in ours],
        "preannotate, wall s": [one["wall s"] for one in ours],
        f"memory of {_FEW // scale:,} tasks, MiB": few,
        f"memory of {_MANY // scale:,} tasks, MiB": many,
    }
    rows = [[name, _cell(values)] for name, values in measured.items()]
    head = ("goal", "measured", "wanted", "verdict")
    return [
        Grid("Goals", head, goals),
        Grid("Measured", ("measure", "median (lowest-highest)"), rows),
    ], busy


def _cell(values: list[float]) -> str:
    middle = number(statistics.median(values))
    return f"{middle} ({number(min(values))}-{number(max(values))})"


def _write(described: Mapping[str, str], grids: list[Grid]) -> None:
    parts = ["# What preannotate reaches\n"]
    parts += [f"- {key}: {value}" for key, value in described.items()]
    parts += ["", _HOW, "", *(grid.markdown() for grid in grids)]
    _RESULTS.write_text("\n".join(parts).rstrip() + "\n")


def main(arguments: list[str]) -> int:
    """Measure; 1 if a goal was missed."""
    if arguments[:1] == ["alone"]:
        print(_alone_here(int(arguments[1])))
        return 0
    quick = "--quick" in arguments
    console = Console(width=None if sys.stdout.isatty() else 120)
    grids, busy = _measure(console, 10 if quick else 1)
    for grid in grids:
        grid.draw(console)
    command = " ".join(["python -m benchmarks.preannotating", *arguments])
    described = machine.describe(command, torch_threads=0)
    for unused in ("litserve", "torch threads"):
        del described[unused]
    described["other load"] = noise.describe(busy)
    console.print(f"Other load: {described['other load']}", markup=False)
    if not quick:
        _write(described, grids)
        console.print(f"Written: {_RESULTS}")
    return int(any(row[-1] == "MISS" for row in grids[0].rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
