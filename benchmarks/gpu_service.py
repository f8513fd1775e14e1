"""`bentoml serve benchmarks.gpu_service:svc`: BENCH_WORKLOAD on BENCH_DEVICE."""

from __future__ import annotations

import os

from benchmarks.accelerated import CLASSES
from benchmarks.common import workloads
from lsml_bento import create_service

_WORKLOAD = os.environ["BENCH_WORKLOAD"]

svc = create_service(
    f"benchmarks.accelerated:{CLASSES[_WORKLOAD].__name__}",
    name=f"bench-gpu-{_WORKLOAD}",
    max_batch_size=workloads.BATCH,
)
