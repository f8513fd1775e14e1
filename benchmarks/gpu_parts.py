"""What benchmarks/gpu.py measures: the model alone, served, and from file to file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import accelerated, load, payloads, verify
from benchmarks.accelerated import FILES, SERVED
from benchmarks.servers import Server, serve
from benchmarks.workloads import BATCH

CLIENTS = 64
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Plan:
    """How often and how much; seconds."""

    rounds: int = 3
    seconds: float = 10.0
    tasks: int = 100_000


def json_of(arguments: list[str], env: dict[str, str]) -> Any:
    """What `benchmarks.accelerated` prints in a process of its own.

    Raises:
        RuntimeError: with the end of what it wrote, if it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.accelerated", *arguments],
        cwd=payloads.REPOSITORY,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-3:])
        raise RuntimeError(f"the model alone failed: {tail}")
    return json.loads(done.stdout.splitlines()[-1])


def alone(name: str, plan: Plan, env: dict[str, str]) -> dict[str, float]:
    found: dict[str, float] = json_of([name, str(plan.tasks), str(plan.seconds)], env)
    return found


def served(name: str, plan: Plan, env: dict[str, str]) -> dict[str, float]:
    command = [str(_BIN / "bentoml"), "serve", "--host", "127.0.0.1"]
    command += ["--port", "{port}", "benchmarks.gpu_service:svc"]
    with serve(command, env=env | {"BENCH_WORKLOAD": name}, health="/health") as server:
        return _asked(server, plan)


def _asked(server: Server, plan: Plan) -> dict[str, float]:
    wrong = verify.concurrent(server.port, "transformer")
    if wrong:
        raise RuntimeError(f"{len(wrong)} wrong answers, first: {wrong[0]}")
    url, bodies = f"{server.url}/predict", payloads.singles("transformer", 256)
    load.closed_loop(url, bodies, clients=CLIENTS, seconds=1)
    seen = load.closed_loop(url, bodies, clients=CLIENTS, seconds=plan.seconds)
    return {
        SERVED: seen.per_second,
        f"{CLIENTS} clients, p50 ms": seen.p50,
        f"{CLIENTS} clients, p99 ms": seen.p99,
        f"{CLIENTS} clients, failed": seen.failed,
    }


def files(name: str, plan: Plan, env: dict[str, str]) -> dict[str, float]:
    start_up = _preannotate(name, BATCH, env)
    whole = _preannotate(name, plan.tasks + BATCH, env)
    if whole <= start_up:
        raise RuntimeError(f"{plan.tasks} tasks are too few: start-up is all there is")
    return {
        FILES: plan.tasks / (whole - start_up),
        "file to file, start-up and one batch s": start_up,
        "file to file, all s": whole,
    }


def _preannotate(name: str, count: int, env: dict[str, str]) -> float:
    """Seconds of the whole command, its output checked.

    Raises:
        RuntimeError: if it failed, or an answer is not its own task's.
    """
    with tempfile.TemporaryDirectory(prefix="lsml-bench-") as home:
        config, tasks, output = (
            Path(home, part) for part in ("config.xml", "tasks.jsonl", "output.jsonl")
        )
        config.write_text(payloads.label_config("transformer"))
        with tasks.open("w") as file:
            for i in range(count):
                file.write(json.dumps(payloads.task(i + 1)) + "\n")
        target = f"benchmarks.accelerated:{accelerated.CLASSES[name].__name__}"
        command = [str(_BIN / "lsml-bento"), "preannotate", target]
        command += ["--label-config", str(config), "--tasks", str(tasks)]
        command += ["--output", str(output)]
        filled = {key: value.format(port=0, home=home) for key, value in env.items()}
        started = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=payloads.REPOSITORY,
            env=os.environ | filled | {"LSML_MAX_BATCH_SIZE": str(BATCH)},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
            raise RuntimeError(f"preannotate ended with {done.returncode}: {tail}")
        _check(output, count)
        return seconds


def _check(output: Path, count: int) -> None:
    written = 0
    with output.open("rb") as lines:
        for line in lines:
            written += 1
            task = json.loads(line)
            slots = json.dumps([task["predictions"][0]]).encode()
            wrong = verify.problem(slots, range(task["id"], task["id"] + 1))
            if wrong or task["id"] != written:
                raise RuntimeError(wrong or f"line {written} is task {task['id']}")
    if written != count:
        raise RuntimeError(f"{written} of {count} tasks are in the output")
