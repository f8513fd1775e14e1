"""A language model as a Label Studio ML backend: it answers, completes and learns."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lsml_bento import LabelStudioMLBase
from text_generation.data import prompt_of, region, split, task_to_pairs, typed_texts
from text_generation.generation import Generated, generate
from text_generation.language_model import PROMPT, CausalLM
from text_generation.learning import Schedule, learn, perplexity

BASE = Path(__file__).with_name("base")
"""The checkpoint of the example."""

logger = logging.getLogger(__name__)


class Decoding(NamedTuple):
    """The options of ``generate``."""

    max_new_tokens: int = 64
    temperature: float = 0.0

    @classmethod
    def of(cls, extra_params: Any, environ: Mapping[str, str]) -> Decoding:
        """Read the project's extra params, the environment, or the defaults.

        Args:
            extra_params: ``{"max_new_tokens": .., "temperature": ..}``; anything else
                is ignored.
            environ: may have ``GPT2_MAX_NEW_TOKENS``.

        Raises:
            ValueError: if a value is not a valid number.
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
            f"{name} is {given[name]!r}: set a number of at least {at_least} in the "
            "model's extra params or the environment"
        )
    return number


class GPT2TextGeneration(LabelStudioMLBase):
    """Writes an answer to each ``Text`` into its ``TextArea``."""

    model: CausalLM

    def setup(self) -> None:
        self.from_name, self.to_name, self.value = self.get_first_tag_occurence(
            "TextArea", "Text"
        )
        self.set("model_version", f"gpt2-{Path(base_model()).name}")

    def load(self, weights: Path | None) -> None:
        """Load weights. All projects share them, so they ignore the label config."""
        self.model = CausalLM.load(weights or base_model())

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Answer each task, or complete an annotator's last text.

        A prediction's score is the mean probability of the answer's tokens. Sorted by
        it, the least certain tasks come first. A task without a prompt gets no answer.
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
        # Label Studio replaces all texts of the TextArea by these.
        answer = region(texts, self.from_name, self.to_name)
        return {
            "result": [answer] if texts else [],
            "score": generated.score if generated else 0.0,
        }

    # Learning

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        """Learn to answer like the annotators, starting from the active weights.

        It changes them in place, as a fit runs in its own process.
        """
        pairs = [
            pair
            for task in self.annotated_tasks()
            for pair in task_to_pairs(task, self.from_name, self.value)
        ]
        if not pairs:
            logger.info("No version: no answers, project=%s", self.project_id)
            return
        train, held_out = split(pairs)
        before = perplexity(self.model, held_out)
        for epoch in learn(self.model, train, held_out, Schedule.of(self.model, train)):
            self.report(epoch.share, loss=epoch.loss, perplexity=epoch.perplexity)
            if self.should_stop:
                logger.info("No version: stopped, project=%s", self.project_id)
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
    """The untrained model: ``GPT2_MODEL``, or the checkpoint of the example."""
    return os.environ.get("GPT2_MODEL") or str(BASE)


def reading(prompt: str, typed: str) -> str:
    """The text that the model continues. A space belongs to the word after it."""
    return PROMPT.format(prompt) + (f" {typed.strip()}" if typed else "")


def joined(typed: str, added: str) -> str:
    """The annotator's text, unchanged, followed by the generated text."""
    return typed + added.lstrip() if not typed or typed[-1].isspace() else typed + added
