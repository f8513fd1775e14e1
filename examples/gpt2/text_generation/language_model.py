"""A causal language model of transformers with its tokenizer.

Shape letters: B texts, T tokens of the longest text, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from lsml_bento.torch import device
from text_generation.data import Pair

PROMPT = "Question: {}\nAnswer:"
"""The text of a prompt for the model. The answer follows after a space."""

IGNORED = -100
"""The target of tokens that are not learned."""


@dataclass(frozen=True)
class CausalLM:
    """A network and its tokenizer.

    Attributes:
        network: of ``AutoModelForCausalLM``, float32, on ``device()``.
        tokenizer: pads and truncates on the left.
        positions: maximum tokens of a prompt with its answer.
    """

    network: Any
    tokenizer: Any
    positions: int

    @classmethod
    def load(cls, name: str | Path) -> CausalLM:
        """Load a directory that ``save`` wrote, or any causal model of transformers.

        Args:
            name: a directory, or a name on the Hugging Face Hub, e.g. ``gpt2``.

        Raises:
            ValueError: if it cannot be loaded.
        """
        disable_progress_bar()  # a server's log is not a terminal
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name))
            network: Any = AutoModelForCausalLM.from_pretrained(str(name))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"transformers cannot load {str(name)!r} as a causal language model: "
                f"{str(error).strip().splitlines()[0]}; set GPT2_MODEL to a directory "
                "with config.json, weights and tokenizer, or a name on the Hub"
            ) from error
        return cls.of(network.to(device()), tokenizer, str(name))

    @classmethod
    def of(cls, network: Any, tokenizer: Any, name: str = "the model") -> CausalLM:
        """Use a network and a tokenizer in memory.

        Raises:
            ValueError: if the tokenizer has no end-of-text token, as answers would
                never end.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {name} has no eos_token: set one")
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token  # masked: any token will do
        config = network.config.get_text_config()
        known = getattr(config, "max_position_embeddings", None) or 0
        positions = known if known > 0 else 2048  # XLNet's is -1
        return cls(network.float().eval(), tokenizer, positions)

    def save(self, directory: Path) -> None:
        """Write network (safetensors) and tokenizer, for ``load`` and transformers."""
        self.network.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def encode(self, pair: Pair) -> tuple[list[int], int]:
        """A pair's ids, including end-of-text, and the index where its answer begins.

        A pair that is too long loses the beginning of the prompt, then the end of the
        answer.
        """
        answer = self.tokenizer(" " + pair.answer, add_special_tokens=False).input_ids
        answer = [*answer, self.tokenizer.eos_token_id][: self.positions - 1]
        prompt = self.tokenizer(PROMPT.format(pair.prompt)).input_ids
        prompt = prompt[-(self.positions - len(answer)) :]
        return prompt + answer, len(prompt)

    def collate(self, pairs: Sequence[Pair], *, whole: bool = False) -> dict[str, Any]:
        """The network's inputs for training on B pairs.

        Args:
            pairs: what to learn.
            whole: whether to learn prompts too, not only answers.

        Returns:
            ``{"input_ids", "attention_mask", "labels"}``, each int64 (B, T).
        """
        ids, targets = [], []
        for row, answer in map(self.encode, pairs):
            ids.append(torch.tensor(row))
            targets.append(ids[-1].clone())
            targets[-1][: 0 if whole else answer] = IGNORED
        lengths = torch.tensor([[len(row)] for row in ids])
        padded = pad_sequence(ids, batch_first=True)  # on the right, masked
        return {
            "input_ids": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths).long(),
            "labels": pad_sequence(targets, batch_first=True, padding_value=IGNORED),
        }


def losses(network: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The loss of each learned token, in nats.

    Args:
        network: predicts each token from those before it.
        inputs: from ``collate``.
    """
    logits = network(**inputs | {"labels": None}).logits[:, :-1]  # (B, T - 1, V)
    targets = inputs["labels"][:, 1:]
    each = functional.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return each[targets.flatten() != IGNORED]
