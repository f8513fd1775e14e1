"""Backends without code: the supported transformers pipelines."""

from __future__ import annotations

import re
from typing import Literal, get_args

from lsml_bento.backend_spec import service_name_from

Pipeline = Literal[
    "token-classification",
    "text-classification",
    "zero-shot-classification",
    "text-generation",
    "summarization",
    "image-classification",
    "object-detection",
    "automatic-speech-recognition",
]
PIPELINES: tuple[str, ...] = get_args(Pipeline)


def pipeline_name(pipeline: str, model: str) -> str:
    """The default service name: the pipeline and the model's name or directory."""
    last = re.split(r"[/\\]", model.partition("@")[0].rstrip("/\\"))[-1]
    return service_name_from(f"{pipeline}-{last}")
