"""lsml-bento serving BENCH_TARGET: `bentoml serve benchmarks.common.service:svc`."""

from __future__ import annotations

import os

from lsml_bento import create_service

svc = create_service(
    os.environ["BENCH_TARGET"], name=os.environ["BENCH_NAME"], max_batch_size=32
)
