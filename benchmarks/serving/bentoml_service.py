"""BentoML's own batching: `bentoml serve benchmarks.serving.bentoml_service:Peer`."""

from __future__ import annotations

import os
from typing import Any

import bentoml

from benchmarks.common import workloads

_TIMEOUT_S = 300


@bentoml.service(
    name="bench-bentoml-batching",
    workers=1,
    traffic={"timeout": _TIMEOUT_S},
    logging={"access": {"enabled": False}},
)
class Peer:
    """Its route is a batchable method, BentoML's shortest path.

    The method takes one list, so the other keys of the body are dropped, and it returns
    a plain list without the `results` key: less work than Label Studio asks for.
    """

    def __init__(self) -> None:
        self.workload = workloads.make(os.environ["BENCH_WORKLOAD"])

    # max_latency_ms equals the timeout: BentoML splits a large POST into batches that
    # keep its time of arrival, and cancels them once max_latency_ms has passed.
    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/predict",
        batchable=True,
        max_batch_size=workloads.BATCH,
        max_latency_ms=_TIMEOUT_S * 1000,
    )
    def predict(self, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.workload.predict(tasks)
