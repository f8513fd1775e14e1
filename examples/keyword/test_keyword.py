"""The example's own tests: no server, no Label Studio."""

# ruff: noqa: S101

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.label_interface import LabelInterface

from examples.keyword.model import (
    KeywordMatcher,
    find_words,
    keywords_by_label,
    repeated,
)

CONFIG = Path(__file__).with_name("label_config.xml").read_text()


def finished(start: int, end: int, *labels: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "labels": list(labels)}
    return {"from_name": "label", "to_name": "text", "type": "labels", "value": value}


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("A Dragon met a dragon.", ["dragon"], ["Dragon", "dragon"]),
        ("dragons and dragonfly", ["dragon"], []),
        ("New York, New Yorkshire", ["New York"], ["New York"]),
        ("in New York", ["York", "New York"], ["New York"]),
        ("🐉🐉 sleeps", ["🐉"], ["🐉", "🐉"]),
        ("C++ (C)", ["c++", "c"], ["C++", "C"]),
        ("nothing", [], []),
        ("", ["dragon"], []),
    ],
)
def test_whole_words_are_found_in_any_case(
    text: str, words: list[str], found: list[str]
) -> None:
    assert [text[start:end] for start, end in find_words(text, words)] == found


@given(st.text(max_size=20), st.sampled_from(["dragon", "🐉", "New York"]))
def test_offsets_count_code_points(before: str, word: str) -> None:
    text = f"{before} {word}"
    assert (len(before) + 1, len(text)) in find_words(text, [word])


def test_a_label_without_keywords_is_found_by_its_own_name() -> None:
    labels = {"Place": {"value": "Place"}, "Who": {"predicted_values": "elf, the orc"}}
    assert keywords_by_label(labels) == {"Place": ["Place"], "Who": ["elf", "the orc"]}


def test_a_finished_region_is_suggested_at_all_other_occurrences() -> None:
    text = "🐉 a cat, the Cat, concat, cat"
    [start, end] = [text.index("cat"), text.index("cat") + 3]
    suggested = list(repeated(text, finished(start, end, "Pet")))
    assert [text[a:b] for _, (a, b) in suggested] == ["Cat", "cat"]
    assert [label for label, _ in suggested] == ["Pet", "Pet"]
    assert all(a > start for _, (a, _) in suggested)


@pytest.mark.parametrize("value", [{}, {"start": None, "end": 3}, {"labels": ["Pet"]}])
def test_a_region_without_offsets_suggests_nothing(value: dict[str, Any]) -> None:
    assert list(repeated("a cat", {"value": value})) == []


@pytest.fixture
def matcher() -> KeywordMatcher:
    return KeywordMatcher(project_id="1", label_config=CONFIG)


def test_the_label_configs_keywords_become_valid_regions(
    matcher: KeywordMatcher,
) -> None:
    text = "🐉 New York has no Dragon"
    [found, nothing] = matcher.predict(
        [{"id": 1, "data": {"text": text}}, {"id": 2, "data": {}}]
    )

    values = [region["value"] for region in found["result"]]
    assert [(v["start"], v["end"], v["text"], v["labels"]) for v in values] == [
        (0, 1, "🐉", ["Creature"]),
        (2, 10, "New York", ["Place"]),
        (18, 24, "Dragon", ["Creature"]),
    ]
    assert found["score"] == 1.0
    assert nothing == {"result": [], "score": 0.0}
    interface = LabelInterface(CONFIG)
    assert interface.validate_prediction(found) is True


def test_with_a_context_only_other_occurrences_are_suggested(
    matcher: KeywordMatcher,
) -> None:
    task = {"id": 1, "data": {"text": "a dragon, an elf, an Elf"}}
    context = {"result": [finished(13, 16, "Creature")]}
    [suggested] = matcher.predict([task], context=context)
    assert [region["value"] for region in suggested["result"]] == [
        {"start": 21, "end": 24, "text": "Elf", "labels": ["Creature"]}
    ]


def test_a_duplicate_region_is_suggested_once(matcher: KeywordMatcher) -> None:
    task = {"id": 1, "data": {"text": "elf elf"}}
    context = {"result": [finished(0, 3, "Creature"), finished(0, 3, "Creature")]}
    [suggested] = matcher.predict([task], context=context)
    assert len(suggested["result"]) == 1
