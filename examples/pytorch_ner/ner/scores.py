"""Scores of found entities, and of a dictionary as the baseline."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ner.data import Example, Span, tokenize


class Score(NamedTuple):
    """The scores of found entities. A correct one has the same span and label."""

    precision: float
    recall: float
    f1: float
    entities: int


MICRO = "micro"
"""The key of the scores over all labels."""


def entity_scores(
    gold: Sequence[Iterable[Span]], found: Sequence[Iterable[Span]]
) -> dict[str, Score]:
    """Scores by label, and over all labels under ``MICRO``; empty without entities.

    Args:
        gold: the true entities of B texts.
        found: the predicted entities of the same texts.
    """
    right: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for gold_spans, found_spans in zip(gold, found, strict=True):
        a, b = set(gold_spans), set(found_spans)
        for spans, counter in ((a & b, right), (a, expected), (b, given)):
            counter.update(span.label for span in spans)
            counter.update([MICRO] * len(spans))
    return {
        label: _score(right[label], given[label], expected[label])
        for label in sorted({*expected, *given})
    }


def _score(right: int, given: int, expected: int) -> Score:
    f1 = 2 * right / (given + expected) if given + expected else 0.0
    return Score(right / max(1, given), right / max(1, expected), f1, expected)


class Dictionary:
    """The baseline: finds the entities of the training texts, longest match first."""

    def __init__(self, examples: Iterable[Example]) -> None:
        votes: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for example in examples:
            for span in example.spans:
                entity = example.text[span.start : span.end]
                words = tuple(entity[start:end] for start, end in tokenize(entity))
                votes[words][span.label] += 1
        self._labels = {words: c.most_common(1)[0][0] for words, c in votes.items()}
        self._longest = max(map(len, self._labels), default=0)

    def find(self, text: str) -> list[Span]:
        """Find the entities of a text, sorted by start."""
        offsets = tokenize(text)
        words = [text[start:end] for start, end in offsets]
        found, t = [], 0
        while t < len(words):
            for last in range(min(len(words), t + self._longest), t, -1):
                label = self._labels.get(tuple(words[t:last]))
                if label is not None:
                    found.append(Span(offsets[t][0], offsets[last - 1][1], label))
                    t = last
                    break
            else:
                t += 1
        return found
