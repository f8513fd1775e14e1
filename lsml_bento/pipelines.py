"""Backends without code: the transformers pipelines that one can be made of."""

from __future__ import annotations

import re
from typing import Literal, get_args

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

_NAME_LENGTH = 63


def pipeline_name(pipeline: str, model: str) -> str:
    """A service's name made of a pipeline and its model's name or directory."""
    last = re.split(r"[/\\]", model.partition("@")[0].rstrip("/\\"))[-1]
    name = re.sub(r"[^a-z0-9._-]+", "-", f"{pipeline}-{last}".lower())
    return name[:_NAME_LENGTH].rstrip("._-")
