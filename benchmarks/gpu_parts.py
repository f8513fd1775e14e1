"""What benchmarks/gpu.py measures: the model alone, served, and from file to file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import accelerated, prometheus, verify
from benchmarks.accelerated import FILES, SERVED
from benchmarks.common import tasks as payloads
from benchmarks.common import wrk as load
from benchmarks.common.servers import Server, serve
from benchmarks.common.workloads import BATCH
from benchmarks.serving import candidates as arms

CLIENTS = 64
FAILED = f"{CLIENTS} clients, failed"
MEAN_BATCH = f"{CLIENTS} clients, mean batch"
COMPARED = 64
CLOSE = 0.02

_BIN = Path(sys.executable).parent
_BATCH_SIZE = "bentoml_service_adaptive_batch_size"
_LIMIT_S = 300


@dataclass(frozen=True)
class Plan:
    """How often and how much; seconds. Ten minutes on an H100."""

    rounds: int = 2
    seconds: float = 10.0
    tasks: int = 40_000


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
        timeout=_LIMIT_S,
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-3:])
        raise RuntimeError(f"the model alone failed: {tail}")
    return json.loads(done.stdout.splitlines()[-1])


@cache
def _expected(name: str) -> list[float]:
    """The scores of the first tasks, in float32 on the CPU."""
    env = arms.environment(os.cpu_count() or 1) | {"BENCH_DEVICE": "cpu"}
    found: list[float] = json_of(["scores", name, str(COMPARED)], env)
    return found


def _compare(name: str, scores: Sequence[float]) -> None:
    """See that the first tasks got the scores that float32 gives them.

    Raises:
        RuntimeError: naming the first one that did not.
    """
    wrong = verify.far_score(scores, _expected(name)[: len(scores)], CLOSE)
    if wrong:
        raise RuntimeError(wrong)


def alone(name: str, plan: Plan, env: dict[str, str]) -> dict[str, float]:
    found: dict[str, float] = json_of(["alone", name, str(plan.seconds)], env)
    return found


def served(name: str, plan: Plan, env: dict[str, str]) -> dict[str, float]:
    load.require_tools()
    command = [str(_BIN / "bentoml"), "serve", "--host", "127.0.0.1"]
    command += ["--port", "{port}", "benchmarks.gpu_service:svc"]
    with serve(
        command, env=env | {"BENCH_WORKLOAD": name}, health="/health", limit_s=120
    ) as server:
        return _asked(server, name, plan)


def _asked(server: Server, name: str, plan: Plan) -> dict[str, float]:
    url, metrics = f"{server.url}/predict", f"{server.url}/metrics"
    first = range(1, COMPARED + 1)
    _, answer = load.post_once(url, payloads.body(name, first))
    wrong = verify.concurrent(server.port, name)
    if problem := verify.problem(answer, first):
        wrong.append(problem)
    if wrong:
        raise RuntimeError(f"{len(wrong)} wrong answers, first: {wrong[0]}")
    _compare(name, [slot["score"] for slot in verify.slots(answer)])
    bodies = payloads.singles(name, 256)
    load.closed_loop(url, bodies, clients=CLIENTS, seconds=1)
    sizes, batches = prometheus.sum_and_count(metrics, _BATCH_SIZE)
    seen = load.closed_loop(url, bodies, clients=CLIENTS, seconds=plan.seconds)
    all_sizes, all_batches = prometheus.sum_and_count(metrics, _BATCH_SIZE)
    return {
        SERVED: seen.per_second,
        f"{CLIENTS} clients, p50 ms": seen.p50,
        f"{CLIENTS} clients, p99 ms": seen.p99,
        FAILED: seen.failed,
        MEAN_BATCH: (all_sizes - sizes) / max(1.0, all_batches - batches),
    }


def files(name: str, plan: Plan, env: dict[str, str]) -> dict[str, float]:
    """The rate that the command itself tells, once its model was made.

    Raises:
        RuntimeError: if it failed, or an answer is not its own task's.
    """
    with tempfile.TemporaryDirectory(prefix="lsml-bench-") as home:
        config, tasks, output = (
            Path(home, part) for part in ("config.xml", "tasks.jsonl", "output.jsonl")
        )
        config.write_text(payloads.label_config(name))
        with tasks.open("w") as file:
            for i in range(plan.tasks):
                file.write(json.dumps(payloads.task(i + 1, name)) + "\n")
        target = f"benchmarks.accelerated:{accelerated.CLASSES[name].__name__}"
        command = [str(_BIN / "lsml-bento"), "preannotate", target, "--json"]
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
            timeout=_LIMIT_S,
        )
        wall = time.perf_counter() - started
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
            raise RuntimeError(f"preannotate ended with {done.returncode}: {tail}")
        _compare(name, _scores(output, plan.tasks))
    report = json.loads(done.stdout)
    return {
        FILES: report["predicted"] / report["seconds"],
        "file to file, all s": wall,
    }


def _scores(output: Path, count: int) -> list[float]:
    """The first scores of an output in which each answer is its own task's."""
    found: list[float] = []
    written = 0
    with output.open("rb") as lines:
        for written, line in enumerate(lines, start=1):
            task = json.loads(line)
            [prediction] = task["predictions"]
            slots = json.dumps([prediction]).encode()
            wrong = verify.problem(slots, range(written, written + 1))
            if wrong or task["id"] != written:
                raise RuntimeError(wrong or f"line {written} is task {task['id']}")
            if written <= COMPARED:
                found.append(prediction["score"])
    if written != count:
        raise RuntimeError(f"{written} of {count} tasks are in the output")
    return found
