"""What learns: `bentoml serve benchmarks.learning_service:svc`."""

from __future__ import annotations

from benchmarks.learning.learner import NAME
from lsml_bento import create_service

svc = create_service(
    "benchmarks.learning.learner:Learner", name=NAME, max_batch_size=32
)
