"""What to train on, and when to stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ner.data import Example, Span, base_examples, split
from ner.model import Tagger
from ner.scores import MICRO, Score
from ner.train import Schedule, evaluate, train

EPOCHS = (5, 80)
"""Minimum and maximum number of epochs."""

PASSES = 24_000
"""Maximum number of examples in all epochs: about 30 s on one core."""


class Lessons(NamedTuple):
    """What to train on, and what to measure on.

    Attributes:
        train: annotated texts.
        held_out: annotated texts for measuring, never trained on; empty if too few.
        rehearsal: sentences of the base's training.
    """

    train: list[Example]
    held_out: list[Example]
    rehearsal: list[Example]

    @classmethod
    def of(cls, examples: Sequence[Example], known: Mapping[str, str]) -> Lessons:
        """Split examples by their id, and choose sentences to rehearse.

        If all are on one side, all are trained on and nothing is measured. A held-out
        text is never trained on, even if another task has the same text.

        Args:
            examples: the annotated texts.
            known: the names of the base's labels in the examples. Sentences with other
                labels are not rehearsed: they would teach that such entities, which
                annotators may mark under another name, are none.
        """
        train, held_out = split(examples)
        hidden = {example.text for example in held_out}
        train = [example for example in train if example.text not in hidden]
        if not train:
            train, held_out = list(examples), []
        annotated = {example.text for example in examples}
        rehearsal = [
            _renamed(example, known)
            for example in base_examples()[0]
            if example.text not in annotated
            and all(span.label in known for span in example.spans)
        ]
        return cls(train, held_out, rehearsal if known else [])

    def schedule(self, rehearse: float = 0.5, seed: int = 0) -> Schedule:
        """More epochs for fewer examples, so that the time stays about the same."""
        fewest, most = EPOCHS
        rehearsed = min(len(self.rehearsal), math.ceil(rehearse * len(self.train)))
        epochs = max(fewest, min(most, PASSES // (len(self.train) + rehearsed)))
        return Schedule(epochs=epochs, rehearse=rehearse, invent=0.3, seed=seed)


def _renamed(example: Example, known: Mapping[str, str]) -> Example:
    spans = tuple(Span(s.start, s.end, known[s.label]) for s in example.spans)
    return Example(example.id, example.text, spans)


@dataclass(frozen=True)
class Progress:
    """The state after an epoch.

    Attributes:
        share: of the epochs that are done, 0 to 1.
        loss: the mean loss of the epoch.
        f1: on the held-out examples, NaN without any.
    """

    share: float
    loss: float
    f1: float


def learn(tagger: Tagger, lessons: Lessons, schedule: Schedule) -> Iterator[Progress]:
    """Train in place, one epoch per ``next``, and restore the best weights at the end.

    The best weights have the highest F1 on the held-out examples, the latest of equal
    ones. The first quarter of the epochs does not count, as a few held-out texts may
    get a high F1 by chance. Training stops after another quarter without a new best.
    """
    patience = max(2, schedule.epochs // 4)
    best, since, weights = -1.0, 0, None
    for epoch in train(tagger, lessons.train, schedule, lessons.rehearsal):
        f1 = math.nan
        if lessons.held_out:
            f1 = _f1(evaluate(tagger, lessons.held_out))
            since += 1
            if f1 >= best and epoch.number >= patience:
                best, since = f1, 0
                weights = copy.deepcopy(tagger.state_dict())
        yield Progress(epoch.number / schedule.epochs, epoch.loss, f1)
        if since >= patience:
            break
    if weights is not None:
        tagger.load_state_dict(weights)


def _f1(scores: Mapping[str, Score]) -> float:
    # Without the key there were no entities, and none were predicted.
    return scores[MICRO].f1 if MICRO in scores else 1.0


def measure(
    tagger: Tagger, lessons: Lessons, called: Mapping[str, str]
) -> dict[str, float]:
    """A version's metrics.

    Args:
        tagger: the trained tagger.
        lessons: what it was trained on.
        called: the labels of the label config by their names in the tagger.

    Returns:
        ``{"f1", "f1_<label>", .., "trained_on", "held_out"}``: F1 over all labels and
        of each held-out label, and the number of tasks on each side. ``f1`` is NaN
        without held-out entities.
    """
    scores = evaluate(tagger, lessons.held_out)
    found = {label: score for label, score in scores.items() if score.entities}
    by_label = {f"f1_{called[n]}": s.f1 for n, s in found.items() if n in called}
    return {
        "f1": found[MICRO].f1 if MICRO in found else math.nan,
        **by_label,
        "trained_on": len(lessons.train),
        "held_out": len(lessons.held_out),
    }
