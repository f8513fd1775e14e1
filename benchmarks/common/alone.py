"""The model alone, in its own process: the speed that no server can exceed.

`python -m benchmarks.common.alone QUESTION WORKLOAD NUMBER` prints the answer as JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import REPOSITORY
from benchmarks.common import tasks, workloads
from benchmarks.common.workloads import BATCH

# Concurrent clients, and the batch size that they can fill.
BATCH_OF_CLIENTS = {1: 1, 8: 8, 64: BATCH}
BULK = 500
WITH_BULK = ("device", "transformer")


def ask(question: str, workload: str, number: float, env: Mapping[str, str]) -> Any:
    """What one of the functions below answers, called in a new process.

    Raises:
        RuntimeError: if it failed; the message has the end of what it printed.
    """
    command = [sys.executable, "-m", "benchmarks.common.alone"]
    done = subprocess.run(
        [*command, question, workload, str(number)],
        cwd=REPOSITORY,
        env=os.environ | dict(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-3:])
        raise RuntimeError(f"The model alone failed ({question} {workload}): {tail}")
    return json.loads(done.stdout.splitlines()[-1])


def clients(name: str, seconds: float) -> dict[str, float]:
    """The limits of the serving benchmark, in tasks/s and milliseconds."""
    workload = workloads.make(name)
    _batch_seconds(workload, name, BATCH, 0.5)
    found: dict[str, float] = {}
    for count, size in BATCH_OF_CLIENTS.items():
        took = _batch_seconds(workload, name, size, seconds)
        found[f"{count}-client req/s"] = size * len(took) / sum(took)
        if size in (1, BATCH):
            label = "1-client p50 ms" if size == 1 else f"batch of {size} ms"
            found[label] = 1000 * statistics.median(took)
    if name in WITH_BULK:
        rates = [_rate(workload, name, BULK) for _ in range(3)]
        found[f"{BULK} in one POST tasks/s"] = statistics.median(rates)
    return found


def batches(name: str, seconds: float) -> dict[str, float]:
    """Tasks per second in batches of 32, and the mean milliseconds of a batch."""
    workload = workloads.make(name)
    _batch_seconds(workload, name, BATCH, min(2.0, seconds))
    took = _batch_seconds(workload, name, BATCH, seconds)
    return {
        "tasks/s": BATCH * len(took) / sum(took),
        "batch ms": 1000 * statistics.mean(took),
    }


def rate(name: str, count: float) -> float:
    """Tasks per second over that many tasks."""
    return _rate(workloads.make(name), name, int(count))


def scores(name: str, count: float) -> list[float]:
    """The scores of tasks 1 to `count`."""
    made = [tasks.task(i + 1, name) for i in range(int(count))]
    answers = workloads.predict_in_batches(workloads.make(name), made)
    return [answer["score"] for answer in answers]


def device(name: str, _: float) -> str:
    """That torch device in words; empty if it is a GPU that torch does not find."""
    import torch  # noqa: PLC0415 - the device workload is measured without torch

    from lsml_bento.torch import inference  # noqa: PLC0415 - it imports torch

    wanted = torch.device(name)
    if wanted.type != "cuda":
        return f"{wanted}, in float32"
    if not torch.cuda.is_available():
        return ""
    with inference(wanted):
        is_cast = torch.is_autocast_enabled("cuda")
    memory = torch.cuda.get_device_properties(wanted).total_memory / 2**30
    return (
        f"{torch.cuda.get_device_name(wanted)}, {memory:.0f} GiB, CUDA "
        f"{torch.version.cuda}, in {'bfloat16 autocast' if is_cast else 'float32'}"
    )


def _batch_seconds(
    workload: workloads.Workload, name: str, size: int, seconds: float
) -> list[float]:
    """How long each call with `size` tasks took, for about that many seconds."""
    made = [tasks.task(i + 1, name) for i in range(size * 16)]
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = len(took) % 16 * size
        started = time.perf_counter()
        workload.predict(made[start : start + size])
        took.append(time.perf_counter() - started)
    return took


def _rate(workload: workloads.Workload, name: str, count: int) -> float:
    made = [tasks.task(i + 1, name) for i in range(count)]
    started = time.perf_counter()
    workloads.predict_in_batches(workload, made)
    return count / (time.perf_counter() - started)


_QUESTIONS: dict[str, Callable[[str, float], object]] = {
    "clients": clients,
    "batches": batches,
    "rate": rate,
    "scores": scores,
    "device": device,
}

if __name__ == "__main__":
    _question, _workload, _number = sys.argv[1:]
    print(json.dumps(_QUESTIONS[_question](_workload, float(_number))))
