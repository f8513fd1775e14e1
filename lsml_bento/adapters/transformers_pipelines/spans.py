"""token-classification: entities as ``<Labels>`` on ``<Text>``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lsml_bento.adapters.transformers_pipelines.filling import (
    WINDOWS,
    Filling,
    Options,
    Prediction,
    mean,
    read_options,
)
from lsml_bento.adapters.transformers_pipelines.pretrained import Pretrained
from lsml_bento.adapters.transformers_pipelines.target import match_target
from lsml_bento.errors import ModelSetupError
from lsml_bento.model.base_class import LabelStudioMLBase

_WINDOW = 512
"""Tokens of a window, for models that do not state their maximum."""


class _SpanOptions(Options):
    threshold: float = Field(0.0, ge=0, le=1)
    aggregation_strategy: Literal["simple", "first", "average", "max"] | None = None


class Spans(Filling):
    """Entities in texts of any length.

    A long text is split into windows that overlap by a quarter. Of two overlapping
    entities the longer one is kept.
    """

    def __init__(self, model: LabelStudioMLBase, pretrained: Pretrained) -> None:
        self.options = read_options(_SpanOptions, model)
        names = [name for name in map(_group, pretrained.labels) if name != "O"]
        self.target = match_target(
            model, pretrained, "Labels", "Text", list(dict.fromkeys(names))
        )

    @classmethod
    def load(cls, pretrained: Pretrained) -> Any:
        """The pipeline, with a tokenizer that splits texts into windows."""
        pipe = pretrained.pipe(pads=True)
        if not pipe.tokenizer.is_fast:
            raise ModelSetupError(
                f"the tokenizer of {pretrained.name} does not return offsets: use a "
                "model with a fast tokenizer (tokenizer.json)"
            )
        pretrained.bound(pipe.tokenizer, _WINDOW)
        return pipe

    def predict(self, pipe: Any, inputs: list[str]) -> list[Prediction]:
        """The entities in each text, with offsets in code points."""
        found = pipe(
            inputs,
            batch_size=max(len(inputs), WINDOWS),
            stride=pipe.tokenizer.model_max_length // 4,
            aggregation_strategy=self.options.aggregation_strategy or _strategy(pipe),
        )
        return [self._prediction(*one) for one in zip(inputs, found, strict=True)]

    def _prediction(self, text: str, entities: list[dict[str, Any]]) -> Prediction:
        result, scores = [], []
        for entity in entities:
            label = self.target.labels.get(entity["entity_group"])
            start, end = _trimmed(text, int(entity["start"]), int(entity["end"]))
            score = float(entity["score"])
            if label is None or start == end or score < self.options.threshold:
                continue
            value = {"start": start, "end": end, "text": text[start:end]}
            value |= {"labels": [label]}
            result.append(self.target.region(value, score=score))
            scores.append(score)
        return {"result": result, "score": mean(scores)}


def _group(label: str) -> str:
    """The label without ``B-`` or ``I-``, as the pipeline groups entities."""
    return label.split("-", 1)[-1]


def _strategy(pipe: Any) -> str:
    """Whole words if the tokenizer marks them (WordPiece), else adjacent tokens."""
    model = getattr(getattr(pipe.tokenizer, "_tokenizer", None), "model", None)
    return "first" if getattr(model, "continuing_subword_prefix", None) else "simple"


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Offsets without the white space that some tokenizers include in a word."""
    found = text[start:end]
    start += len(found) - len(found.lstrip())
    return start, start + len(found.strip())
