"""Train on pairs, decide when to stop, and measure the perplexity of others."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lsml_bento.torch import batches, inference, to_device
from text_generation.data import Pair
from text_generation.language_model import CausalLM, losses

EPOCHS = (3, 30)
"""Minimum and maximum number of epochs."""

PASSES = 1_600
"""Maximum number of pairs in all epochs."""

TOKENS = 4_096
"""Maximum B x T of a batch for measuring."""


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Attributes:
        epochs: maximum passes over the pairs.
        batch: B, pairs per step.
        peak: the highest learning rate, reached after a tenth of the steps.
        whole: whether to learn prompts too, not only answers.
        seed: of order and dropout.
    """

    epochs: int
    batch: int = 8
    peak: float = 5e-5
    whole: bool = False
    seed: int = 0

    @classmethod
    def of(cls, model: CausalLM, pairs: Sequence[Pair]) -> Schedule:
        """More epochs for fewer pairs, and a lower rate for wider networks.

        The rate is 5e-5 at GPT-2's width of 768, which is usual for fine-tuning it.
        """
        fewest, most = EPOCHS
        epochs = max(fewest, min(most, PASSES // max(1, len(pairs))))
        width = model.network.config.get_text_config().hidden_size
        return cls(epochs, peak=5e-5 * (768 / width) ** 1.5)


class Progress(NamedTuple):
    """The state after an epoch.

    Attributes:
        share: of the epochs that are done, 0 to 1.
        loss: the mean loss of the epoch.
        perplexity: of the held-out answers, NaN without any.
    """

    share: float
    loss: float
    perplexity: float


def learn(
    model: CausalLM,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    schedule: Schedule,
) -> Iterator[Progress]:
    """Train in place, one epoch per ``next``, and restore the best weights at the end.

    The best weights have the lowest perplexity on the held-out pairs. Training stops
    after an eighth of the epochs without a new best.
    """
    patience = max(2, schedule.epochs // 8)
    best, since, weights = math.inf, 0, None
    for number, loss in enumerate(_epochs(model, train, schedule), 1):
        found = perplexity(model, held_out)
        yield Progress(number / schedule.epochs, loss, found)
        since += 1
        if found < best:
            best, since = found, 0
            weights = copy.deepcopy(model.network.state_dict())
        if held_out and since >= patience:
            break
    if weights is not None:
        model.network.load_state_dict(weights)


def _epochs(
    model: CausalLM, pairs: Sequence[Pair], schedule: Schedule
) -> Iterator[float]:
    """Train, and yield the mean loss of each epoch."""
    torch.manual_seed(schedule.seed)
    rng = random.Random(schedule.seed)
    network = model.network
    # 80 pairs / 8 per step = 10 steps per epoch; x 30 epochs = 300 steps
    steps = math.ceil(len(pairs) / schedule.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.peak)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        schedule.peak,
        total_steps=max(2, steps * schedule.epochs),
        pct_start=0.1,
    )
    for _ in range(schedule.epochs):
        order = rng.sample(pairs, len(pairs))
        network.train()
        total = 0.0
        for start in range(0, len(order), schedule.batch):
            chosen = order[start : start + schedule.batch]
            inputs = to_device(model.collate(chosen, whole=schedule.whole))
            loss = losses(network, inputs).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rates.step()
            total += loss.item()
        network.eval()
        yield total / steps


def perplexity(model: CausalLM, pairs: Sequence[Pair]) -> float:
    """The perplexity of the answers: ``exp`` of the mean loss per token, in nats.

    The end of an answer is one of its tokens. 1 is perfect; NaN without pairs.
    """
    total, tokens = 0.0, 0
    with inference(dtype=torch.float32):
        for chosen in batches([len(model.encode(p)[0]) for p in pairs], TOKENS):
            inputs = to_device(model.collate([pairs[index] for index in chosen]))
            each = losses(model.network, inputs)
            total += each.sum().item()
            tokens += len(each)
    return math.exp(total / tokens) if tokens else math.nan


def unigram_perplexity(
    model: CausalLM, train: Sequence[Pair], pairs: Sequence[Pair]
) -> float:
    """The perplexity of a unigram model of the answers of ``train``, as the baseline.

    It ignores prompts and order. Counts have add-one smoothing.
    """
    counts = Counter(token for pair in train for token in _answer(model, pair))
    known = counts.total() + len(model.tokenizer)
    tokens = [token for pair in pairs for token in _answer(model, pair)]
    loss = sum(math.log(known / (counts[token] + 1)) for token in tokens)
    return math.exp(loss / len(tokens)) if tokens else math.nan


def _answer(model: CausalLM, pair: Pair) -> list[int]:
    ids, start = model.encode(pair)
    return ids[start:]
