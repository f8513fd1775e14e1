"""Make ``base.safetensors`` out of the example's own sentences, and measure it.

python -m examples.pytorch_ner.train_base              train, write, measure
python -m examples.pytorch_ner.train_base --measure    measure the file as it is
python -m examples.pytorch_ner.train_base --new-label  learn PROD from 50 sentences
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from examples.pytorch_ner.data import (
    LISTS,
    Example,
    labels_of,
    read_sentences,
    split,
)
from examples.pytorch_ner.model import Tagger
from examples.pytorch_ner.scores import MICRO, Dictionary, Score, entity_scores
from examples.pytorch_ner.train import Schedule, entities_by_label, evaluate, train

BASE = Path(__file__).with_name("base.safetensors")
SEED = 0

NEW_LABEL = "PROD"
"""Sentences with this label are kept from the base, to be learnt later."""


def base_examples() -> tuple[list[Example], list[Example]]:
    """(train, held out) of the sentences without the new label; lists are for train."""
    known, held_out = split(
        e for e in read_sentences() if NEW_LABEL not in labels_of([e])
    )
    return known + read_sentences(LISTS), held_out


def train_base(examples: Sequence[Example], schedule: Schedule) -> Tagger:
    """A tagger trained from nothing; the same one each time on the same machine."""
    torch.manual_seed(schedule.seed)
    tagger = Tagger(labels_of(examples))
    for epoch in train(tagger, examples, schedule):
        print(f"\repoch {epoch.number}: loss {epoch.loss:.3f}", end="", flush=True)
    print()
    return tagger


def new_label_examples(annotations: int) -> tuple[list[Example], list[Example]]:
    """Sentences with the new label: (to annotate, held out).

    A held-out sentence shares no entity of that label with those to annotate.
    """
    with_label = [e for e in read_sentences() if NEW_LABEL in labels_of([e])]
    with_label.sort(key=lambda example: zlib.crc32(example.id.encode()))
    chosen, others = with_label[:annotations], with_label[annotations:]
    seen = set(entities_by_label(chosen)[NEW_LABEL])
    return chosen, [
        e for e in others if seen.isdisjoint(entities_by_label([e])[NEW_LABEL])
    ]


def learn_new_label(examples: Sequence[Example], path: Path = BASE) -> Tagger:
    """The base, trained on with sentences that hold one label more."""
    labels = Tagger.load(path).labels
    tagger = Tagger.load(path, [*labels, NEW_LABEL])
    for _ in train(tagger, examples, Schedule(batch=8, seed=SEED)):
        pass
    return tagger


def dictionary_scores(
    known: Sequence[Example], examples: Sequence[Example]
) -> dict[str, Score]:
    """What looking entities up in the training sentences would reach."""
    dictionary = Dictionary(known)
    found = [dictionary.find(example.text) for example in examples]
    return entity_scores([example.spans for example in examples], found)


def table(scores: Mapping[str, Score], baseline: Mapping[str, Score]) -> str:
    """A line per label, in Markdown."""
    lines = [
        "| label | entities | precision | recall | F1 | F1 of the dictionary |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label, s in scores.items():
        looked_up = baseline[label].f1 if label in baseline else 0.0
        cells = (s.precision, s.recall, s.f1, looked_up)
        numbers = " | ".join(f"{cell:.2f}" for cell in cells)
        lines.append(f"| {label} | {s.entities} | {numbers} |")
    return "\n".join(lines)


def report(
    name: str, tagger: Tagger, known: Sequence[Example], held_out: Sequence[Example]
) -> None:
    """Print the scores on held-out sentences."""
    print(f"{name}: {len(known)} sentences to learn from, {len(held_out)} held out")
    print(table(evaluate(tagger, held_out), dictionary_scores(known, held_out)))


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--new-label", action="store_true")
    parser.add_argument("--annotations", type=int, default=50)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # sums are taken in the same order on every machine
    if asked.new_label:
        known, held_out = new_label_examples(asked.annotations)
        tagger = learn_new_label(known)
        report(NEW_LABEL, tagger, known, held_out)
        forgotten = evaluate(tagger, base_examples()[1])[MICRO].f1
        print(f"F1 on the held-out sentences of the base is now {forgotten:.2f}")
        return
    known, held_out = base_examples()
    if not asked.measure:
        train_base(known, Schedule(seed=SEED)).save(BASE)
    report(BASE.name, Tagger.load(BASE), known, held_out)


if __name__ == "__main__":
    main()
