"""text-classification and zero-shot-classification: ``<Choices>`` on ``<Text>``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, field_validator

from lsml_bento.adapters.transformers_pipelines.filling import (
    WINDOWS,
    Filling,
    Options,
    Prediction,
    read_options,
)
from lsml_bento.adapters.transformers_pipelines.pretrained import Pretrained
from lsml_bento.adapters.transformers_pipelines.target import (
    Target,
    find_targets,
    listed,
    match_target,
)
from lsml_bento.errors import ModelSetupError
from lsml_bento.model.base_class import LabelStudioMLBase

_LENGTH = 512
"""Tokens per text, for models that do not state their maximum."""


class ChoiceOptions(Options):
    """Extra params of classifiers."""

    threshold: float | None = Field(None, ge=0, le=1)


class ZeroShotOptions(ChoiceOptions):
    """Extra params of zero-shot-classification."""

    hypothesis_template: str = "This example is {}."

    @field_validator("hypothesis_template")
    @classmethod
    def _has_a_place(cls, template: str) -> str:
        choice = "the choice"
        try:
            has_one = choice in template.format(choice)
        except (ValueError, LookupError, AttributeError):
            has_one = False
        if not has_one:
            raise ValueError(
                "write one {} in the place of the choice, and no other braces"
            )
        return template


def choose(
    target: Target,
    scores: Mapping[str, float],
    threshold: float | None,
    *,
    exclusive: bool,
) -> Prediction:
    """Pick choices by the model's scores.

    Args:
        target: the control.
        scores: of the model's labels, by their names.
        threshold: the minimum score. By default 0 if the labels are mutually
            exclusive, else 0.5.
        exclusive: whether the model's labels are mutually exclusive.

    Returns:
        A prediction without a choice if the label config lacks the model's best label.
    """
    least = (0.0 if exclusive else 0.5) if threshold is None else threshold
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    if exclusive or not target.is_multiple:
        ranked = ranked[:1]
    picked = [n for n in ranked if scores[n] >= least and n in target.labels]
    if not picked:
        return {"result": []}
    names = list(dict.fromkeys(target.labels[name] for name in picked))
    score = sum(scores[name] for name in picked) / len(picked)
    return {"result": [target.region({"choices": names}, score=score)], "score": score}


class ClassifierChoices(Filling):
    """Choices for an object, from a classifier."""

    on: ClassVar[str]
    """The object tag."""

    def __init__(self, model: LabelStudioMLBase, pretrained: Pretrained) -> None:
        self.options = read_options(ChoiceOptions, model)
        if pretrained.config.problem_type == "regression":
            raise ModelSetupError(
                f"the model {pretrained.name} returns numbers (problem_type is "
                "regression), which cannot fill <Choices>: use a classification model"
            )
        self.target = match_target(
            model, pretrained, "Choices", self.on, pretrained.labels
        )
        self._exclusive = not pretrained.is_multi_label

    def chosen(self, found: Iterable[list[dict[str, Any]]]) -> list[Prediction]:
        """Choices from the pipeline's output for each input: labels with scores."""
        return [
            choose(
                self.target,
                {one["label"]: one["score"] for one in scores},
                self.options.threshold,
                exclusive=self._exclusive,
            )
            for scores in found
        ]


class TextChoices(ClassifierChoices):
    """Choices for a text, from its first tokens."""

    on = "Text"

    @classmethod
    def load(cls, pretrained: Pretrained) -> Any:
        """The pipeline, with a tokenizer that truncates and pads."""
        pipe = pretrained.pipe(pads=True)
        pretrained.bound(pipe.tokenizer, _LENGTH)
        return pipe

    def predict(self, pipe: Any, inputs: list[str]) -> list[Prediction]:
        return self.chosen(
            pipe(inputs, batch_size=len(inputs), top_k=None, truncation=True)
        )


class ZeroShotChoices(Filling):
    """Choices for a text, from a model that judges whether a statement holds.

    The statement for a choice uses its ``predicted_values``, else its ``value``.
    """

    def __init__(self, model: LabelStudioMLBase, pretrained: Pretrained) -> None:
        self.options = read_options(ZeroShotOptions, model)
        if not any(n.lower().startswith("entail") for n in pretrained.labels):
            raise ModelSetupError(
                f"the model {pretrained.name} has {listed(pretrained.labels)}, and "
                "zero-shot-classification needs a model trained on natural language "
                "inference, with a label named entailment: use such a model"
            )
        target = find_targets(model, pretrained, "Choices", "Text")[0]
        if not target.choices:
            raise ModelSetupError(
                f'<Choices name="{target.from_name}"> of the label config has no '
                "<Choice>: add the choices that the model should score"
            )
        self.target = replace(target, labels=_wordings(model, target))

    @classmethod
    def load(cls, pretrained: Pretrained) -> Any:
        return TextChoices.load(pretrained)

    def predict(self, pipe: Any, inputs: list[str]) -> list[Prediction]:
        wordings = list(self.target.labels)
        found = pipe(
            inputs,
            candidate_labels=wordings,
            hypothesis_template=self.options.hypothesis_template,
            multi_label=self.target.is_multiple,
            batch_size=max(len(inputs), WINDOWS),
        )
        return [
            choose(
                self.target,
                dict(zip(one["labels"], one["scores"], strict=True)),
                self.options.threshold,
                exclusive=not self.target.is_multiple,
            )
            for one in found
        ]


def _wordings(model: LabelStudioMLBase, target: Target) -> dict[str, str]:
    tags = model.label_interface.get_control(target.from_name).labels_attrs or {}
    words = {}
    for choice in target.choices:  # aliases where they are set
        said = tags[choice].attr if choice in tags else {}
        hints = said.get("predicted_values", "").split(",")
        given = [hint.strip() for hint in hints if hint.strip()]
        words.update(dict.fromkeys(given or [said.get("value", choice)], choice))
    return words
