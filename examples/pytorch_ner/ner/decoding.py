"""From a tagger's probabilities to entities.

Shape letters: B texts, T tokens, K labels, L = 2K + 1 tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ner.data import Offsets, runs


class Entity(NamedTuple):
    """An entity; ``score`` is the mean probability of its tokens."""

    start: int
    end: int
    label: str
    score: float


class Tagged(NamedTuple):
    """A text's entities, sorted by start; ``score`` is the mean over all its tokens."""

    entities: list[Entity]
    score: float


def decode(
    probabilities: Tensor, offsets: Sequence[Offsets], labels: Sequence[str]
) -> list[Tagged]:
    """Decode probabilities to entities.

    The sums over all labels decide where an entity begins and ends, then its tokens
    vote on its label. So half of a name cannot be a person and the rest a company.

    Args:
        probabilities: float (B, T, L).
        offsets: B lists of at most T pairs.
        labels: K names.
    """
    outside = probabilities[:, :, 0]  # (B, T)
    begin, inside = probabilities[:, :, 1::2], probabilities[:, :, 2::2]  # (B, T, K)
    kinds = torch.stack([outside, begin.sum(-1), inside.sum(-1)], -1)  # (B, T, 3)
    return [
        _decode_text(*text, labels)
        for text in zip(
            kinds.argmax(-1).tolist(),
            outside.tolist(),
            (begin + inside).tolist(),
            offsets,
            strict=True,
        )
    ]


def _decode_text(
    kinds: list[int],
    outside: list[float],
    by_label: list[list[float]],
    offsets: Offsets,
    labels: Sequence[str],
) -> Tagged:
    entities: list[Entity] = []
    scores = outside[: len(offsets)]
    # Outside, begin and inside are the same tags as those of a single label.
    for first, last, _ in runs(kinds[: len(offsets)]):
        votes = [sum(column) for column in zip(*by_label[first:last], strict=True)]
        k = max(range(len(votes)), key=votes.__getitem__)
        scores[first:last] = [row[k] for row in by_label[first:last]]
        start, end = offsets[first][0], offsets[last - 1][1]
        entities.append(Entity(start, end, labels[k], _mean(scores[first:last])))
    return Tagged(entities, _mean(scores))


def _mean(scores: list[float]) -> float:
    # Rounding may lift a mean above 1. An empty text is certain.
    return min(1.0, sum(scores) / len(scores)) if scores else 1.0
