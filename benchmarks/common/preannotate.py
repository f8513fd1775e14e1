"""`lsml-bento preannotate` from file to file, with every answer checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import REPOSITORY
from benchmarks.common import tasks
from benchmarks.common.servers import own_home
from benchmarks.common.workloads import BATCH

_TOOL = Path(sys.executable).with_name("lsml-bento")


@dataclass(frozen=True)
class Run:
    """What a run of the command measured.

    Attributes:
        rate: tasks per second, as the command reports it: without making the model.
        wall_s: the whole command, with the start of Python.
        mib: the highest resident memory of the process.
        scores: of the first tasks.
    """

    rate: float
    wall_s: float
    mib: float
    scores: list[float]


def preannotate(
    target: str, workload: str, count: int, env: Mapping[str, str] | None = None
) -> Run:
    """Predict that many tasks of a workload.

    Raises:
        RuntimeError: if the command failed, or a task got another task's prediction.
    """
    with tempfile.TemporaryDirectory(prefix="lsml-bench-") as directory:
        home = Path(directory)
        config, source, output = (
            home / name for name in ("config.xml", "tasks.jsonl", "output.jsonl")
        )
        config.write_text(tasks.label_config(workload))
        with source.open("w") as file:
            for task_id in range(1, count + 1):
                task = {"id": task_id, "data": {"text": tasks.text(task_id, workload)}}
                file.write(json.dumps(task) + "\n")
        command = [str(_TOOL), "preannotate", target, "--json"]
        command += ["--label-config", str(config), "--tasks", str(source)]
        command += ["--output", str(output)]
        environ = os.environ | own_home(home) | {"LSML_MAX_BATCH_SIZE": str(BATCH)}
        began = time.perf_counter()
        answer, mib = _run(command, environ | dict(env or {}), home / "log")
        wall_s = time.perf_counter() - began
        scores = check(output, count)
    rate = answer["predicted"] / answer["seconds"]
    return Run(rate, wall_s, mib, scores)


def _run(
    command: list[str], env: Mapping[str, str], log: Path
) -> tuple[dict[str, Any], float]:
    """What the command printed, and its highest resident memory in MiB."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        answer = process.stdout.read()
        process.stdout.close()
        # wait4 also returns the memory of this process alone.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise RuntimeError(f"preannotate exited with {process.returncode}: {tail}")
    found: dict[str, Any] = json.loads(answer)
    return found, usage.ru_maxrss / 1024


def check(output: Path, count: int, scored: int = 64) -> list[float]:
    """The first scores of an output in which each task has its own prediction.

    Raises:
        RuntimeError: naming the first task that has not.
    """
    scores: list[float] = []
    task_id = 0
    with output.open("rb") as lines:
        for task_id, line in enumerate(lines, 1):
            task = json.loads(line)
            predictions = json.dumps(task["predictions"]).encode()
            wrong = tasks.problem(predictions, range(task_id, task_id + 1))
            if wrong or task["id"] != task_id:
                raise RuntimeError(wrong or f"Line {task_id} is task {task['id']}")
            if task_id <= scored:
                scores.append(task["predictions"][0]["score"])
    if task_id != count:
        raise RuntimeError(f"{output.name} has {task_id} lines for {count} tasks")
    return scores
