"""The servers that are compared, and how each is started."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.common.models import TARGETS
from benchmarks.common.samples import OURS
from benchmarks.common.servers import BENTOML_SERVE, SERVICE, Server, serve
from benchmarks.serving import setup

# LitServe waits this long from the start of its own loop: 0, the default, burns a core,
# and a long wait fills batches but delays a single client. These values did best on a
# quiet machine over 1, 8 and 64 clients, among 0, 1, 2, 5 and 10 ms. To measure others:
# python -m benchmarks.serving --servers litserve --only device --litserve-timeout-ms 2
LITSERVE_BATCH_TIMEOUT_MS = {
    "trivial": 2.0,
    "device": 5.0,
    "transformer": 5.0,
    "pytorch_ner": 2.0,
}


@dataclass(frozen=True)
class Candidate:
    """One server under test.

    Attributes:
        health: the path that answers 200 once it is healthy.
        notes: its settings, for the page.
    """

    name: str
    title: str
    command: tuple[str, ...]
    health: str
    notes: str

    def start(
        self, workload: str, env: dict[str, str]
    ) -> AbstractContextManager[Server]:
        """Serve the workload until the block ends."""
        env = {
            "BENCH_PORT": "{port}",
            "BENCH_WORKLOAD": workload,
            "BENCH_TARGET": TARGETS[workload],
            "BENCH_NAME": "bench-" + workload.replace("_", "-"),
            "BENCH_LITSERVE_TIMEOUT_MS": str(LITSERVE_BATCH_TIMEOUT_MS[workload]),
        } | env
        return serve(self.command, env=env, health=self.health)


CANDIDATES = (
    Candidate(
        OURS,
        "lsml-bento",
        SERVICE,
        "/health",
        "`create_service(..., max_batch_size=32)`, other settings at their defaults",
    ),
    Candidate(
        "litserve",
        "LitServe",
        (str(setup.PYTHON), "-m", "benchmarks.serving.litserve_service"),
        "/health",
        "max_batch_size 32, fast_queue, 1 API server, 1 worker, access log off, "
        "batch_timeout tuned for each workload ("
        + ", ".join(f"{k} {v:g} ms" for k, v in LITSERVE_BATCH_TIMEOUT_MS.items())
        + "); its `predict` splits a larger POST into batches of 32",
    ),
    Candidate(
        "bentoml",
        "BentoML batching",
        (*BENTOML_SERVE, "benchmarks.serving.bentoml_service:Peer"),
        "/readyz",
        "`batchable=True`, max_batch_size 32, max_latency_ms 300,000 (so that nothing "
        "is refused), 1 worker, access log off, uvloop and httptools",
    ),
)
