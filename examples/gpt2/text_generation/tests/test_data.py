# ruff: noqa: S101

from typing import Any

import pytest

from text_generation.data import (
    Pair,
    pair_to_annotated_task,
    prompt_of,
    read_pairs,
    region,
    split,
    task_to_pairs,
    texts_of,
    typed_texts,
)
from text_generation.grammar import CATALOGUE, COUNTS, HELD_OUT, KINDS, PAIRS, files

PAIR = Pair("7", "How heavy is it?", "It is light.")


def task(*texts: Any, **others: Any) -> dict[str, Any]:
    result = [region([text], "answer", "question") for text in texts]
    return {
        "id": 7,
        "data": {"prompt": "How heavy is it?"},
        "annotations": [{"result": result, **others}],
    }


# The shipped text


def test_the_grammar_writes_the_files_of_the_example() -> None:
    for path, text in files().items():
        assert path.read_text(encoding="utf-8") == text


def test_the_files_have_the_documented_number_of_pairs() -> None:
    found = tuple(len(read_pairs(path)) for path in (CATALOGUE, PAIRS, HELD_OUT))
    assert found == COUNTS


def test_no_held_out_question_is_learned_in_other_words() -> None:
    # The help desk's sentence names the topic, the greeting names the product.
    answers = {pair.answer for pair in read_pairs(PAIRS)}
    held_out = read_pairs(HELD_OUT)
    assert not answers & {pair.answer for pair in held_out}
    assert not answers & {pair.answer for pair in read_pairs(CATALOGUE)}
    names = [name for known in KINDS.values() for name in known["names"]]
    assert all(any(name in pair.answer for name in names) for pair in held_out)


# Tasks to pairs and back


def test_a_pair_survives_the_way_through_a_task() -> None:
    made = pair_to_annotated_task(PAIR, "answer", "question")
    assert task_to_pairs(made, "answer", "prompt") == [PAIR]


def test_the_newest_annotation_counts_and_a_skipped_one_does_not() -> None:
    made = task("old", updated_at="2026-01-01T00:00:00Z")
    made["annotations"] += task("new", updated_at="2026-02-01T00:00:00Z")["annotations"]
    made["annotations"] += task(
        "skipped", updated_at="2026-03-01T00:00:00Z", was_cancelled=True
    )["annotations"]
    assert [pair.answer for pair in task_to_pairs(made, "answer", "prompt")] == ["new"]


def test_each_text_of_an_answer_is_a_pair() -> None:
    made = task()
    made["annotations"][0]["result"] = [
        {"from_name": "answer", "value": {"text": ["one", " two\n", "  "]}},
        {"from_name": "answer", "value": {"text": "three"}},
        {"from_name": "other", "value": {"text": ["four"]}},
    ]
    answers = [pair.answer for pair in task_to_pairs(made, "answer", "prompt")]
    assert answers == ["one", "two", "three"]


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"data": None, "annotations": None},
        {"data": {"prompt": "  "}, "annotations": task("x")["annotations"]},
        {"data": {"prompt": "x"}, "annotations": []},
        {"data": {"prompt": "x"}, "annotations": [{"result": None}]},
        {"data": {"prompt": "x"}, "annotations": [{"result": ["x", None, {}]}]},
    ],
)
def test_a_task_without_prompt_or_answer_has_no_pairs(found: dict[str, Any]) -> None:
    assert task_to_pairs(found, "answer", "prompt") == []


@pytest.mark.parametrize("value", [None, 0, [], {}, {"text": 5}, {"text": [None, 5]}])
def test_odd_regions_have_no_text(value: object) -> None:
    assert texts_of([{"from_name": "answer", "value": value}], "answer") == []


def test_a_prompt_may_be_a_number_or_missing() -> None:
    assert prompt_of({"data": {"prompt": 2026}}, "prompt") == "2026"
    assert prompt_of({"data": {"prompt": None}}, "prompt") == ""
    assert prompt_of({"data": {}}, "prompt") == ""


# What an annotator typed


def test_typed_texts_are_in_the_regions_of_the_text_area() -> None:
    context = {
        "result": [
            region(["first", ""], "answer", "question"),
            region(["second "], "answer", "question"),
            region(["elsewhere"], "notes", "question"),
        ]
    }
    assert typed_texts(context, "answer") == ["first", "second "]


@pytest.mark.parametrize("context", [None, "", "text", [], {}, {"result": None}])
def test_a_context_without_text_has_no_typed_texts(context: object) -> None:
    assert typed_texts(context, "answer") == []


# The split


def test_a_task_keeps_its_side_when_others_are_added() -> None:
    pairs = [Pair(str(n), f"prompt {n}", "answer") for n in range(200)]
    train, held_out = split(pairs)
    assert 20 <= len(held_out) <= 60
    few = split(pairs[:50])
    assert set(few[0]) <= set(train)
    assert set(few[1]) <= set(held_out)


def test_a_held_out_prompt_is_not_trained_on_in_another_task() -> None:
    pairs = [Pair(str(n), f"prompt {n}", "answer") for n in range(50)]
    train, held_out = split(pairs)
    twin = Pair(train[0].id, held_out[0].prompt, "another answer")
    assert twin not in split([*pairs, twin])[0]


def test_pairs_of_one_side_are_all_trained_on() -> None:
    held_out = split([Pair(str(n), f"prompt {n}", "answer") for n in range(50)])[1]
    assert split(held_out) == (held_out, [])
    assert split([]) == ([], [])
