"""lsml_bento's arm: `bentoml serve benchmarks.common.service:svc`."""

from __future__ import annotations

import os

from benchmarks import heap
from lsml_bento import create_service

_TARGETS = {
    "trivial": "benchmarks.common.models:Trivial",
    "device": "benchmarks.common.models:Device",
    "transformer": "benchmarks.common.models:Transformer",
    "pytorch_ner": "examples.pytorch_ner.backend:NER",
}
_WORKLOAD = os.environ["BENCH_WORKLOAD"]

heap.dump_on_signal()
svc = create_service(
    _TARGETS[_WORKLOAD],
    name="bench-" + _WORKLOAD.replace("_", "-"),
    max_batch_size=32,
)
