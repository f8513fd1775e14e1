# ruff: noqa: S101

import logging
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from lsml_bento.testing import LocalRun, fit
from ner.backend import BASE, NER, WEIGHTS
from ner.data import (
    Example,
    base_examples,
    example_to_annotated_task,
    parse_markup,
    split,
)
from ner.learning import Lessons, learn, measure
from ner.model import Config, Tagger
from ner.scores import MICRO
from ner.train import Schedule, evaluate, invented
from ner.train_base import new_label_examples

LABEL_CONFIG = (Path(__file__).parents[2] / "label_config.xml").read_text()
LABELS = ("PER", "ORG", "LOC", "DATE", "PROD")
NAMES = {label: label for label in LABELS[:4]}
SMALL = Config(buckets=256, channels=8, layers=2)
PRODUCTS, OTHERS = new_label_examples(24)


def backend(label_config: str = LABEL_CONFIG, weights: Path | None = None) -> NER:
    made = NER(project_id="1", label_config=label_config)
    made.load(weights)
    return made


def config(*labels: str) -> str:
    return (
        f'<View><Labels name="tags" toName="body">{"".join(labels)}</Labels>'
        '<Text name="body" value="$content"/></View>'
    )


def annotated(
    examples: list[Example], from_name: str = "label", value: str = "text"
) -> list[dict[str, Any]]:
    return [example_to_annotated_task(e, from_name, "text", value) for e in examples]


def task(id_: int, text: str, *results: Any, **others: Any) -> dict[str, Any]:
    annotations = [{"id": n, "result": r} for n, r in enumerate(results)]
    return {"id": id_, "data": {"text": text}, "annotations": annotations, **others}


def region(start: object, end: object, *labels: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "labels": list(labels)}
    return {"from_name": "label", "to_name": "text", "type": "labels", "value": value}


def examples_on(held_out: bool, count: int) -> list[Example]:
    sides = split(
        Example(str(n), f"[{n}] Ana left.", parse_markup("[PER Ana] left.").spans)
        for n in range(100)
    )
    return sides[held_out][:count]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> LocalRun:
    """A fit of a few product sentences with the label config of the example."""
    return fit(backend(), annotated(PRODUCTS), tmp_path_factory.mktemp("first"))


def test_a_fit_saves_one_version_with_its_metrics(first: LocalRun) -> None:
    ((path, metrics),) = first.saved
    assert [file.name for file in path.iterdir()] == [WEIGHTS]
    assert metrics["trained_on"] == len(split(PRODUCTS)[0])
    assert metrics["held_out"] == len(split(PRODUCTS)[1]) > 2
    assert {"f1", "f1_PROD"} <= set(metrics)
    assert all(0.0 <= (metrics[name] or 0) <= 1.0 for name in metrics if "f1" in name)


def test_the_metrics_are_those_of_the_weights_that_were_saved(first: LocalRun) -> None:
    ((path, metrics),) = first.saved
    scores = evaluate(Tagger.load(path / WEIGHTS), split(PRODUCTS)[1])
    assert metrics["f1"] == pytest.approx(scores[MICRO].f1)
    assert metrics["f1"] == max(report["f1"] for report in first.reports)


def test_every_epoch_is_reported(first: LocalRun) -> None:
    shares = [report["progress"] for report in first.reports]
    assert shares == sorted(set(shares))
    assert 0.0 < shares[0] < shares[-1] <= 1.0
    assert first.reports[-1]["loss"] < first.reports[0]["loss"]
    assert all(0.0 <= report["f1"] <= 1.0 for report in first.reports)


def test_a_new_label_of_the_label_config_is_learned_and_predicted(
    first: LocalRun,
) -> None:
    model = backend(weights=first.saved[0][0])
    assert model.tagger.labels == LABELS
    scores = evaluate(model.tagger, OTHERS)
    assert scores["PROD"].f1 > 0.3
    tasks = [{"id": e.id, "data": {"text": e.text}} for e in OTHERS]
    labels = [
        region["value"]["labels"][0]
        for prediction in model.predict(tasks)
        for region in prediction["result"]
    ]
    assert labels.count("PROD") > 20
    for prediction in model.predict(tasks):
        assert 0.0 < prediction["score"] <= 1.0


def test_rehearsal_reduces_forgetting(first: LocalRun, tmp_path: Path) -> None:
    model = backend()
    model.rehearse = 0.0
    ((path, _),) = fit(model, annotated(PRODUCTS), tmp_path).saved
    of_base = base_examples()[1]
    without = evaluate(Tagger.load(path / WEIGHTS), of_base)[MICRO].f1
    rehearsed = evaluate(Tagger.load(first.saved[0][0] / WEIGHTS), of_base)[MICRO].f1
    assert rehearsed > without + 0.05


def test_the_same_annotations_make_the_same_weights(tmp_path: Path) -> None:
    tasks = annotated(PRODUCTS[:4])
    (a, one), (b, other) = (
        fit(backend(), tasks, tmp_path / name).saved[0] for name in "ab"
    )
    assert one == other
    weights = [Tagger.load(path / WEIGHTS).state_dict() for path in (a, b)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# Where it starts


def test_a_fit_starts_from_the_active_version(first: LocalRun, tmp_path: Path) -> None:
    few, version = annotated(PRODUCTS[:2]), first.saved[0][0]
    ((again, _),) = fit(backend(weights=version), few, tmp_path / "again").saved
    ((anew, _),) = fit(backend(), few, tmp_path / "anew").saved
    assert distance(again / WEIGHTS, version / WEIGHTS) < distance(again / WEIGHTS)
    assert distance(anew / WEIGHTS) < distance(anew / WEIGHTS, version / WEIGHTS)


def distance(path: Path, start: Path = BASE) -> float:
    """How far training moved the feature embeddings."""
    a, b = Tagger.load(path).embed.weight, Tagger.load(start).embed.weight
    return float((a - b).detach().norm())


def test_the_weights_keep_their_size(tmp_path: Path) -> None:
    Tagger(["PER"], SMALL).save(tmp_path / WEIGHTS)
    model = backend(weights=tmp_path)
    ((path, _),) = fit(model, annotated(PRODUCTS[:3]), tmp_path / "new").saved
    assert Tagger.load(path / WEIGHTS).config == SMALL


def test_a_fit_changes_neither_the_base_nor_the_serving_model(
    tmp_path: Path,
) -> None:
    before, model = BASE.read_bytes(), backend()
    serving = {name: t.clone() for name, t in model.tagger.state_dict().items()}
    fit(model, annotated(PRODUCTS[:3]), tmp_path)
    assert BASE.read_bytes() == before
    assert model.tagger.labels == ("DATE", "LOC", "ORG", "PER")
    for name, tensor in model.tagger.state_dict().items():
        assert torch.equal(tensor, serving[name])


# Labels


def test_labels_with_another_name_in_the_weights_keep_it(
    tmp_path: Path,
) -> None:
    label_config = config(
        '<Label value="Who" predicted_values="PER,ORG"/>', '<Label value="Gadget"/>'
    )
    named = [
        parse_markup("[PER Ana Keller] bought a [PROD Nimbus 4]."),
        parse_markup("Ask [PER Marta Silva] for the [PROD Lumo Kettle]."),
        *PRODUCTS[:8],
    ]
    called = {"PER": "Who", "ORG": "Who", "PROD": "Gadget"}
    tasks = annotated(named, "tags", "content")
    for each in tasks:
        for found in each["annotations"][0]["result"]:
            labels = found["value"]["labels"]
            labels[0] = called.get(labels[0], labels[0])
    ((path, metrics),) = fit(backend(label_config), tasks, tmp_path).saved
    model = backend(label_config, path)
    assert model.tagger.labels == ("PER", "Gadget")
    assert set(metrics) <= {"f1", "f1_Who", "f1_Gadget", "trained_on", "held_out"}
    text = "Anna Kowalczuk flew to Porto on 4 May 2021."
    (prediction,) = model.predict([{"id": 1, "data": {"content": text}}])
    values = [found["value"] for found in prediction["result"]]
    assert ("Anna Kowalczuk", ["Who"]) in [(v["text"], v["labels"]) for v in values]
    assert {v["labels"][0] for v in values} <= {"Who", "Gadget"}


def test_only_unknown_labels_need_no_rehearsal(tmp_path: Path) -> None:
    tasks = annotated([parse_markup("[GENE abcA] folds.")], "tags", "content")
    model = backend(config('<Label value="GENE"/>'))
    ((path, metrics),) = fit(model, tasks, tmp_path).saved
    assert Tagger.load(path / WEIGHTS).labels == ("GENE",)
    assert metrics["trained_on"] == 1
    assert Lessons.of([parse_markup("[GENE abcA] folds.")], {}).rehearsal == []


def test_a_label_config_without_labels_makes_no_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label_config = (
        '<View><Labels name="label" toName="text" value="$labels"/>'
        '<Text name="text" value="$text"/></View>'
    )
    with caplog.at_level(logging.INFO):
        run = fit(backend(label_config), annotated(PRODUCTS[:2]), tmp_path)
    assert run.saved == []
    assert "No version: no labels in the label config, project=1" in caplog.messages


# Odd and few annotations


def test_without_annotations_there_is_no_version_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    skipped = task(1, "Ana left.", [region(0, 3, "PER")])
    skipped["annotations"][0]["was_cancelled"] = True
    nothing = [skipped, task(2, "Ana left."), {"id": 3}, task(4, "x", [], data={})]
    for tasks in ([], nothing):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            run = fit(backend(), tasks, tmp_path)
        assert (run.saved, run.reports) == ([], [])
        assert "No version: no annotated texts, project=1" in caplog.messages


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_too_few_annotations_are_trained_on_and_nothing_is_measured(
    tmp_path: Path, held_out: bool, count: int
) -> None:
    run = fit(backend(), annotated(examples_on(held_out, count)), tmp_path)
    ((path, metrics),) = run.saved
    assert metrics == {"f1": None, "trained_on": count, "held_out": 0}
    assert all(report["f1"] is None for report in run.reports)
    assert Tagger.load(path / WEIGHTS).labels == LABELS


def test_invalid_annotations_are_learned_as_far_as_possible(tmp_path: Path) -> None:
    text = "\U0001f600 Ana Keller flew to Porto"
    odd: list[Any] = [
        [],
        None,
        [region(2, 12, "PER"), region(6, 27, "LOC")],
        [region(2, 12, "NOT_IN_THE_CONFIG")],
        [region(2, 12, "NOT_IN_THE_CONFIG"), region(2, 12, "PER")],
        [region(12, 2, "PER"), region(22, 99, "LOC"), region(-5, 1, "LOC")],
        [region("/p[1]", "/p[1]", "PER"), region(3, 3, "PER"), region(0, 5)],
        ["text", None, {}, {"from_name": "label"}, {"from_name": "label", "value": 0}],
        [{"from_name": "label", "value": {"start": 0, "end": 3, "labels": "PER"}}],
        [{"from_id": "a", "to_id": "b", "type": "relation"}],
    ]
    tasks = [task(n, text, result) for n, result in enumerate(odd)]
    tasks += [task(100, "", []), task(101, "  ", [region(0, 1, "PER")])]
    ((path, metrics),) = fit(backend(), tasks, tmp_path).saved
    assert (metrics["trained_on"] or 0) + (metrics["held_out"] or 0) <= len(tasks)
    assert Tagger.load(path / WEIGHTS).labels == LABELS


def test_offsets_after_an_emoji_are_learned_as_annotated(tmp_path: Path) -> None:
    examples = [
        parse_markup(f"\U0001f600\U0001f44d\U0001f3ff the [PROD {name}] broke")
        for name in ("zumbler", "fendle", "quorbit", "plask", "trindle", "voxer")
    ]
    tasks = annotated([*examples, *base_examples()[0][:4]])
    ((path, _),) = fit(backend(), tasks, tmp_path).saved
    text = "\U0001f600\U0001f44d\U0001f3ff the zumbler broke"
    (prediction,) = backend(weights=path).predict([{"id": 1, "data": {"text": text}}])
    ((start, end),) = [
        (r["value"]["start"], r["value"]["end"]) for r in prediction["result"]
    ]
    assert text[start:end] == "zumbler"


# When it stops


def test_a_cancelled_fit_stops_after_its_epoch_without_a_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run = fit(backend(), annotated(PRODUCTS), tmp_path, stop_after=2)
    assert (len(run.reports), run.saved) == (2, [])
    assert "No version: stopped, project=1" in caplog.messages


def lessons() -> Lessons:
    train, held_out = split(
        Example(f"task {n}", e.text, e.spans)
        for n, e in enumerate(base_examples()[1][:60])
    )
    return Lessons(train, held_out, [])


def test_training_ends_with_the_best_weights() -> None:
    # A learning rate that ruins the weights within an epoch or two.
    tagger = Tagger.load(BASE)
    plan = Schedule(epochs=16, peak=0.3, seed=1)
    steps = list(learn(tagger, lessons(), plan))
    best = max(step.f1 for step in steps)
    assert best > steps[-1].f1
    assert measure(tagger, lessons(), {})["f1"] == pytest.approx(best)


def test_no_epoch_of_the_first_quarter_is_chosen() -> None:
    # Texts without entities, so that it forgets more with each epoch.
    found = lessons()
    train = [Example(e.id, e.text, ()) for e in found.train]
    forgetting, tagger = Lessons(train, found.held_out, []), Tagger.load(BASE)
    plan = Schedule(epochs=16, peak=3e-3)
    f1 = [step.f1 for step in learn(tagger, forgetting, plan)]
    early, later = f1[: 16 // 4 - 1], f1[16 // 4 - 1 :]
    assert max(early) > max(later)
    assert measure(tagger, forgetting, {})["f1"] == pytest.approx(max(later))


def test_training_stops_early_without_progress() -> None:
    plan = Schedule(epochs=16, peak=0.3, seed=1)
    steps = list(learn(Tagger.load(BASE), lessons(), plan))
    best = max(range(len(steps)), key=lambda n: (steps[n].f1, n))
    assert len(steps) == best + 1 + 16 // 4 < 16
    assert steps[-1].share == pytest.approx(len(steps) / 16)


# What it learns from


def test_held_out_tasks_are_never_trained_on() -> None:
    made = Lessons.of(PRODUCTS, NAMES)
    assert (made.train, made.held_out) == split(PRODUCTS)
    more = Lessons.of([*OTHERS, *PRODUCTS], NAMES)
    assert {e.id for e in made.held_out} <= {e.id for e in more.held_out}
    rehearsed = {e.text for e in made.rehearsal}
    assert not rehearsed & {e.text for e in base_examples()[1]}
    assert not rehearsed & {e.text for e in made.held_out}
    assert all(span.label != "PROD" for e in made.rehearsal for span in e.spans)


def test_a_shipped_sentence_that_is_annotated_is_not_rehearsed() -> None:
    shipped = base_examples()[0][:30]
    mine = [Example(str(n), e.text, ()) for n, e in enumerate(shipped)]
    made = Lessons.of(mine, NAMES)
    assert made.held_out
    assert not {e.text for e in mine} & {e.text for e in made.rehearsal}


def test_a_text_that_is_held_out_is_not_trained_on_in_another_task() -> None:
    (held,), (known,) = examples_on(True, 1), examples_on(False, 1)
    twin = Example(known.id, held.text, held.spans)
    made = Lessons.of([held, twin, *examples_on(False, 3)[1:]], NAMES)
    assert held.text not in {e.text for e in made.train}
    assert [e.id for e in made.held_out] == [held.id]


def test_sentences_with_labels_that_the_label_config_lacks_are_not_rehearsed() -> None:
    made = Lessons.of(PRODUCTS, {"LOC": "Place"})
    assert {s.label for e in made.rehearsal for s in e.spans} == {"Place"}


@pytest.mark.parametrize(
    ("annotations", "epochs"), [(1, 80), (100, 80), (1000, 19), (90_000, 5)]
)
def test_more_annotations_mean_fewer_epochs(annotations: int, epochs: int) -> None:
    example = parse_markup("[PER Ana] left.")
    made = Lessons([example] * annotations, [], [example] * 200)
    assert made.schedule().epochs == pytest.approx(epochs, abs=1)


def test_invented_names_keep_the_shape() -> None:
    rng = random.Random(0)
    names = [invented("Tundra-X 9 \u674e", rng) for _ in range(20)]
    for name in names:
        assert name[0].isupper()
        assert name[1:6].islower()
        assert (name[6], name[7].isupper(), name[9].isdigit()) == ("-", True, True)
    assert len(set(names)) > 10


def test_nothing_held_out_differs_from_no_entities() -> None:
    tagger = Tagger(["PER"], SMALL).eval()
    with torch.no_grad():
        tagger.head.bias[0] = 99.0  # everything is outside
    bare = Example("1", "nobody", ())
    assert math.isnan(measure(tagger, Lessons([bare], [], []), {})["f1"])
    for held_out, f1 in (([], math.nan), ([bare], 1.0)):
        made = Lessons([bare], held_out, [])
        (step,) = learn(tagger, made, Schedule(epochs=1))
        assert step.f1 == pytest.approx(f1, nan_ok=True)
