"""Learning from pairs, when to stop, and how surprised a model is by others."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from examples.gpt2.data import Pair
from examples.gpt2.language_model import CausalLM, losses
from lsml_bento.torch import batches, inference, to_device

EPOCHS = (3, 30)
"""The fewest and the most passes over the pairs."""

PASSES = 1_600
"""How many pairs all epochs together go through."""

TOKENS = 4_096
"""B x T of a batch at most where nothing is learnt."""


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Attributes:
        epochs: passes over the pairs at most.
        batch: B pairs a step.
        peak: the highest learning rate; it rises over the first tenth and falls to 0.
        whole: whether prompts are learnt too; else answers only.
        seed: of the order and of dropout.
    """

    epochs: int
    batch: int = 8
    peak: float = 5e-5
    whole: bool = False
    seed: int = 0

    @classmethod
    def of(cls, model: CausalLM, pairs: Sequence[Pair]) -> Schedule:
        """More epochs the fewer pairs, smaller steps the wider the network.

        The rate is 5e-5 at GPT-2's width of 768, the usual one for fine-tuning it.
        """
        fewest, most = EPOCHS
        epochs = max(fewest, min(most, PASSES // max(1, len(pairs))))
        width = model.network.config.get_text_config().hidden_size
        return cls(epochs, peak=5e-5 * (768 / width) ** 1.5)


class Progress(NamedTuple):
    """One epoch.

    Attributes:
        share: of the epochs that are over, 0 to 1.
        loss: the epoch's mean.
        perplexity: of the held-out pairs' answers, NaN if there are none.
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
    """Train in place, one epoch for each ``next``; at the end the best weights are in.

    The best are those with the lowest perplexity on the held-out side. After an eighth
    of the epochs without a new best one it ends.
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
    """The mean loss of each epoch, when it is over."""
    torch.manual_seed(schedule.seed)
    rng = random.Random(schedule.seed)
    network = model.network
    # 80 pairs / 8 a step = 10 steps an epoch; x 30 epochs = 300 steps
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
    """``exp`` of the mean surprise, in nats, at each token of the answers.

    The end of an answer is one of its tokens. 1 is to know every token for sure; NaN
    if there are no pairs.
    """
    surprise, tokens = 0.0, 0
    with inference(dtype=torch.float32):
        for chosen in batches([len(model.encode(p)[0]) for p in pairs], TOKENS):
            inputs = to_device(model.collate([pairs[index] for index in chosen]))
            each = losses(model.network, inputs)
            surprise += each.sum().item()
            tokens += len(each)
    return math.exp(surprise / tokens) if tokens else math.nan


def unigram_perplexity(
    model: CausalLM, train: Sequence[Pair], pairs: Sequence[Pair]
) -> float:
    """The perplexity of knowing how often each token is in the answers of ``train``.

    It is the one to beat: it knows nothing of prompts or of order. A token that is
    never there counts as if it were there once, and all others once more.
    """
    counts = Counter(token for pair in train for token in _answer(model, pair))
    total = counts.total() + len(model.tokenizer)
    tokens = [token for pair in pairs for token in _answer(model, pair)]
    surprise = sum(math.log(total / (counts[token] + 1)) for token in tokens)
    return math.exp(surprise / len(tokens)) if tokens else math.nan


def _answer(model: CausalLM, pair: Pair) -> list[int]:
    ids, start = model.encode(pair)
    return ids[start:]
