"""`python -m benchmarks.preannotation`: what preannotate must reach, preannotation.md.

The device model of `workloads.py` over a file of tasks, beside the same model alone;
and how much memory a hundred times as many tasks take. `--quick` takes a tenth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import machine, workloads
from benchmarks.common import tasks as payloads
from benchmarks.common.page import Page, exit_on_sigterm, wide_console
from benchmarks.common.samples import OURS
from benchmarks.goals import Goal, Measure

_RESULTS = Path(__file__).with_name("results.md")
_TOOL = Path(sys.executable).with_name("lsml-bento")
_HOW = """\
Each number is a process of its own: `lsml-bento preannotate
benchmarks.common.models:Device` reads tasks from a file of JSON Lines and
writes them to another with their predictions;
the model alone is called with tasks in memory, in batches of 32. Both rates are taken
from the first call on, once the model is made; "wall" is the whole command, start of
Python included. The rounds take turns, and ratios are medians of each round's own.
Memory is the highest resident set of the process (`ru_maxrss`), with the trivial model,
which leaves reading and writing the least time to wait for it."""

_ROUNDS = 3
_TASKS = 20_000
_FEW, _MANY = 1_000, 100_000

_TABLE = "Measured"
_ALONE = "model alone, tasks/s"
_OURS = "preannotate, tasks/s"


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
        command = [
            str(_TOOL),
            "preannotate",
            f"benchmarks.common.models:{model}",
            "--json",
        ]
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
        check(place / "output.jsonl", count)
    report = json.loads(answer)
    return {
        "tasks/s": report["predicted"] / report["seconds"],
        "wall s": wall,
        "MiB": usage.ru_maxrss / 1024,
    }


def check(output: Path, count: int) -> None:
    """See that each task has its own answer, which holds the task's id."""
    task_id = 0
    with output.open() as lines:
        for task_id, line in enumerate(lines, 1):
            [prediction] = json.loads(line)["predictions"]
            if prediction["result"][0]["id"] != f"t{task_id}":
                raise RuntimeError(f"line {task_id} has the answer of another task")
    if task_id != count:
        raise RuntimeError(f"{task_id} lines for {count} tasks")


def _alone(count: int) -> float:
    """Tasks/s of the model in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.preannotation", "alone", str(count)]
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


def _round(page: Page, index: int, scale: int) -> None:
    tasks = _TASKS // scale
    ours = _preannotate("Device", tasks)
    found = {
        _ALONE: _alone(tasks),
        _OURS: ours["tasks/s"],
        "preannotate, wall s": ours["wall s"],
        _memory(_FEW // scale): _preannotate("Trivial", _FEW // scale)["MiB"],
        _memory(_MANY // scale): _preannotate("Trivial", _MANY // scale)["MiB"],
    }
    page.samples.add(_TABLE, OURS, index, found)


def _memory(tasks: int) -> str:
    return f"memory of {tasks:,} tasks, MiB"


def _ratio(measure: str, over: str) -> Measure:
    return lambda samples: samples.median_ratio(_TABLE, measure, OURS, OURS, over)


def _goals(scale: int) -> list[Goal]:
    few, many = _FEW // scale, _MANY // scale
    return [
        Goal(
            f"{_TASKS // scale:,} tasks, file to file: of the model alone",
            0.9,
            "",
            _ratio(_OURS, _ALONE),
            at_least=True,
        ),
        Goal(
            f"memory of {many:,} tasks, of {few:,}",
            1.2,
            "",
            _ratio(_memory(many), _memory(few)),
        ),
    ]


def main(arguments: list[str]) -> int:
    """Measure; 1 if a part failed or a goal was missed."""
    if arguments[:1] == ["alone"]:
        print(_alone_here(int(arguments[1])))
        return 0
    exit_on_sigterm()
    quick = "--quick" in arguments
    scale = 10 if quick else 1
    command = " ".join(["python -m benchmarks.preannotation", *arguments])
    described = machine.describe(command, torch_threads=0)
    for unused in ("litserve", "torch threads"):
        del described[unused]
    page = Page(
        "What preannotate reaches",
        described,
        _HOW,
        _goals(scale),
        {OURS: "median (lowest-highest)"},
        wide_console(120),
        None if quick else _RESULTS,
    )
    for index in range(1 if quick else _ROUNDS):
        with page.turn(f"round {index + 1}"):
            _round(page, index, scale)
        page.write()
    page.end()
    return int(bool(page.failures) or page.is_missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
