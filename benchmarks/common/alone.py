"""The model alone, in a process of its own: what no server can exceed."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks.common import tasks as payloads
from benchmarks.common import workloads

# So many closed-loop clients fill batches of so many tasks.
BATCH_OF_CLIENTS = {1: 1, 8: 8, 64: workloads.BATCH}
BULK = 500
WITH_BULK = ("device", "transformer")


def batch_seconds(
    workload: workloads.Workload, size: int, seconds: float, name: str = ""
) -> list[float]:
    """Durations of calls with `size` of that workload's tasks, for about that long."""
    tasks = [payloads.task(i + 1, name) for i in range(size * 16)]
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = len(took) % 16 * size
        started = time.perf_counter()
        workload.predict(tasks[start : start + size])
        took.append(time.perf_counter() - started)
    return took


def bulk_seconds(workload: workloads.Workload, count: int) -> float:
    """How long `count` tasks take in batches of the usual size."""
    tasks = [payloads.task(i + 1) for i in range(count)]
    started = time.perf_counter()
    workloads.predict_in_batches(workload, tasks)
    return time.perf_counter() - started


def measure(name: str, seconds: float) -> dict[str, float]:
    """All limits of one workload, in tasks/s and milliseconds."""
    workload = workloads.make(name)
    batch_seconds(workload, workloads.BATCH, 0.5)
    found: dict[str, float] = {}
    for clients, size in BATCH_OF_CLIENTS.items():
        took = batch_seconds(workload, size, seconds)
        found[f"{clients}-client req/s"] = size * len(took) / sum(took)
        if size in (1, workloads.BATCH):
            label = "1-client p50 ms" if size == 1 else f"batch of {size} ms"
            found[label] = 1000 * statistics.median(took)
    if name in WITH_BULK:
        bulk = statistics.median(bulk_seconds(workload, BULK) for _ in range(3))
        found[f"{BULK} in one POST tasks/s"] = BULK / bulk
    return found


def run(name: str, seconds: float, env: dict[str, str]) -> dict[str, float]:
    """`measure` in a fresh process, with the environment of the servers."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.common.alone", name, str(seconds)],
        cwd=payloads.REPOSITORY,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-3:])
        raise RuntimeError(f"the model alone ({name}) failed: {tail}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=workloads.NAMES)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    print(json.dumps(measure(options.workload, options.seconds)))


if __name__ == "__main__":
    main()
