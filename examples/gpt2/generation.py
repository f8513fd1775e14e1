"""Texts continued by a language model, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from examples.gpt2.language_model import CausalLM
from lsml_bento.torch import batches, inference, to_device

TOKENS = 16_384
"""B x T of a batch at most, what is generated included: for GPT-2 1.2 GB of keys and
values in float32."""


class Generated(NamedTuple):
    """What a model appends to a text.

    Attributes:
        text: without the end of text.
        score: the mean probability of its tokens, the end of text included.
    """

    text: str
    score: float


class TokenProbabilities(LogitsProcessor):
    """Notes the probability of each token that ``generate`` chooses.

    One number a token: transformers' own ``output_logits`` keeps B x T x V, for GPT-2
    1.3 GB for 32 answers of 200 tokens.
    """

    def __init__(self) -> None:
        self._chosen: list[Tensor] = []
        self._offered: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called before each choice, with all tokens so far."""
        self._note(input_ids)
        self._offered = scores.float().softmax(-1)  # (B, V)
        return scores

    def of(self, sequences: Tensor) -> Tensor:
        """The probabilities of what was generated, float32 (B, new tokens)."""
        self._note(sequences)
        return torch.stack(self._chosen, 1)

    def _note(self, ids: Tensor) -> None:
        if self._offered is not None:
            self._chosen.append(self._offered.gather(1, ids[:, -1:]).squeeze(1))
            self._offered = None


def generate(
    model: CausalLM,
    texts: Sequence[str],
    max_new_tokens: int = 64,
    temperature: float = 0.0,
) -> list[Generated]:
    """Continue each text until the model ends it.

    Texts of about one length share a batch, padded on the left, so that each step is
    one token of all of them; keys and values of earlier tokens are kept. A text that
    is too long is cut at its beginning.

    Args:
        model: what continues them.
        texts: B texts.
        max_new_tokens: of each at most, and half of the model's positions at most.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn, the
            more freely the higher it is.
    """
    new = min(max_new_tokens, model.positions // 2)
    room = model.positions - new
    options: dict[str, Any] = {"max_new_tokens": new, "do_sample": temperature > 0}
    if temperature > 0:
        options |= {"temperature": temperature, "top_k": 0}
    lengths = [len(model.tokenizer(text).input_ids) for text in texts]
    plan = batches([min(length, room) + new for length in lengths], TOKENS)
    with inference():
        return plan.in_order(
            _continue(model, [texts[index] for index in batch], room, options)
            for batch in plan
        )


def _continue(
    model: CausalLM, texts: list[str], room: int, options: dict[str, Any]
) -> list[Generated]:
    tokenizer, probabilities = model.tokenizer, TokenProbabilities()
    inputs = tokenizer(
        texts, padding=True, truncation=True, max_length=room, return_tensors="pt"
    )
    sequences = model.network.generate(
        **to_device(inputs),
        **options,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        logits_processor=LogitsProcessorList([probabilities]),
    )
    new = sequences[:, inputs["input_ids"].shape[1] :]
    ends = (new == tokenizer.eos_token_id).long()
    own = ends.cumsum(1) - ends == 0  # up to its end of text; padding follows
    scores = (probabilities.of(sequences) * own).sum(1) / own.sum(1)
    # A SentencePiece tokenizer drops the space in front of what it decodes first.
    given, whole = (
        tokenizer.batch_decode(ids, skip_special_tokens=True)
        for ids in (inputs["input_ids"], sequences)
    )
    added = map(_difference, given, whole)
    return [Generated(*each) for each in zip(added, scores.tolist(), strict=True)]


def _difference(given: str, whole: str) -> str:
    """What is new, without a character of which the last bytes were not generated."""
    return whole[len(given) :].rstrip("\ufffd")
