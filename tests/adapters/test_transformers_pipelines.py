"""Pipelines of transformers as backends: text into labels, choices and text."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from lsml_bento.adapters.transformers_pipelines import FILLINGS, PipelineModel
from lsml_bento.adapters.transformers_pipelines.filling import written as written_texts
from lsml_bento.adapters.transformers_pipelines.pretrained import fingerprint
from lsml_bento.adapters.transformers_pipelines.target import Target
from lsml_bento.errors import ModelSetupError, PredictionError
from lsml_bento.pipelines import PIPELINES
from tests.adapters import tiny_models
from tests.adapters.pipelines import Make, maker, predicted, problems

NAMES = {"ana": "B-PER", "lima": "I-PER", "par": "B-LOC", "##is": "I-LOC"}
LABELS = """\
<View>
  <Labels name="label" toName="text">
    <Label value="Person" predicted_values="PER"/><Label value="loc"/>
  </Labels>
  <Text name="text" value="$words"/>
</View>
"""
CHOICES = """\
<View>
  <Text name="text" value="$words"/>
  <Choices name="mood" toName="text" choice="single">
    <Choice value="Glad" predicted_values="joy,love"/><Choice value="sad"/>
  </Choices>
</View>
"""
TEXT_AREA = """\
<View>
  <Text name="text" value="$words"/>
  <TextArea name="answer" toName="text"/>
</View>
"""
MOODS = {"yay": "joy", "dear": "love", "oh": "SAD", "odd": "other"}


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    return maker(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.keyword_tagger(tmp_path_factory.mktemp("m") / "tagger", NAMES)


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = [*MOODS.values()]
    place = tmp_path_factory.mktemp("m") / "moods"
    return tiny_models.keyword_classifier(place, labels, MOODS)


def tasks(*texts: Any) -> list[dict[str, Any]]:
    return [{"id": n, "data": {"words": text}} for n, text in enumerate(texts, 1)]


def spans(slot: Any) -> list[tuple[int, int, str, str]]:
    return [
        (v["start"], v["end"], v["text"], *v["labels"])
        for v in (region["value"] for region in slot["result"])
    ]


def chosen(slots: list[Any]) -> list[list[str]]:
    return [[c for r in s["result"] for c in r["value"]["choices"]] for s in slots]


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(ModelSetupError) as refused:
        make()
    return str(refused.value)


# token-classification


def test_entities_are_labels_at_their_places_in_code_points(
    make: Make, tagger: Path
) -> None:
    model = make("token-classification", tagger, LABELS)
    given = tasks("🐉 ana lima of paris.", "nobody", "")
    slots = predicted(model, given)
    assert spans(slots[0]) == [(2, 10, "ana lima", "Person"), (14, 19, "paris", "loc")]
    assert slots[1]["result"] == slots[2]["result"] == []
    assert 0.5 < slots[0]["score"] <= 1
    assert 0.5 < slots[0]["result"][0]["score"] <= 1
    assert problems(LABELS, slots, given) == []


def test_a_long_text_is_read_to_its_end_in_windows(make: Make, tagger: Path) -> None:
    model = make("token-classification", tagger, LABELS)
    long = "ana of " * 100 + "paris"
    [slot] = predicted(model, tasks(long))
    found = spans(slot)
    assert [start for start, *_ in found] == [7 * n for n in range(101)]
    assert found[-1] == (700, 705, "paris", "loc")


def test_a_task_gets_the_same_alone_and_in_a_batch(make: Make, tagger: Path) -> None:
    model = make("token-classification", tagger, LABELS)
    given = tasks("ana", "paris of ana lima " * 9, "lima " * 40)
    together = predicted(model, given)
    alone = [predicted(model, [task])[0] for task in given]
    assert [spans(slot) for slot in together] == [spans(slot) for slot in alone]


def test_labels_that_match_none_of_the_models_are_explained(
    make: Make, tagger: Path
) -> None:
    config = LABELS.replace(' predicted_values="PER"', "").replace("loc", "City")
    assert refusal(lambda: make("token-classification", tagger, config)) == (
        f'no label of <Labels name="label"> matches a label of the model {tagger}: '
        "the label config has Person, City, the model has PER, LOC; map them with "
        'predicted_values, for example <Label value="Person" predicted_values="PER"/>'
    )


def test_unused_labels_of_the_model_are_logged(
    make: Make, tagger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        model = make("token-classification", tagger, LABELS.replace("loc", "City"))
    assert "Unused labels of the model: " in caplog.text
    assert "control='label' labels: LOC" in caplog.text
    [slot] = predicted(model, tasks("ana of paris"))
    assert spans(slot) == [(0, 3, "ana", "Person")]


def test_a_label_config_without_the_control_is_explained(
    make: Make, tagger: Path
) -> None:
    assert refusal(lambda: make("token-classification", tagger, CHOICES)) == (
        "the pipeline token-classification needs <Labels> on <Text>, and the label "
        "config has <Choices> on <Text>: add one under Settings > Labeling Interface, "
        "or use another pipeline"
    )


def test_a_threshold_among_the_extra_params_drops_what_is_less_sure(
    make: Make, tagger: Path
) -> None:
    model = make("token-classification", tagger, LABELS, threshold=1.0)
    assert predicted(model, tasks("ana"))[0]["result"] == []


def test_an_unknown_extra_param_is_named(make: Make, tagger: Path) -> None:
    said = refusal(lambda: make("token-classification", tagger, LABELS, top_k=3))
    assert said == (
        "the extra params of the model are invalid: top_k: Extra inputs are not "
        "permitted; this pipeline accepts threshold, aggregation_strategy"
    )


def test_a_task_without_the_text_fails_alone(make: Make, tagger: Path) -> None:
    model = make("token-classification", tagger, LABELS)
    bad = {"id": 2, "data": {"title": "ana"}}
    first, second, third = predicted(model, [*tasks("ana"), bad, *tasks("paris")])
    assert spans(first) == [(0, 3, "ana", "Person")]
    assert spans(third) == [(0, 5, "paris", "loc")]
    assert isinstance(second, PredictionError)
    assert str(second) == (
        "task 2 has no text in data['words'], which <Text name=\"text\"> shows: it has "
        "'title'"
    )


def test_a_text_in_a_file_is_read_from_there(
    make: Make, tagger: Path, tmp_path: Path
) -> None:
    config = LABELS.replace("<Text ", '<Text valueType="url" ')
    model = make("token-classification", tagger, config)
    (tmp_path / "a.txt").write_text("of ana")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    good, bad = predicted(model, tasks("/data/a.txt", "/data/b.txt"))
    assert spans(good) == [(3, 6, "ana", "Person")]
    assert str(bad).startswith("'/data/b.txt' is not a UTF-8 text: ")


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
def test_a_file_is_counted_without_its_bom_and_with_both_of_crlf(
    make: Make, tagger: Path, tmp_path: Path, before: bytes
) -> None:
    config = LABELS.replace("<Text ", '<Text valueType="url" ')
    (tmp_path / "a.txt").write_bytes(before + b"of\r\nof\r\nana")
    model = make("token-classification", tagger, config)
    [slot] = predicted(model, tasks("/data/a.txt"))
    assert spans(slot) == [(8, 11, "ana", "Person")]


def test_a_nested_text_is_read(make: Make, tagger: Path) -> None:
    config = LABELS.replace("$words", "$docs[0].body")
    model = make("token-classification", tagger, config)
    task = {"id": 1, "data": {"docs": [{"body": "of\r\nof\r\nana"}]}}
    [slot] = predicted(model, [task])
    assert spans(slot) == [(8, 11, "ana", "Person")]


@pytest.mark.parametrize("value", ["$a.words[{{idx}}]", "Say: $words", "$words $words"])
def test_a_text_that_is_not_one_key_is_named(
    make: Make, tagger: Path, value: str
) -> None:
    config = LABELS.replace("$words", value)
    assert refusal(lambda: make("token-classification", tagger, config)) == (
        "the pipeline token-classification needs <Labels> on <Text>, and the label "
        f'config has <Labels> on <Text> whose value="{value}" is more than a key of '
        "the data: add one under Settings > Labeling Interface, or use another "
        "pipeline"
    )


# text-classification


def test_a_texts_class_is_its_choice(make: Make, moods: Path) -> None:
    model = make("text-classification", moods, CHOICES)
    given = tasks("yay yay oh", "oh oh yay", "dear " * 60, " ")
    slots = predicted(model, given)
    assert chosen(slots) == [["Glad"], ["sad"], ["Glad"], []]
    assert 0 < slots[0]["score"] <= 1
    assert problems(CHOICES, slots, given) == []


def test_a_class_without_a_choice_makes_no_prediction(make: Make, moods: Path) -> None:
    model = make("text-classification", moods, CHOICES)
    assert chosen(predicted(model, tasks("odd odd yay"))) == [[]]


def test_classes_that_go_together_fill_multiple_choices(
    make: Make, tmp_path: Path
) -> None:
    labels = ["joy", "love", "SAD"]
    words = {word: label for word, label in MOODS.items() if label in labels}
    kind = {"problem_type": "multi_label_classification"}
    place = tiny_models.keyword_classifier(tmp_path / "multi", labels, words, **kind)
    config = CHOICES.replace("single", "multiple").replace("joy,love", "joy")
    config = config.replace("</Choices>", '<Choice value="love"/></Choices>')
    model = make("text-classification", place, config)
    found = chosen(predicted(model, tasks("yay dear", "oh", "yay yay")))
    assert [set(choices) for choices in found] == [{"Glad", "love"}, {"sad"}, {"Glad"}]


def test_a_model_trained_for_something_else_is_refused(
    make: Make, tagger: Path
) -> None:
    assert refusal(lambda: make("text-classification", tagger, CHOICES)) == (
        f"the model {tagger} is a BertForTokenClassification, and "
        "text-classification needs a model trained for it, a "
        "...ForSequenceClassification: use another model, or another pipeline"
    )


def test_a_model_of_numbers_fills_no_choices(make: Make, tmp_path: Path) -> None:
    kind = {"problem_type": "regression"}
    place = tiny_models.keyword_classifier(
        tmp_path / "m", ["SAD"], {"a": "SAD"}, **kind
    )
    said = refusal(lambda: make("text-classification", place, CHOICES))
    assert "returns numbers (problem_type is regression), which cannot fill" in said


def test_a_model_whose_positions_have_no_end_reads_a_long_text(
    make: Make, tmp_path: Path
) -> None:
    place = tiny_models.endless_classifier(tmp_path / "xlnet", ["joy", "SAD"])
    model = make("text-classification", place, CHOICES)
    assert chosen(predicted(model, tasks("a " * 2000))) in ([["Glad"]], [["sad"]])


# zero-shot-classification


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = {"yes": "entailment", "sure": "entailment", "no": "contradiction"}
    place = tmp_path_factory.mktemp("m") / "judge"
    return tiny_models.keyword_classifier(place, ["contradiction", "entailment"], words)


def test_the_choices_of_the_label_config_are_what_a_judge_is_asked(
    make: Make, judge: Path
) -> None:
    config = CHOICES.replace("joy,love", "a yes").replace("sad", "no")
    model = make("zero-shot-classification", judge, config)
    given = tasks("some text", "other text " * 30)
    slots = predicted(model, given)
    assert chosen(slots) == [["Glad"], ["Glad"]]
    assert slots[0]["score"] > 0.5
    assert problems(config, slots, given) == []


def test_several_choices_may_hold(make: Make, judge: Path) -> None:
    config = CHOICES.replace("joy,love", "yes").replace("sad", "no")
    config = config.replace("single", "multiple")
    config = config.replace("</Choices>", '<Choice value="sure"/></Choices>')
    model = make("zero-shot-classification", judge, config)
    [found] = chosen(predicted(model, tasks("a text")))
    assert set(found) == {"Glad", "sure"}


def test_a_choice_with_an_alias_is_asked_by_its_value(make: Make, judge: Path) -> None:
    config = CHOICES.replace('"Glad" predicted_values="joy,love"', '"yes" alias="A1"')
    config = config.replace('"sad"', '"no" alias="yes sure"')
    model = make("zero-shot-classification", judge, config)
    assert chosen(predicted(model, tasks("a text"))) == [["A1"]]


def test_a_judge_needs_a_label_for_what_holds(make: Make, moods: Path) -> None:
    assert refusal(lambda: make("zero-shot-classification", moods, CHOICES)) == (
        f"the model {moods} has joy, love, SAD, other, and zero-shot-classification "
        "needs a model trained on natural language inference, with a label named "
        "entailment: use such a model"
    )


@pytest.mark.parametrize(
    "words", ["It holds", "{}: {}", "{} {", "{label}", "{{}}", "{:d}", "{.x}"]
)
def test_a_template_needs_exactly_one_placeholder(
    make: Make, judge: Path, words: str
) -> None:
    template = {"hypothesis_template": words}
    said = refusal(lambda: make("zero-shot-classification", judge, CHOICES, **template))
    assert "write one {} in the place of the choice, and no other braces" in said


def test_a_template_may_number_its_place(make: Make, judge: Path) -> None:
    config = CHOICES.replace("joy,love", "a yes").replace("sad", "no")
    template = {"hypothesis_template": "This is {0}."}
    model = make("zero-shot-classification", judge, config, **template)
    assert chosen(predicted(model, tasks("a text"))) == [["Glad"]]


# text-generation and summarization

WORDS = ["once", "upon", "a", "time", "there", "was", "one", "who", "went", "far"]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.writer(tmp_path_factory.mktemp("m") / "writer", WORDS)


def written(slots: list[Any]) -> list[str]:
    return ["|".join(r["value"]["text"][0] for r in slot["result"]) for slot in slots]


def test_a_text_area_gets_what_follows_the_text(make: Make, writer: Path) -> None:
    model = make("text-generation", writer, TEXT_AREA, max_new_tokens=5)
    given = tasks("once upon", "there was one who", "")
    slots = predicted(model, given)
    pipe: Any = transformers.pipeline
    plain = pipe("text-generation", model=str(writer))
    alone = [
        plain(task["data"]["words"], do_sample=False, max_new_tokens=5)
        for task in given[:2]
    ]
    assert written(slots) == [
        one[0]["generated_text"].removeprefix(task["data"]["words"]).strip()
        for one, task in zip(alone, given, strict=False)
    ] + [""]
    assert written(slots)[0]
    assert problems(TEXT_AREA, slots, given) == []


def test_a_prompt_that_is_too_long_loses_its_begin(make: Make, writer: Path) -> None:
    model = make("text-generation", writer, TEXT_AREA, max_new_tokens=4)
    tail = (WORDS * 2)[: tiny_models.MOST_TOKENS - 2 - 4]
    given = tasks(" ".join(WORDS * 9 + tail), " ".join(tail))
    long, short = written(predicted(model, given))
    assert long == short
    assert long


def test_a_model_with_a_chat_template_is_asked_as_by_a_user(
    make: Make, writer: Path, tmp_path: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(writer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'once upon a ' + m['content'] }}{% endfor %}"
    )
    chat = tmp_path / "chat"
    transformers.AutoModelForCausalLM.from_pretrained(writer).save_pretrained(chat)
    tokenizer.save_pretrained(chat)
    options = {"max_new_tokens": 4}
    asked = make("text-generation", chat, TEXT_AREA, **options)
    plain = make("text-generation", writer, TEXT_AREA, **options)
    assert written(predicted(asked, tasks("time"))) == written(
        predicted(plain, tasks("once upon a time"))
    )


def test_a_model_with_its_text_in_a_config_of_its_own_writes_too(
    make: Make, tmp_path: Path
) -> None:
    place = tiny_models.composite_writer(tmp_path / "gemma", WORDS)
    model = make("text-generation", place, TEXT_AREA, max_new_tokens=5)
    given = tasks("once upon", " ".join(WORDS * 9))
    slots = predicted(model, given)
    alone = [written(predicted(model, [task]))[0] for task in given]
    assert written(slots) == alone
    assert all(alone)


def test_a_summary_has_no_more_tokens_than_the_decoder_has_positions(
    make: Make, tmp_path: Path
) -> None:
    place = tiny_models.bart(tmp_path / "bart", WORDS)
    model = make("summarization", place, TEXT_AREA, max_new_tokens=2000)
    [found] = written(predicted(model, tasks("one went far")))
    assert len(found.split()) > tiny_models.MOST_TOKENS / 2


def test_a_truncated_character_is_removed_from_the_text() -> None:
    target = Target("TextArea", "Text", "answer", "text", "words")
    found = written_texts(target, ["so \u20ac\ufffd", "\ufffd\ufffd", "a\ufffdb "])
    assert written(found) == ["so \u20ac", "", "a\ufffdb"]


def test_a_summary_is_generated_without_a_pipeline_of_transformers(
    make: Make, tmp_path: Path
) -> None:
    place = tiny_models.summarizer(tmp_path / "t5", WORDS)
    model = make("summarization", place, TEXT_AREA, max_new_tokens=6)
    given = tasks("one went far away", " ".join(WORDS * 100), " ")
    slots = predicted(model, given)
    assert 1 <= len(written(slots)[0].split()) <= 6
    assert written(slots)[2] == ""
    assert written(slots)[:2] == [
        written(predicted(model, [task]))[0] for task in given[:2]
    ]
    assert problems(TEXT_AREA, slots, given) == []


# The model


def test_every_pipeline_has_outputs_that_are_filled() -> None:
    assert set(FILLINGS) == set(PIPELINES)


def test_the_version_is_the_models_name_with_a_hash_of_its_files(
    make: Make, tagger: Path, tmp_path: Path
) -> None:
    version = make("token-classification", tagger, LABELS).get("model_version")
    assert version == f"tagger-{fingerprint(tagger)[:8]}"
    copy = tmp_path / "tagger"
    words = dict(NAMES, lima="B-PER")
    tiny_models.keyword_tagger(copy, words)
    assert fingerprint(copy) != fingerprint(tagger)


def test_a_large_files_parts_are_in_the_hash(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    content = bytearray(9 * 1024 * 1024)
    seen = set()
    for place in (0, len(content) - 1):
        content[place] = 1
        file.write_bytes(content)
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 2


def test_a_missing_model_is_reported(make: Make, tmp_path: Path) -> None:
    said = refusal(lambda: make("text-classification", tmp_path / "gone", CHOICES))
    assert said.startswith(f"the model {tmp_path / 'gone'} cannot be loaded: ")
    assert said.endswith(
        "use a directory that save_pretrained() wrote, or a model on a hub that this "
        "machine can reach"
    )


def test_an_invalid_device_is_reported(
    make: Make, tagger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSML_PIPELINE_DEVICE", "gpu1")
    assert refusal(lambda: make("token-classification", tagger, LABELS)) == (
        "LSML_PIPELINE_DEVICE is 'gpu1', which is not a device: use cpu, cuda, cuda:1, "
        "or mps"
    )


def test_a_missing_library_is_reported_with_the_command_that_installs_it(
    make: Make, tagger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = "lsml_bento.adapters.transformers_pipelines"
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in [n for n in sys.modules if n.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    assert refusal(lambda: make("token-classification", tagger, LABELS)) == (
        "the pipeline needs transformers, which is not installed: run pip install "
        "'lsml-bento[transformers]'"
    )


def test_without_a_pipeline_it_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LSML_PIPELINE", raising=False)
    said = refusal(lambda: PipelineModel("1", LABELS))
    assert "lsml-bento start --pipeline PIPELINE --model MODEL" in said
