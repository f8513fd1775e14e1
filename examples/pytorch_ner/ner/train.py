"""The training loop, independent of where examples come from."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lsml_bento.torch import to_device
from ner.data import Example, Span, labels_of, spans_to_tags, tokenize
from ner.features import collate, collate_tags, encode
from ner.model import Tagger
from ner.scores import Score, entity_scores


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Attributes:
        epochs: passes over the examples.
        batch: B, examples per step.
        peak: the highest learning rate, reached after a tenth of the steps.
        swap: share of entities replaced by others of their label, so that names are
            not learned with their sentences.
        rehearse: rehearsed examples in an epoch per other example.
        invent: share of the replacements that are random, for labels that are not
            rehearsed: their few known names would be memorized.
        seed: of order, replacements and dropout.
    """

    epochs: int = 40
    batch: int = 16
    peak: float = 3e-3
    swap: float = 0.5
    rehearse: float = 0.5
    invent: float = 0.0
    seed: int = 0


class Epoch(NamedTuple):
    """One pass over the examples: its number from 1 and its mean loss."""

    number: int
    loss: float


def train(
    tagger: Tagger,
    examples: Sequence[Example],
    schedule: Schedule | None = None,
    rehearsal: Sequence[Example] = (),
) -> Iterator[Epoch]:
    """Train in place, one epoch per ``next``, so that the caller can report and stop.

    Entities with a label that the tagger does not have count as outside.

    Args:
        tagger: its weights change.
        examples: all are in each epoch.
        schedule: how to train.
        rehearsal: examples not to forget, a sample of which is in each epoch.
    """
    plan = schedule or Schedule()
    torch.manual_seed(plan.seed)
    rng = random.Random(plan.seed)
    names = Names([*examples, *rehearsal], labels_of(rehearsal), plan.invent)
    rehearsed = min(len(rehearsal), math.ceil(plan.rehearse * len(examples)))
    # 546 examples / 16 per step = 35 steps per epoch; x 40 epochs = 1,400 steps
    steps = -(-(len(examples) + rehearsed) // plan.batch)
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=plan.peak)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.peak, total_steps=max(1, steps * plan.epochs), pct_start=0.1
    )
    for number in range(1, plan.epochs + 1):
        chosen = [*examples, *rng.sample(rehearsal, rehearsed)]
        order = [swap(e, names, plan.swap, rng) for e in chosen]
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
    tags = to_device(tags, logits.device)  # (B, T)
    return functional.cross_entropy(logits.flatten(0, 1), tags.flatten())


def entities_by_label(examples: Iterable[Example]) -> dict[str, list[str]]:
    """The texts of all entities, by label."""
    names: dict[str, list[str]] = {}
    for example in examples:
        for span in example.spans:
            names.setdefault(span.label, []).append(example.text[span.start : span.end])
    return names


class Names:
    """Names that replace entities.

    Args:
        examples: their entities are the names.
        plenty: labels with enough names.
        invent: share of random names for all other labels.
    """

    def __init__(
        self, examples: Iterable[Example], plenty: Iterable[str], invent: float
    ) -> None:
        self._names = entities_by_label(examples)
        self._plenty = set(plenty)
        self._invent = invent

    def draw(self, label: str, rng: random.Random) -> str:
        """A random name for a label of the examples."""
        name = rng.choice(self._names[label])
        if self._invent and label not in self._plenty and rng.random() < self._invent:
            return invented(name, rng)
        return name


def invented(name: str, rng: random.Random) -> str:
    """A random name of the same shape: ``Tundra 9`` as ``Polbse 4``."""
    return "".join(_another(character, rng) for character in name)


def _another(character: str, rng: random.Random) -> str:
    if character.isdigit():
        return rng.choice("0123456789")
    if not character.isalpha():
        return character
    is_vowel = character.lower() in "aeiou"
    other = rng.choice("aeiou" if is_vowel else "bcdfghklmnprstvwz")
    return other.upper() if character.isupper() else other


def swap(example: Example, names: Names, share: float, rng: random.Random) -> Example:
    """Replace a share of the entities by others of their label."""
    text, spans, done = "", [], 0
    for span in example.spans:
        name = example.text[span.start : span.end]
        if rng.random() < share:
            name = names.draw(span.label, rng)
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
