"""The public API as users write it; read by mypy, run by nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import assert_type

from lsml_bento import (
    LabelStudioMLBase,
    ModelResponse,
    PredictionValue,
    create_service,
    predict_fn,
    update_fn,
)
from lsml_bento.testing import Client, client_for


class Typed(LabelStudioMLBase):
    """Everything that a class may override, with its types."""

    INITIAL_MODEL_VERSION = "1.0.0"
    TRAIN_EVENTS = ("START_TRAINING",)
    thread_safe = True
    share_loaded = False

    def setup(self) -> None:
        self.set("model_version", "typed-1")

    def load(self, weights: Path | None) -> None:
        self.threshold = 0.5 if weights is None else 0.7

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ModelResponse:
        from_name, to_name, value = self.get_first_tag_occurence("Choices", "Text")
        assert_type((from_name, to_name, value), tuple[str, str, str])
        predictions = [PredictionValue(result=[], score=self.threshold) for _ in tasks]
        return ModelResponse(predictions=[*predictions])

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"event": event, "label_map": self.build_label_map("choice", ["a"])}


class ReturnsDicts(LabelStudioMLBase):
    """Plain values instead of classes."""

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any] | None]:
        return [{"result": [], "score": 0.1} if task else None for task in tasks]


class ReturnsNothing(LabelStudioMLBase):
    """No predictions at all."""

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        return None


@predict_fn
def predict(
    tasks: list[dict[str, Any]], context: dict[str, Any] | None, helper: Typed
) -> list[dict[str, Any]]:
    """A function in a class's place."""
    assert_type(helper.label_config, str)
    assert_type(helper.parsed_label_config, dict[str, Any])
    return [{"result": []} for _ in tasks]


@update_fn
def update(event: str, data: dict[str, Any], helper: Typed) -> None:
    """A function in the place of ``fit``."""


assert_type(predict([], None, Typed()), list[dict[str, Any]])
assert_type(Typed(project_id="1", label_config="<View/>").project_id, str)
assert_type(Typed().get_local_path("s3://bucket/key", task_id=1), str)

by_class = create_service(Typed, name="typed", max_batch_size=8)
by_name = create_service("model:Typed", threads=4, workers=2, gpus=1)
client = client_for(Typed)
assert_type(client, Client)
