"""Continue texts with a language model, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from lsml_bento.torch import batches, inference, to_device
from text_generation.language_model import CausalLM

TOKENS = 16_384
"""Maximum B x T of a batch, including generated tokens: for GPT-2, 1.2 GB of keys and
values in float32."""


class Generated(NamedTuple):
    """A generated text.

    Attributes:
        text: without the end-of-text token.
        score: the mean probability of its tokens, including end-of-text.
    """

    text: str
    score: float


class TokenProbabilities(LogitsProcessor):
    """Records the probability of each token that ``generate`` chooses.

    That is one number per token. ``output_logits`` of transformers keeps B x T x V: for
    GPT-2, 1.3 GB for 32 answers of 200 tokens.
    """

    def __init__(self) -> None:
        self._chosen: list[Tensor] = []
        self._offered: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called before each choice with all tokens so far."""
        self._record(input_ids)
        self._offered = scores.float().softmax(-1)  # (B, V)
        return scores

    def of(self, sequences: Tensor) -> Tensor:
        """The probabilities of the generated tokens, float32 (B, new tokens)."""
        self._record(sequences)
        return torch.stack(self._chosen, 1)

    def _record(self, ids: Tensor) -> None:
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

    Texts of similar length share a batch, padded on the left, so that each step
    generates one token of all of them. Texts that are too long are truncated on the
    left.

    Args:
        model: continues the texts.
        texts: B texts.
        max_new_tokens: per text; at most half of the model's positions.
        temperature: 0 always chooses the most likely token. Above 0, tokens are
            sampled.
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
    own = ends.cumsum(1) - ends == 0  # without the padding after end-of-text
    scores = (probabilities.of(sequences) * own).sum(1) / own.sum(1)
    # SentencePiece tokenizers drop the space before the first decoded token.
    given, whole = (
        tokenizer.batch_decode(ids, skip_special_tokens=True)
        for ids in (inputs["input_ids"], sequences)
    )
    added = map(_difference, given, whole)
    return [Generated(*each) for each in zip(added, scores.tolist(), strict=True)]


def _difference(given: str, whole: str) -> str:
    """The new text, without an incomplete last character."""
    return whole[len(given) :].rstrip("\ufffd")
