"""Label Studio ML backends on BentoML: write one class, serve it, train it."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsml_bento.model.base_class import LabelStudioMLBase, predict_fn, update_fn
    from lsml_bento.model.response import ModelResponse, PredictionValue
    from lsml_bento.model.training_policy import TrainingPolicy
    from lsml_bento.processes.server import create_service

__all__ = [
    "LabelStudioMLBase",
    "ModelResponse",
    "PredictionValue",
    "TrainingPolicy",
    "create_service",
    "predict_fn",
    "update_fn",
]

_HOMES = {
    "LabelStudioMLBase": "model.base_class",
    "ModelResponse": "model.response",
    "PredictionValue": "model.response",
    "TrainingPolicy": "model.training_policy",
    "create_service": "processes.server",
    "predict_fn": "model.base_class",
    "update_fn": "model.base_class",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: a model does not need BentoML."""
    if name == "__version__":
        return version("lsml-bento")
    if name in _HOMES:
        return getattr(import_module(f"lsml_bento.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lsml_bento' has no attribute {name!r}")
