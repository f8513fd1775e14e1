# ruff: noqa: S101

import time
import unicodedata
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner.data import (
    Example,
    Offsets,
    Span,
    example_to_annotated_task,
    example_to_task,
    labels_of,
    parse_markup,
    read_sentences,
    runs,
    snap,
    spans_to_tags,
    split,
    tags_to_spans,
    task_to_example,
    tokenize,
)
from ner.features import (
    FEATURES,
    collate,
    collate_tags,
    encode,
    shape,
)
from ner.scores import MICRO, Dictionary, entity_scores

LABELS = ("LOC", "ORG", "PER")
FAMILY = "\U0001f469\u200d\U0001f52c"  # a woman, a joiner, a microscope
THUMB = "\U0001f44d\U0001f3ff"  # a thumb and a skin tone
ZOE = "Zoe\u0308"  # three letters and a combining mark

pieces = st.sampled_from(
    [
        *("Ana", "Porto", "x", "42", ".", ",", "'", "-", "[", "\u0301", "\u200d"),
        *(ZOE, FAMILY, THUMB, "\U0001f600", "\u674e\u5a1c", "\u0928\u0940", "_"),
    ]
)
gaps = st.sampled_from(["", " ", "  ", "\n", "\u00a0", "\t"])
texts = st.one_of(
    st.text(),
    st.lists(st.tuples(pieces, gaps)).map(lambda parts: "".join(map("".join, parts))),
)


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in tokenize(text)]


@st.composite
def aligned_spans(draw: st.DrawFn) -> tuple[Offsets, list[Span]]:
    """Offsets, and spans of whole tokens that do not overlap."""
    offsets = tokenize(draw(texts))
    cuts = draw(st.lists(st.integers(0, len(offsets)), unique=True, max_size=8))
    cuts.sort()
    spans = [
        Span(offsets[first][0], offsets[last - 1][1], draw(st.sampled_from(LABELS)))
        for first, last in pairwise(cuts)
        if draw(st.booleans())
    ]
    return offsets, spans


wild_spans = st.lists(
    st.builds(
        Span, st.integers(-5, 60), st.integers(-5, 60), st.sampled_from([*LABELS, "?"])
    )
)


@given(texts)
def test_tokens_ascend_and_leave_out_nothing_but_white_space(text: str) -> None:
    offsets = tokenize(text)
    edges = [edge for pair in offsets for edge in pair]
    assert edges == sorted(edges)
    assert all(start < end for start, end in offsets)
    assert "".join(words(text)) == "".join(text.split())


@given(texts)
def test_no_token_has_white_space_in_it(text: str) -> None:
    assert all(len(word.split()) == 1 for word in words(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ana's 2nd trip.", ["Ana", "'", "s", "2nd", "trip", "."]),
        (f"{ZOE} left", [ZOE, "left"]),
        (f"Bru\u0302le\u0301 {FAMILY}!", ["Bru\u0302le\u0301", FAMILY, "!"]),
        (f"{THUMB}{THUMB} ok", [THUMB, THUMB, "ok"]),
        ("\u2708\ufe0f Faro", ["\u2708\ufe0f", "Faro"]),
        ("\u0928\u0940\u0932", ["\u0928\u0940\u0932"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_marks_stay_with_what_they_stand_on(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_offsets_count_code_points_behind_emoji_and_marks() -> None:
    example = parse_markup(
        f"{FAMILY} [PER {ZOE} Bru\u0302le\u0301] flew to [LOC Faro]."
    )
    person, place = example.spans
    assert person.start == 4  # three code points of the emoji and a space
    assert example.text[person.start : person.end] == f"{ZOE} Bru\u0302le\u0301"
    assert example.text[place.start : place.end] == "Faro"


@given(aligned_spans())
def test_spans_to_tags_to_spans_is_identity(case: tuple[Offsets, list[Span]]) -> None:
    offsets, spans = case
    tags = spans_to_tags(spans, offsets, LABELS)
    assert tags_to_spans(tags, offsets, LABELS) == spans


@given(texts, wild_spans)
def test_any_spans_become_whole_tokens_that_do_not_overlap(
    text: str, spans: list[Span]
) -> None:
    offsets = tokenize(text)
    snapped = snap(spans, offsets)
    starts, ends = {s for s, _ in offsets}, {e for _, e in offsets}
    assert all(span.start in starts and span.end in ends for span in snapped)
    edges = [edge for span in snapped for edge in span[:2]]
    assert edges == sorted(edges)
    assert snap(snapped, offsets) == snapped


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([Span(9, 4, "PER")], ["PER Keller"]),
        ([Span(-7, 3, "PER")], ["PER Ana"]),
        ([Span(15, 99, "LOC")], ["LOC Porto"]),
        ([Span(1, 2, "PER")], ["PER Ana"]),
        ([Span(3, 4, "PER")], []),
        ([Span(5, 5, "PER")], []),
        ([Span(50, 60, "PER")], []),
        ([Span(0, 3, "ORG"), Span(0, 10, "PER")], ["PER Ana Keller"]),
        ([Span(4, 14, "ORG"), Span(0, 10, "PER")], ["PER Ana Keller"]),
        ([Span(0, 3, "PER"), Span(4, 10, "PER")], ["PER Ana", "PER Keller"]),
    ],
)
def test_odd_spans_snap_to_tokens_or_go(spans: list[Span], expected: list[str]) -> None:
    text = "Ana Keller in Porto"
    snapped = snap(spans, tokenize(text))
    assert [f"{s.label} {text[s.start : s.end]}" for s in snapped] == expected


def test_a_long_text_with_many_spans_is_tagged_at_once() -> None:
    text = "Ana left. " * 20_000
    spans = [Span(10 * n, 10 * n + 3, "PER") for n in range(20_000)]
    offsets = tokenize(text)
    started = time.perf_counter()
    tags = spans_to_tags(spans, offsets, ["PER"])
    assert time.perf_counter() - started < 5  # each span with each token takes minutes
    assert tags == [1, 0, 0] * 20_000


def test_spans_of_unknown_labels_take_no_place() -> None:
    offsets = tokenize("Ana Keller")
    spans = [Span(0, 10, "?"), Span(4, 10, "PER")]
    assert spans_to_tags(spans, offsets, ["PER"]) == [0, 1]


@given(st.lists(st.integers(0, 2 * len(LABELS))))
def test_runs_cover_every_tag_but_outside(tags: list[int]) -> None:
    covered = [t for first, last, _ in runs(tags) for t in range(first, last)]
    assert covered == [t for t, tag in enumerate(tags) if tag]


def test_an_inside_tag_of_another_label_begins_an_entity() -> None:
    assert list(runs([2, 2, 4, 0, 3, 4, 3])) == [
        (0, 2, 0),
        (2, 3, 1),
        (4, 6, 1),
        (6, 7, 1),
    ]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *[
            ("Anna", "Xxx"),
            ("NATO", "XX"),
            ("1998", "dd"),
            ("X2", "Xd"),
            ("iOS", "xXX"),
        ],
        *[("-", "-"), ("...", ".."), (THUMB, "**"), ("\u674e", "x"), ("", "")],
        *[("\u2014", "\u2014"), ("Zoe\u0308", "Xxx*")],
    ],
)
def test_shapes_tell_names_from_acronyms_and_numbers(word: str, expected: str) -> None:
    assert shape(word) == expected


def test_composed_and_decomposed_letters_have_the_same_features() -> None:
    decomposed = unicodedata.normalize("NFD", "Br\u00fbl\u00e9")
    assert encode(decomposed, tokenize(decomposed), 64) == encode(
        "Br\u00fbl\u00e9", [(0, 5)], 64
    )


def test_collate_pads_with_zeros_to_the_longest() -> None:
    rows = [encode(text, tokenize(text), 64) for text in ("Ana left", "", "a b c")]
    tensor = collate(rows)  # (B, T, F)
    assert tensor.shape == (3, 3, FEATURES)
    assert (tensor[0, :2] > 0).all()
    assert not tensor[0, 2].any()
    assert not tensor[1].any()
    assert int(tensor.max()) < 64


def test_collated_tags_pad_with_what_the_loss_leaves_out() -> None:
    assert collate_tags([[1, 2], [0]]).tolist() == [[1, 2], [0, -100]]


def test_equal_texts_are_not_there_and_every_span_is_whole_tokens() -> None:
    examples = read_sentences()
    assert len({example.id for example in examples}) == len(examples) >= 450
    for example in examples:
        offsets = tokenize(example.text)
        assert tuple(snap(example.spans, offsets)) == example.spans
        assert "[" not in example.text
    assert labels_of(examples) == ["DATE", "LOC", "ORG", "PER", "PROD"]


def test_the_split_of_a_task_depends_on_its_id_only() -> None:
    examples = read_sentences()
    train, held_out = split(examples)
    assert 0.15 < len(held_out) / len(examples) < 0.25
    assert split(reversed(held_out)) == ([], held_out[::-1])
    assert split(train[:7]) == (train[:7], [])


def annotated(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": 7,
        "data": {"text": "Ana Keller in Porto"},
        "annotations": list(annotations),
    }


def region(start: object, end: object, *labels: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "labels": list(labels)}
    return {"from_name": "label", "to_name": "text", "type": "labels", "value": value}


def test_the_newest_annotation_that_was_not_skipped_counts() -> None:
    task = annotated(
        {"updated_at": "2024-05-02T08:00:00Z", "result": [region(0, 10, "PER")]},
        {"updated_at": "2024-05-01T08:00:00Z", "result": [region(14, 19, "LOC")]},
        {"updated_at": "2024-05-03T08:00:00Z", "was_cancelled": True, "result": []},
    )
    example = task_to_example(task, "label", "text")
    assert example == Example("7", "Ana Keller in Porto", (Span(0, 10, "PER"),))


def test_regions_that_are_not_text_labels_are_left_out() -> None:
    choice = {"from_name": "choice", "type": "choices", "value": {"choices": ["a"]}}
    relation = {"from_id": "a", "to_id": "b", "type": "relation"}
    task = annotated(
        {"result": [choice, relation, region("/p[1]", "/p[2]", "PER"), region(0, 3)]}
    )
    example = task_to_example(task, "label", "text")
    assert example is not None
    assert example.spans == ()


def test_a_task_without_an_annotation_or_a_text_is_no_example() -> None:
    assert task_to_example(annotated(), "label", "text") is None
    assert task_to_example(annotated({"result": []}), "label", "other") is None
    bare = example_to_task(parse_markup("[PER Ana] left."))
    assert bare["data"] == {"text": "Ana left."}
    assert task_to_example(bare, "label", "text") is None
    blank = {**annotated({"result": [region(0, 1, "PER")]}), "data": {"text": " \n"}}
    assert task_to_example(blank, "label", "text") is None
    assert task_to_example({"id": 1}, "label", "text") is None


def test_an_example_is_the_same_after_a_round_trip_as_a_task() -> None:
    for example in read_sentences():
        given = example_to_annotated_task(example, "label", "text", "body")
        assert task_to_example(given, "label", "body") == example
        for region in given["annotations"][0]["result"]:
            value = region["value"]
            assert example.text[value["start"] : value["end"]] == value["text"]


def test_regions_take_the_names_asked_for_before_they_overlap() -> None:
    task = annotated({"result": [region(0, 10, "OLD"), region(4, 10, "x", "Who")]})
    example = task_to_example(task, "label", "text", {"Who": "PER"})
    assert example is not None
    assert example.spans == (Span(4, 10, "PER"),)


def test_scores_count_exact_spans_with_their_label() -> None:
    gold = [[Span(0, 3, "PER"), Span(7, 12, "LOC")], [Span(0, 4, "PER")]]
    found = [[Span(0, 3, "PER"), Span(7, 11, "LOC")], [Span(0, 4, "ORG")]]
    scores = entity_scores(gold, found)
    assert scores["PER"] == (1.0, 0.5, 2 / 3, 2)
    assert scores["LOC"].f1 == 0.0
    assert scores["ORG"] == (0.0, 0.0, 0.0, 0)
    assert scores[MICRO] == (1 / 3, 1 / 3, 1 / 3, 3)


def test_perfect_answers_score_one() -> None:
    gold = [example.spans for example in read_sentences()]
    assert all(score.f1 == 1.0 for score in entity_scores(gold, gold).values())


def test_the_dictionary_takes_the_longest_entity_it_knows() -> None:
    known = ["[LOC New York] and [LOC York]", "[ORG New York Post]"]
    dictionary = Dictionary(map(parse_markup, known))
    text = "York, New York, New York Post"
    found = [(s.label, text[s.start : s.end]) for s in dictionary.find(text)]
    assert found == [("LOC", "York"), ("LOC", "New York"), ("ORG", "New York Post")]
    assert Dictionary([]).find(text) == []
