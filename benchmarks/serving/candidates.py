"""The servers that are compared: how each is started for a workload."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import tasks as payloads
from benchmarks.common.servers import Server, serve
from benchmarks.serving import setup

_BENTOML = str(Path(sys.executable).with_name("bentoml"))
_SERVE = (_BENTOML, "serve", "--host", "127.0.0.1", "--port", "{port}")

# Its loop waits this long from its own last turn: 0, the default, burns a core, and a
# longer one fills batches at the price of a lone client's latency. Chosen with
# benchmarks/tune.py for 8 and 64 clients; light models lose more by waiting.
LITSERVE_BATCH_TIMEOUT_S = {
    "trivial": 0.002,
    "device": 0.005,
    "transformer": 0.005,
    "pytorch_ner": 0.002,
}


@dataclass(frozen=True)
class Arm:
    """One server under test."""

    name: str
    title: str
    command: tuple[str, ...]
    health: str
    notes: str

    def start(
        self, workload: str, env: dict[str, str]
    ) -> AbstractContextManager[Server]:
        """Serve the workload until the block ends."""
        return serve(
            self.command,
            env=env
            | {
                "BENCH_WORKLOAD": workload,
                "BENCH_LITSERVE_BATCH_TIMEOUT_S": str(
                    LITSERVE_BATCH_TIMEOUT_S[workload]
                ),
            },
            health=self.health,
        )


ARMS = (
    Arm(
        "ours",
        "lsml-bento",
        (*_SERVE, "benchmarks.common.service:svc"),
        "/health",
        "`create_service(..., max_batch_size=32)`, everything else as it comes",
    ),
    Arm(
        "litserve",
        "LitServe",
        (str(setup.PYTHON), "-m", "benchmarks.serving.litserve_service"),
        "/health",
        "max_batch_size 32, fast_queue, 1 API server, 1 worker, access log off; "
        "batch_timeout tuned for each workload ("
        + ", ".join(f"{k} {1000 * v:g} ms" for k, v in LITSERVE_BATCH_TIMEOUT_S.items())
        + "); a larger POST is cut into batches of 32 by its `predict`",
    ),
    Arm(
        "bentoml",
        "BentoML batching",
        (*_SERVE, "benchmarks.serving.bentoml_service:Peer"),
        "/readyz",
        "`batchable=True`, max_batch_size 32, max_latency_ms 300,000 (nothing is "
        "refused), 1 worker, access log off, uvloop and httptools",
    ),
)
NAMES = tuple(arm.name for arm in ARMS)


def environment(torch_threads: int) -> dict[str, str]:
    """What every arm and the model alone get: the same threads, a home of their own."""
    threads = str(torch_threads)
    return {
        "BENCH_TORCH_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "BENCH_PORT": "{port}",
        "BENCH_HEAP_FILE": "{home}/heap.json",
        "LSML_HOME": "{home}/lsml",
        "BENTOML_HOME": "{home}/bentoml",
        "BENTOML_DO_NOT_TRACK": "true",
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(payloads.REPOSITORY), os.environ.get("PYTHONPATH")))
        ),
    }
