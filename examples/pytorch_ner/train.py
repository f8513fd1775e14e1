"""The training loop; nothing in it knows where examples come from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from examples.pytorch_ner.data import (
    Example,
    Span,
    collate,
    collate_tags,
    encode,
    spans_to_tags,
    tokenize,
)
from examples.pytorch_ner.model import Tagger
from examples.pytorch_ner.scores import Score, entity_scores


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Attributes:
        epochs: passes over the examples.
        batch: B examples a step.
        peak: the highest learning rate; it rises over the first tenth and falls to 0.
        swap: share of the entities put in another one's place, to hide which names
            belong to which sentence.
        seed: of the order, the swaps and dropout.
    """

    epochs: int = 40
    batch: int = 16
    peak: float = 3e-3
    swap: float = 0.5
    seed: int = 0


class Epoch(NamedTuple):
    """One pass over the examples: its number from 1 and its mean loss."""

    number: int
    loss: float


def train(
    tagger: Tagger, examples: Sequence[Example], schedule: Schedule | None = None
) -> Iterator[Epoch]:
    """Train in place, one epoch for each ``next``: the caller reports, and may stop.

    Entities whose label the tagger does not have count as outside.
    """
    plan = schedule or Schedule()
    torch.manual_seed(plan.seed)
    rng = random.Random(plan.seed)
    names = entities_by_label(examples)
    # 546 examples / 16 a step = 35 steps an epoch; x 40 epochs = 1,400 steps
    steps = -(-len(examples) // plan.batch)
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=plan.peak)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.peak, total_steps=max(1, steps * plan.epochs), pct_start=0.1
    )
    for number in range(1, plan.epochs + 1):
        order = [swap(e, names, plan.swap, rng) for e in examples]
        rng.shuffle(order)
        tagger.train()
        total = 0.0
        for start in range(0, len(order), plan.batch):
            loss = loss_of(tagger, order[start : start + plan.batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(tagger.parameters(), 1.0)
            optimizer.step()
            rates.step()
            total += loss.item()
        tagger.eval()
        yield Epoch(number, total / max(1, steps))


def loss_of(tagger: Tagger, examples: Sequence[Example]) -> Tensor:
    """Mean cross-entropy over the tokens of B examples."""
    offsets = [tokenize(example.text) for example in examples]
    pairs = list(zip(examples, offsets, strict=True))
    features = collate([encode(e.text, o, tagger.config.buckets) for e, o in pairs])
    tags = collate_tags([spans_to_tags(e.spans, o, tagger.labels) for e, o in pairs])
    logits = tagger(features)  # (B, T, L)
    return functional.cross_entropy(logits.flatten(0, 1), tags.flatten())


def entities_by_label(examples: Sequence[Example]) -> dict[str, list[str]]:
    """The text of every entity."""
    names: dict[str, list[str]] = {}
    for example in examples:
        for span in example.spans:
            names.setdefault(span.label, []).append(example.text[span.start : span.end])
    return names


def swap(
    example: Example,
    names: Mapping[str, Sequence[str]],
    share: float,
    rng: random.Random,
) -> Example:
    """The example with some of its entities replaced by others of their label."""
    text, spans, done = "", [], 0
    for span in example.spans:
        name = example.text[span.start : span.end]
        if rng.random() < share:
            name = rng.choice(names[span.label])
        text += example.text[done : span.start]
        spans.append(Span(len(text), len(text) + len(name), span.label))
        text += name
        done = span.end
    return Example(example.id, text + example.text[done:], tuple(spans))


def evaluate(tagger: Tagger, examples: Sequence[Example]) -> dict[str, Score]:
    """Entity scores by label, and over all labels under ``MICRO``."""
    tagged = tagger.tag([example.text for example in examples])
    found = [[Span(e.start, e.end, e.label) for e in t.entities] for t in tagged]
    return entity_scores([example.spans for example in examples], found)
