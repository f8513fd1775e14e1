# ruff: noqa: S101

from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk.label_interface import LabelInterface

from ner.backend import NER, WEIGHTS
from ner.data import read_sentences, tokenize
from ner.model import Config, Tagger

EXAMPLE = Path(__file__).parents[2]
LABEL_CONFIG = (EXAMPLE / "label_config.xml").read_text()
TEXT = "\U0001f600 Zoe\u0308 Keller flew to Porto on 4 May 2021."


def backend(label_config: str = LABEL_CONFIG, weights: Path | None = None) -> NER:
    made = NER(project_id="1", label_config=label_config)
    made.load(weights)
    return made


def labels_config(*labels: str) -> str:
    return (
        '<View><Labels name="tags" toName="body">'
        f"{''.join(labels)}</Labels>"
        '<Text name="body" value="$content"/></View>'
    )


def task(text: object, key: str = "text") -> dict[str, Any]:
    return {"id": 1, "data": {key: text}}


TASKS = [task(example.text) for example in read_sentences()[::9]]


def found(prediction: dict[str, Any]) -> list[tuple[str, str]]:
    values = [region["value"] for region in prediction["result"]]
    return [(value["text"], value["labels"][0]) for value in values]


def rounded(predictions: list[dict[str, Any]]) -> list[Any]:
    """Rounded, as the last digits depend on the batch size."""
    return [
        (
            [(r["id"], r["value"]["labels"]) for r in p["result"]],
            [pytest.approx(r["value"]["score"], abs=1e-4) for r in p["result"]],
            pytest.approx(p["score"], abs=1e-4),
        )
        for p in predictions
    ]


@pytest.fixture(scope="module")
def ner() -> NER:
    return backend()


def test_regions_name_the_tags_of_the_label_config() -> None:
    config = labels_config('<Label value="LOC"/>', '<Label value="PER"/>')
    (prediction,) = backend(config).predict([task(TEXT, "content")])
    assert len(prediction["result"]) == 2
    for region in prediction["result"]:
        assert region["from_name"] == "tags"
        assert region["to_name"] == "body"
        assert region["type"] == "labels"


def test_offsets_are_correct_with_emoji_and_combining_marks(ner: NER) -> None:
    (prediction,) = ner.predict([task(TEXT)])
    assert found(prediction) == [
        ("Zoe\u0308 Keller", "PER"),
        ("Porto", "LOC"),
        ("4 May 2021", "DATE"),
    ]
    for region in prediction["result"]:
        value = region["value"]
        assert TEXT[value["start"] : value["end"]] == value["text"]


def test_predictions_are_valid_for_their_label_config(ner: NER) -> None:
    interface = LabelInterface(LABEL_CONFIG)
    for prediction in ner.predict(TASKS):
        assert interface.validate_prediction(prediction)


def test_scores_are_probabilities_and_ids_are_unique(ner: NER) -> None:
    for prediction in ner.predict(TASKS):
        regions = prediction["result"]
        scores = [prediction["score"], *(r["value"]["score"] for r in regions)]
        assert all(0.0 < score <= 1.0 for score in scores)
        assert len({region["id"] for region in regions}) == len(regions)


def test_predictions_do_not_depend_on_the_batch(ner: NER) -> None:
    a, b = TASKS[:5], TASKS[5:30]
    apart = ner.predict(a) + ner.predict(b)
    assert rounded(apart) == rounded(ner.predict(a + b))


def test_a_long_task_does_not_change_the_others(ner: NER) -> None:
    long = task(" ".join([TEXT] * 500))
    together = ner.predict([TASKS[0], long, TASKS[1]])
    alone = ner.predict([TASKS[0]]) + ner.predict([TASKS[1]])
    assert rounded([together[0], together[2]]) == rounded(alone)
    assert len(together[1]["result"]) > 1000


def test_a_label_that_the_weights_do_not_know_is_not_predicted(ner: NER) -> None:
    labels = {label for p in ner.predict(TASKS) for _, label in found(p)}
    assert labels == {"PER", "ORG", "LOC", "DATE"}
    strange = backend(labels_config('<Label value="Gene"/>'))
    assert strange.predict([task(TEXT, "content")])[0]["result"] == []


def test_a_label_missing_in_the_label_config_is_not_predicted() -> None:
    config = labels_config('<Label value="LOC"/>')
    (prediction,) = backend(config).predict([task(TEXT, "content")])
    assert found(prediction) == [("Porto", "LOC")]


def test_labels_have_the_names_of_the_label_config() -> None:
    config = labels_config(
        '<Label value="Who" predicted_values="PER,ORG"/>', '<Label value="loc"/>'
    )
    (prediction,) = backend(config).predict([task(TEXT, "content")])
    assert found(prediction) == [("Zoe\u0308 Keller", "Who"), ("Porto", "loc")]


@pytest.mark.parametrize("text", ["", "  ", None])
def test_a_task_without_words_gets_no_regions(ner: NER, text: object) -> None:
    assert ner.predict([task(text)]) == [{"result": [], "score": 1.0}]


def test_a_task_without_the_key_and_one_with_a_number_are_answered(ner: NER) -> None:
    assert ner.predict([task("x", "other")])[0]["result"] == []
    assert len(ner.predict([task(2021), task(["a", "b"])])) == 2
    assert ner.predict([]) == []


def test_a_version_is_read_from_its_directory(tmp_path: Path) -> None:
    Tagger(["PROD"], Config(buckets=256, channels=8)).save(tmp_path / WEIGHTS)
    made = backend(weights=tmp_path)
    assert made.tagger.labels == ("PROD",)
    predictions = made.predict(TASKS)
    assert {label for p in predictions for _, label in found(p)} <= {"PROD"}


def test_a_label_config_without_labels_on_text_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Labels"):
        backend(
            '<View><Image name="i" value="$i"/><Choices name="c" toName="i">'
            '<Choice value="a"/></Choices></View>'
        )


def test_an_annotators_context_does_not_change_the_prediction(ner: NER) -> None:
    with_context = ner.predict([task(TEXT)], context={"result": []})
    assert with_context == ner.predict([task(TEXT)])


def test_regions_are_whole_tokens(ner: NER) -> None:
    for given, prediction in zip(TASKS, ner.predict(TASKS), strict=True):
        starts, ends = zip(*tokenize(given["data"]["text"]), strict=True)
        for region in prediction["result"]:
            assert region["value"]["start"] in starts
            assert region["value"]["end"] in ends
