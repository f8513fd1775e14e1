"""Train ``base.safetensors`` on the sentences of the example, and measure it.

python -m ner.train_base              train, write, measure
python -m ner.train_base --measure    only measure the file
python -m ner.train_base --new-label  fit PROD on 50 sentences
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lsml_bento import testing
from ner.backend import BASE, NER, WEIGHTS
from ner.data import (
    NEW_LABEL,
    Example,
    base_examples,
    example_to_annotated_task,
    labels_of,
    read_sentences,
)
from ner.model import Tagger
from ner.scores import MICRO, Dictionary, Score, entity_scores
from ner.train import Schedule, entities_by_label, evaluate, train

LABEL_CONFIG = Path(__file__).parents[1] / "label_config.xml"
SEED = 0


def train_base(examples: Sequence[Example], schedule: Schedule) -> Tagger:
    """Train a tagger from scratch. The result is reproducible on the same machine."""
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


def learn_new_label(
    examples: Sequence[Example], directory: Path, rehearse: float = NER.rehearse
) -> Tagger:
    """Fit the base weights to annotated examples, as the backend does.

    Args:
        examples: the annotated examples.
        directory: where the version is written.
        rehearse: rehearsed sentences per annotated example in an epoch.
    """
    model = NER(label_config=LABEL_CONFIG.read_text(encoding="utf-8"))
    model.rehearse = rehearse
    model.load(None)
    tasks = [
        example_to_annotated_task(e, model.from_name, model.to_name, model.value)
        for e in examples
    ]
    started = time.monotonic()
    path, metrics = testing.fit(model, tasks, directory).saved[-1]
    seconds = time.monotonic() - started
    print(f"fit took {seconds:.0f} s: {json.dumps(metrics)}")
    return Tagger.load(path / WEIGHTS)


def dictionary_scores(
    known: Sequence[Example], examples: Sequence[Example]
) -> dict[str, Score]:
    """The scores of looking up entities of the training sentences."""
    dictionary = Dictionary(known)
    found = [dictionary.find(example.text) for example in examples]
    return entity_scores([example.spans for example in examples], found)


def table(scores: Mapping[str, Score], baseline: Mapping[str, Score]) -> str:
    """A Markdown table with a line per label."""
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
    print(f"{name}: {len(known)} training sentences, {len(held_out)} held out")
    print(table(evaluate(tagger, held_out), dictionary_scores(known, held_out)))


def show_new_label(annotations: int, rehearse: float) -> None:
    """Learn the new label, and print its scores and those of the other labels."""
    known, held_out = new_label_examples(annotations)
    with tempfile.TemporaryDirectory() as directory:
        tagger = learn_new_label(known, Path(directory), rehearse)
    report(NEW_LABEL, tagger, known, held_out)
    of_base = base_examples()[1]
    base = evaluate(tagger, of_base)[MICRO].f1
    mixed = evaluate(tagger, [*of_base, *held_out])[NEW_LABEL].f1
    print(f"F1 on the held-out sentences of the base is now {base:.2f}")
    print(f"F1 of {NEW_LABEL} on both kinds of sentences is {mixed:.2f}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--new-label", action="store_true")
    parser.add_argument("--annotations", type=int, default=50)
    parser.add_argument("--rehearse", type=float, default=NER.rehearse)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums have the same order on every machine
    if arguments.new_label:
        show_new_label(arguments.annotations, arguments.rehearse)
        return
    known, held_out = base_examples()
    if not arguments.measure:
        train_base(known, Schedule(seed=SEED)).save(BASE)
    report(BASE.name, Tagger.load(BASE), known, held_out)


if __name__ == "__main__":
    main()
