# ruff: noqa: S101

from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk.label_interface import LabelInterface

from text_generation.data import read_pairs, region
from text_generation.grammar import HELD_OUT, plain_pairs
from text_generation.language_model import CausalLM
from text_generation.model import BASE, Decoding, GPT2TextGeneration, base_model, joined

EXAMPLE = Path(__file__).parents[2]
LABEL_CONFIG = (EXAMPLE / "label_config.xml").read_text()
OTHER_CONFIG = (
    '<View><Text name="letter" value="$body"/>'
    '<TextArea name="reply" toName="letter"/></View>'
)
PROMPT = "How is the Otter pack cleaned?"
TASKS = [
    {"id": n, "data": {"prompt": pair.prompt}}
    for n, pair in enumerate(read_pairs(HELD_OUT))
]


@pytest.fixture(scope="module")
def backend(base: CausalLM) -> GPT2TextGeneration:
    return serving(base)


def serving(base: CausalLM, label_config: str = LABEL_CONFIG) -> GPT2TextGeneration:
    made = GPT2TextGeneration(project_id="1", label_config=label_config)
    made.model = base
    return made


def task(prompt: object, key: str = "prompt") -> dict[str, Any]:
    return {"id": 1, "data": {key: prompt}}


def text_of(prediction: dict[str, Any]) -> str:
    ((text,),) = [found["value"]["text"] for found in prediction["result"]]
    return str(text)


def typed(*texts: str) -> dict[str, Any]:
    return {"result": [region(list(texts), "answer", "question")]}


# Answers


def test_an_answer_fills_the_text_area_of_the_label_config(base: CausalLM) -> None:
    (prediction,) = serving(base, OTHER_CONFIG).predict([task(PROMPT, "body")])
    (found,) = prediction["result"]
    assert (found["from_name"], found["to_name"]) == ("reply", "letter")
    assert (found["type"], len(found["value"]["text"])) == ("textarea", 1)


def test_the_base_knows_the_catalogue(backend: GPT2TextGeneration) -> None:
    known = plain_pairs()
    found = backend.predict([task(pair.prompt) for pair in known])
    right = [text_of(p).endswith(k.answer) for k, p in zip(known, found, strict=True)]
    assert sum(right) >= 0.85 * len(known)


def test_predictions_are_valid_for_their_label_config(
    backend: GPT2TextGeneration,
) -> None:
    interface = LabelInterface(LABEL_CONFIG)
    for prediction in backend.predict(TASKS):
        assert interface.validate_prediction(prediction)
        assert 0 < prediction["score"] <= 1


def test_scores_are_lower_where_the_model_is_less_sure(
    backend: GPT2TextGeneration,
) -> None:
    known, unknown = backend.predict([task(PROMPT), task("Zxq vrr 88 ##?")])
    assert known["score"] > unknown["score"]


@pytest.mark.parametrize("prompt", ["", "  ", None])
def test_a_task_without_a_prompt_gets_no_answer(
    backend: GPT2TextGeneration, prompt: object
) -> None:
    nothing, answered = backend.predict([task(prompt), task(PROMPT)])
    assert nothing == {"result": [], "score": 0.0}
    assert text_of(answered)
    assert backend.predict([task("x", "elsewhere"), {"id": 2}])[1]["result"] == []
    assert backend.predict([]) == []


def test_an_emoji_and_a_number_are_prompts(backend: GPT2TextGeneration) -> None:
    found = backend.predict([task("\U0001f600 Zoe\u0308?"), task(2026)])
    assert [len(prediction["result"]) for prediction in found] == [1, 1]


def test_a_label_config_without_a_text_area_is_an_error() -> None:
    with pytest.raises(ValueError, match="TextArea"):
        GPT2TextGeneration(
            label_config='<View><Text name="t" value="$t"/>'
            '<Choices name="c" toName="t"><Choice value="a"/></Choices></View>'
        )


# Continuing what an annotator typed


@pytest.mark.parametrize("start", ["To clean", "To clean the Otter pack, shake out "])
def test_typed_text_is_kept_and_continued(
    backend: GPT2TextGeneration, start: str
) -> None:
    (prediction,) = backend.predict([task(PROMPT)], context=typed(start))
    text = text_of(prediction)
    assert text.startswith(start)
    assert (
        text
        == "To clean the Otter pack, shake out the sand and rinse it in cold water."
    )


def test_a_context_without_text_gets_a_whole_answer(
    backend: GPT2TextGeneration,
) -> None:
    plain = backend.predict([task(PROMPT)])
    unknown: dict[str, Any] = {"from_name": "answer"}
    for result in ([], typed("  ")["result"], [unknown]):
        assert backend.predict([task(PROMPT)], context={"result": result}) == plain


def test_the_last_text_is_continued_and_the_others_are_kept(
    backend: GPT2TextGeneration,
) -> None:
    (prediction,) = backend.predict([task(PROMPT)], context=typed("Hello!", "To clean"))
    ((first, last),) = [found["value"]["text"] for found in prediction["result"]]
    assert first == "Hello!"
    assert last.startswith("To clean the Otter pack, ")


def test_typed_text_is_kept_without_a_prompt(
    backend: GPT2TextGeneration,
) -> None:
    (prediction,) = backend.predict([task("")], context=typed("Thank you"))
    assert text_of(prediction) == "Thank you"


@pytest.mark.parametrize(
    ("before", "after", "whole"),
    [
        ("", " Yes.", "Yes."),
        ("Yes", ", it is.", "Yes, it is."),
        ("Yes,", " it is.", "Yes, it is."),
        ("Yes, ", " it is.", "Yes, it is."),
        ("Yes.\n", "", "Yes.\n"),
    ],
)
def test_texts_are_joined_with_one_space(before: str, after: str, whole: str) -> None:
    assert joined(before, after) == whole


# Settings


def test_extra_params_override_the_environment() -> None:
    environ = {"GPT2_MAX_NEW_TOKENS": "16"}
    assert Decoding.of({}, {}) == (64, 0.0)
    assert Decoding.of({}, environ) == (16, 0.0)
    given = {"max_new_tokens": "8", "temperature": 0.7, "other": 1}
    assert Decoding.of(given, environ) == (8, 0.7)
    assert Decoding.of("not an object", environ) == (16, 0.0)


@pytest.mark.parametrize(
    "given",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": "many"},
        {"max_new_tokens": None},
        {"temperature": -1},
        {"temperature": "nan"},
        {"temperature": float("inf")},
    ],
)
def test_an_invalid_number_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))} is .*extra params"):
        Decoding.of(given, {})


def test_extra_params_of_a_project_change_its_answers(base: CausalLM) -> None:
    made = serving(base)
    made.set_extra_params('{"max_new_tokens": 3}')
    (prediction,) = made.predict([task(PROMPT)])
    assert len(base.tokenizer(f" {text_of(prediction)}").input_ids) == 3


def test_the_environment_chooses_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: CausalLM
) -> None:
    assert base_model() == str(BASE)
    base.save(tmp_path / "mine")
    monkeypatch.setenv("GPT2_MODEL", str(tmp_path / "mine"))
    made = GPT2TextGeneration(label_config=LABEL_CONFIG)
    made.load(None)
    assert made.model.network.config.name_or_path == str(tmp_path / "mine")
    assert str(made.model_version) == "gpt2-mine"
