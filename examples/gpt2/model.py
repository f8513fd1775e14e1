"""A language model behind Label Studio: it answers, continues, and learns."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from examples.gpt2.data import prompt_of, region, split, task_to_pairs, typed_texts
from examples.gpt2.generation import Generated, generate
from examples.gpt2.language_model import PROMPT, CausalLM
from examples.gpt2.learning import Schedule, learn, perplexity
from lsml_bento import LabelStudioMLBase

BASE = Path(__file__).with_name("base")
"""The checkpoint that the example ships."""

logger = logging.getLogger(__name__)


class Decoding(NamedTuple):
    """How answers are generated; see ``generate``."""

    max_new_tokens: int = 64
    temperature: float = 0.0

    @classmethod
    def of(cls, extra_params: Any, environ: Mapping[str, str]) -> Decoding:
        """The project's extra params before the environment before the defaults.

        Args:
            extra_params: ``{"max_new_tokens": .., "temperature": ..}``, or anything.
            environ: with ``GPT2_MAX_NEW_TOKENS``, perhaps.

        Raises:
            ValueError: naming the number that means nothing.
        """
        given: dict[str, Any] = {**cls()._asdict()}
        if environ.get("GPT2_MAX_NEW_TOKENS"):
            given["max_new_tokens"] = environ["GPT2_MAX_NEW_TOKENS"]
        given |= extra_params if isinstance(extra_params, dict) else {}
        return cls(
            max_new_tokens=int(_number("max_new_tokens", given, at_least=1)),
            temperature=_number("temperature", given, at_least=0),
        )


def _number(name: str, given: Mapping[str, Any], at_least: int) -> float:
    try:
        number = float(given[name])
    except (TypeError, ValueError):
        number = math.nan
    if not at_least <= number < math.inf:
        raise ValueError(
            f"{name} is {given[name]!r}: give a number of {at_least} or more, in the "
            "model's extra params or the environment"
        )
    return number


class GPT2TextGeneration(LabelStudioMLBase):
    """Writes an answer to each ``Text`` into the ``TextArea`` that belongs to it."""

    model: CausalLM

    def setup(self) -> None:
        self.from_name, self.to_name, self.value = self.get_first_tag_occurence(
            "TextArea", "Text"
        )
        self.set("model_version", f"gpt2-{Path(base_model()).name}")

    def load(self, weights: Path | None) -> None:
        """What this sets is shared by all projects: nothing of the label config."""
        self.model = CausalLM.load(weights or base_model())

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """One answer for each task, or how an annotator's last text may go on.

        A prediction's score is the mean probability of the answer's tokens: sorted by
        it, the tasks come first that the model is least sure of. A task without a
        prompt gets no answer.
        """
        *earlier, typed = typed_texts(context, self.from_name) or [""]
        prompts = [prompt_of(task, self.value) for task in tasks]
        asked = [prompt for prompt in prompts if prompt]
        decoding = Decoding.of(self.extra_params, os.environ)
        generated = generate(
            self.model, [reading(prompt, typed) for prompt in asked], *decoding
        )
        answers = iter(generated)
        return [
            self._prediction(earlier, typed, next(answers) if prompt else None)
            for prompt in prompts
        ]

    def _prediction(
        self, earlier: list[str], typed: str, generated: Generated | None
    ) -> dict[str, Any]:
        text = typed if generated is None else joined(typed, generated.text)
        texts = [*earlier, text] if text else earlier
        # Label Studio puts it in the place of all that the TextArea has.
        answer = region(texts, self.from_name, self.to_name)
        return {
            "result": [answer] if texts else [],
            "score": generated.score if generated else 0.0,
        }

    # Learning

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        """Learn to answer as the annotators did, on from the weights that serve.

        It changes them in place: a fit has a process of its own.
        """
        pairs = [
            pair
            for task in self.annotated_tasks()
            for pair in task_to_pairs(task, self.from_name, self.value)
        ]
        if not pairs:
            logger.info("project %s: no answers, no version", self.project_id)
            return
        train, held_out = split(pairs)
        before = perplexity(self.model, held_out)
        for epoch in learn(self.model, train, held_out, Schedule.of(self.model, train)):
            self.report(epoch.share, loss=epoch.loss, perplexity=epoch.perplexity)
            if self.should_stop:
                logger.info("project %s: stopped, no version", self.project_id)
                return
        metrics = {
            "perplexity": perplexity(self.model, held_out),
            "perplexity_before": before,
            "trained_on": len(train),
            "held_out": len(held_out),
        }
        with self.save_weights(metrics=metrics) as directory:
            self.model.save(directory)


def base_model() -> str:
    """``GPT2_MODEL``, else the shipped checkpoint: what serves until one is learnt."""
    return os.environ.get("GPT2_MODEL") or str(BASE)


def reading(prompt: str, typed: str) -> str:
    """What the model continues; a space belongs to the word that comes after it."""
    return PROMPT.format(prompt) + (f" {typed.strip()}" if typed else "")


def joined(typed: str, added: str) -> str:
    """What an annotator typed, unchanged, and what comes after it."""
    return typed + added.lstrip() if not typed or typed[-1].isspace() else typed + added
