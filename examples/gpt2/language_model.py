"""A causal language model of transformers with its tokenizer, and how text becomes ids.

Shape letters: B texts, T tokens of the longest one, V tokens of the vocabulary.
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

from examples.gpt2.data import Pair
from lsml_bento.torch import device

PROMPT = "Question: {}\nAnswer:"
"""What the model reads of a prompt; an answer follows after a space."""

IGNORED = -100
"""A target that does not count."""


@dataclass(frozen=True)
class CausalLM:
    """A network and the tokenizer that it was trained with.

    Attributes:
        network: what ``AutoModelForCausalLM`` gives; float32, on ``device()``.
        tokenizer: pads and cuts on the left.
        positions: tokens of a prompt and its answer at most.
    """

    network: Any
    tokenizer: Any
    positions: int

    @classmethod
    def load(cls, name: str | Path) -> CausalLM:
        """Read a directory that ``save`` wrote, or any causal model of transformers.

        Args:
            name: a directory, or a name on the Hugging Face hub, as ``gpt2``.

        Raises:
            ValueError: saying why it can not be used.
        """
        disable_progress_bar()  # a server's log is no terminal
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name))
            network: Any = AutoModelForCausalLM.from_pretrained(str(name))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"transformers can not load {str(name)!r} as a causal language model: "
                f"{str(error).strip().splitlines()[0]}; give GPT2_MODEL a directory "
                "with config.json, weights and tokenizer, or a name on the hub"
            ) from error
        return cls.of(network.to(device()), tokenizer, str(name))

    @classmethod
    def of(cls, network: Any, tokenizer: Any, name: str = "the model") -> CausalLM:
        """A network and a tokenizer that are there already.

        Raises:
            ValueError: if the tokenizer has no token that ends a text: no answer of
                the model would ever end.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {name} has no eos_token: give it one")
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
        """A pair's ids, the end of text included, and where its answer begins.

        What is too long is cut: the prompt at its beginning, then the answer at its
        end.
        """
        answer = self.tokenizer(" " + pair.answer, add_special_tokens=False).input_ids
        answer = [*answer, self.tokenizer.eos_token_id][: self.positions - 1]
        prompt = self.tokenizer(PROMPT.format(pair.prompt)).input_ids
        prompt = prompt[-(self.positions - len(answer)) :]
        return prompt + answer, len(prompt)

    def collate(self, pairs: Sequence[Pair], *, whole: bool = False) -> dict[str, Any]:
        """B pairs as the network takes them in training.

        Args:
            pairs: what to learn.
            whole: whether prompts are learnt too; else answers only.

        Returns:
            ``{"input_ids", "attention_mask", "labels"}``, each int64 (B, T).
        """
        ids, targets = [], []
        for row, answer in map(self.encode, pairs):
            ids.append(torch.tensor(row))
            targets.append(ids[-1].clone())
            targets[-1][: 0 if whole else answer] = IGNORED
        lengths = torch.tensor([[len(row)] for row in ids])
        padded = pad_sequence(ids, batch_first=True)  # on the right, behind the mask
        return {
            "input_ids": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths).long(),
            "labels": pad_sequence(targets, batch_first=True, padding_value=IGNORED),
        }


def losses(network: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The surprise at each token that counts, in nats.

    Args:
        network: what predicts the tokens.
        inputs: as ``collate`` makes them; a token is predicted by those before it.
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
