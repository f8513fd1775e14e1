# ruff: noqa: S101

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ner import model as model_module
from ner.backend import BASE
from ner.data import (
    base_examples,
    parse_markup,
    read_sentences,
    tokenize,
)
from ner.decoding import decode
from ner.features import collate, encode
from ner.model import Config, Tagger, relabel
from ner.scores import MICRO
from ner.train import Schedule, evaluate, train
from ner.train_base import (
    dictionary_scores,
    learn_new_label,
    new_label_examples,
)

LABELS = ["LOC", "PER"]
SMALL = Config(buckets=256, channels=8, layers=2)
TEXTS = [example.text for example in read_sentences()]


@pytest.fixture(scope="module")
def base() -> Tagger:
    return Tagger.load(BASE)


def logits(tagger: Tagger, texts: list[str]) -> torch.Tensor:
    rows = [encode(t, tokenize(t), tagger.config.buckets) for t in texts]
    with torch.inference_mode():
        found: torch.Tensor = tagger(collate(rows))
    return found


def test_logits_have_a_row_per_token_and_three_tags_for_one_label() -> None:
    tagger = Tagger(["PER"], SMALL).eval()
    assert logits(tagger, ["Ana left.", "no"]).shape == (2, 3, 3)
    assert logits(Tagger(LABELS, SMALL).eval(), [""]).shape == (1, 1, 5)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(TEXTS), min_size=2, max_size=8))
def test_padding_does_not_change_logits(texts: list[str]) -> None:
    tagger = Tagger.load(BASE)
    together = logits(tagger, texts)
    for row, text in zip(together, texts, strict=True):
        alone = logits(tagger, [text])[0]
        torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-4, atol=1e-4)


def test_training_drops_features_and_tagging_does_not() -> None:
    tagger = Tagger(LABELS, SMALL)
    rows = collate([encode(TEXTS[0], tokenize(TEXTS[0]), SMALL.buckets)])
    assert not torch.equal(tagger.train()(rows), tagger.train()(rows))
    assert torch.equal(tagger.eval()(rows), tagger.eval()(rows))


def test_texts_without_tokens_have_no_entities() -> None:
    tagger = Tagger(LABELS, SMALL)
    assert tagger.tag([]) == []
    assert tagger.tag(["", "  "]) == [([], 1.0), ([], 1.0)]


def test_long_texts_are_tagged_in_batches_with_the_same_result(
    base: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    watch = base.register_forward_pre_hook(
        lambda _, given: shapes.append(given[0].shape)
    )
    at_once = base.tag(TEXTS[:40])
    monkeypatch.setattr(model_module, "MAX_CELLS", 50)
    in_turns = base.tag(TEXTS[:40])
    watch.remove()
    assert shapes[0][0] == 40
    assert len(shapes) > 10
    assert all(texts * tokens <= 50 for texts, tokens, _ in shapes[1:])
    assert [[e[:3] for e in t.entities] for t in at_once] == [
        [e[:3] for e in t.entities] for t in in_turns
    ]


def test_an_entity_has_one_label_by_the_vote_of_its_tokens() -> None:
    # outside, begin LOC, inside LOC, begin PER, inside PER
    probabilities = torch.tensor(
        [
            [0.0, 0.4, 0.0, 0.6, 0.0],
            [0.0, 0.0, 0.9, 0.0, 0.1],
            [0.8, 0.1, 0.0, 0.1, 0.0],
        ]
    )
    tagged = decode(probabilities[None], [[(0, 3), (4, 8), (8, 9)]], LABELS)[0]
    ((start, end, label, score),) = tagged.entities
    assert (start, end, label) == (0, 8, "LOC")
    assert score == pytest.approx((0.4 + 0.9) / 2)
    assert tagged.score == pytest.approx((0.4 + 0.9 + 0.8) / 3)


def test_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    tagger = Tagger(LABELS, SMALL).eval()
    tagger.save(tmp_path / "t.safetensors")
    again = Tagger.load(tmp_path / "t.safetensors")
    assert (again.labels, again.config) == (tagger.labels, SMALL)
    assert torch.equal(logits(again, TEXTS[:3]), logits(tagger, TEXTS[:3]))


def test_labels_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    tagger = Tagger(["LOC", "PER", "ORG"], SMALL).eval()
    tagger.save(tmp_path / "t.safetensors")
    again = Tagger.load(tmp_path / "t.safetensors", ["PER", "LOC"])
    old, new = logits(tagger, TEXTS[:2]), logits(again, TEXTS[:2])
    torch.testing.assert_close(new[..., 1:3], old[..., 3:5])
    torch.testing.assert_close(new[..., 3:5], old[..., 1:3])
    torch.testing.assert_close(new[..., 0], old[..., 0])


def test_a_new_label_starts_as_the_mean_of_the_known() -> None:
    rows = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    wanted = relabel(rows, ["LOC", "PER"], ["PER", "PROD"])
    assert wanted.tolist() == [0.0, 3.0, 4.0, 2.0, 3.0]
    assert relabel(rows[:1], [], ["PROD"]).tolist() == [0.0, 0.0, 0.0]


def test_training_lowers_the_loss_and_is_reproducible() -> None:
    examples = read_sentences()[:32]

    def losses() -> list[float]:
        torch.manual_seed(0)
        tagger = Tagger(["DATE", "LOC", "ORG", "PER"], SMALL)
        return [epoch.loss for epoch in train(tagger, examples, Schedule(epochs=3))]

    first = losses()
    assert first[2] < first[0]
    assert first == losses()


def test_training_can_be_stopped_after_any_epoch() -> None:
    tagger = Tagger(LABELS, SMALL)
    epochs = train(tagger, [parse_markup("[PER Ana] left.")], Schedule(epochs=50))
    assert next(epochs).number == 1
    assert next(epochs).number == 2
    assert not tagger.training


def test_training_on_nothing_ends() -> None:
    assert [e.loss for e in train(Tagger(LABELS, SMALL), [], Schedule(epochs=2))] == [
        0.0,
        0.0,
    ]


def test_the_base_is_small_and_knows_four_labels(base: Tagger) -> None:
    assert BASE.stat().st_size < 2_000_000
    assert base.labels == ("DATE", "LOC", "ORG", "PER")


def test_the_base_beats_the_dictionary_on_held_out_sentences(base: Tagger) -> None:
    known, held_out = base_examples()
    scores, looked_up = evaluate(base, held_out), dictionary_scores(known, held_out)
    assert all(scores[label].f1 > looked_up[label].f1 for label in looked_up)
    assert scores[MICRO].f1 > 0.65


def test_the_readme_has_the_measured_scores(base: Tagger) -> None:
    readme = (BASE.parents[1] / "README.md").read_text(encoding="utf-8")
    stated = readme.partition("--measure")[2]
    for label, score in evaluate(base, base_examples()[1]).items():
        row = re.search(rf"^\| {label} \|(.*)\|$", stated, re.MULTILINE)
        assert row is not None
        entities, _, _, f1, _ = row[1].split("|")
        assert int(entities) == score.entities
        assert float(f1) == pytest.approx(score.f1, abs=0.02)


def test_no_held_out_sentence_was_trained_on() -> None:
    known, held_out = base_examples()
    assert not {e.text for e in known} & {e.text for e in held_out}


def test_fifty_annotations_teach_a_new_label_beyond_their_own_words(
    tmp_path: Path,
) -> None:
    known, held_out = new_label_examples(50)
    names = {e.text[s.start : s.end] for e in known for s in e.spans}
    tagger = learn_new_label(known, tmp_path)
    scores = evaluate(tagger, held_out)
    looked_up = dictionary_scores(known, held_out)
    assert len(held_out) > 60
    assert not names & {
        e.text[s.start : s.end] for e in held_out for s in e.spans if s.label == "PROD"
    }
    assert scores["PROD"].f1 > 0.5 > looked_up["PROD"].f1
    assert evaluate(tagger, base_examples()[1])[MICRO].f1 > 0.55


def test_the_base_finds_entities_after_an_emoji(base: Tagger) -> None:
    text = "\U0001f600 Anna Kowalczuk flew to Porto on 4 May 2021."
    tagged = base.tag([text])[0]
    assert [(text[e.start : e.end], e.label) for e in tagged.entities] == [
        ("Anna Kowalczuk", "PER"),
        ("Porto", "LOC"),
        ("4 May 2021", "DATE"),
    ]
    assert 0.5 < min(entity.score for entity in tagged.entities) <= 1.0
    assert 0.5 < tagged.score <= 1.0
