"""What to learn from annotations, and when to stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from examples.pytorch_ner.data import Example, Span, base_examples, split
from examples.pytorch_ner.model import Tagger
from examples.pytorch_ner.scores import MICRO, Score
from examples.pytorch_ner.train import Schedule, evaluate, train

EPOCHS = (5, 80)
"""The fewest and the most passes over the examples."""

PASSES = 24_000
"""How many examples all epochs together go through: half a minute on one core."""


class Lessons(NamedTuple):
    """What to train on, and what to measure on.

    Attributes:
        train: annotated texts.
        held_out: other annotated texts, never trained on; none if there are too few.
        rehearsal: sentences that the base was trained on.
    """

    train: list[Example]
    held_out: list[Example]
    rehearsal: list[Example]

    @classmethod
    def of(cls, examples: Sequence[Example], known: Mapping[str, str]) -> Lessons:
        """Split examples by their id, and find what to rehearse with them.

        If all are on one side, all are trained on and nothing is measured. No text on
        the held-out side is trained on, whatever its id is elsewhere.

        Args:
            examples: the annotated texts.
            known: what the base's labels are called in the examples. A sentence with
                a label that is not in it is not rehearsed: it would teach that what
                annotators may mark under another name is nothing.
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
        """More epochs the fewer examples, so that any number is learnt in a while."""
        fewest, most = EPOCHS
        rehearsed = min(len(self.rehearsal), math.ceil(rehearse * len(self.train)))
        epochs = max(fewest, min(most, PASSES // (len(self.train) + rehearsed)))
        return Schedule(epochs=epochs, rehearse=rehearse, invent=0.3, seed=seed)


def _renamed(example: Example, known: Mapping[str, str]) -> Example:
    spans = tuple(Span(s.start, s.end, known[s.label]) for s in example.spans)
    return Example(example.id, example.text, spans)


@dataclass(frozen=True)
class Progress:
    """One epoch.

    Attributes:
        share: of the epochs that are over, 0 to 1.
        loss: the epoch's mean.
        f1: on the held-out side, NaN if there is none.
    """

    share: float
    loss: float
    f1: float


def learn(tagger: Tagger, lessons: Lessons, schedule: Schedule) -> Iterator[Progress]:
    """Train in place, one epoch for each ``next``; at the end the best weights are in.

    The best are those with the highest F1 on the held-out side, the later of equals,
    once a quarter of the epochs are over: a held-out side of a few texts may be lucky
    long before the tagger has learnt. After another quarter without such an F1 it ends.
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
    # Without the key nothing was to be found, and nothing was.
    return scores[MICRO].f1 if MICRO in scores else 1.0


def measure(
    tagger: Tagger, lessons: Lessons, called: Mapping[str, str]
) -> dict[str, float]:
    """A version's metrics.

    Args:
        tagger: what was learnt.
        lessons: from these.
        called: the labels in the label config by their names in the tagger.

    Returns:
        ``{"f1", "f1_<label>", .., "trained_on", "held_out"}``: F1 over all labels and
        of each that the held-out side has, and how many tasks each side has. ``f1`` is
        NaN where no entity is held out.
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
