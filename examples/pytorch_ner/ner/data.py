"""From annotations to examples and back: tokens, spans, BIO tags, splits.

All functions are pure. Offsets count code points and the end is exclusive, as in Label
Studio, so that ``text[start:end]`` is the entity.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

SENTENCES = Path(__file__).with_name("sentences.txt")
LISTS = Path(__file__).with_name("lists.txt")

NEW_LABEL = "PROD"
"""The base is trained without sentences of this label, which is learned later."""

Offsets = list[tuple[int, int]]
"""The (start, end) of each token of a text, ascending, without overlap."""


class Span(NamedTuple):
    """An entity: ``text[start:end]`` is a ``label``."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Example:
    """A text and its entities, sorted by start, without overlap.

    Attributes:
        id: of the Label Studio task, or derived from the text; decides the split.
    """

    id: str
    text: str
    spans: tuple[Span, ...]


# Tokens

_TOKEN = re.compile(r"\w+|[^\w\s]")
_JOINER = "\u200d"  # joins the parts of an emoji


def tokenize(text: str) -> Offsets:
    """Split into words and single other characters, without spaces.

    A combining mark belongs to the word or emoji before it.
    """
    offsets = [match.span() for match in _TOKEN.finditer(text)]
    return offsets if text.isascii() else _join_marks(text, offsets)


def _join_marks(text: str, offsets: Offsets) -> Offsets:
    joined: Offsets = []
    for start, end in offsets:
        touching = joined and joined[-1][1] == start
        if touching and (
            _is_mark(text[start]) or _continues(text[start - 1], text[start])
        ):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _continues(before: str, character: str) -> bool:
    """Whether a word continues after a mark, or an emoji after a joiner."""
    if before == _JOINER:
        return True
    return _is_mark(before) and (character == "_" or character.isalnum())


@lru_cache(maxsize=4096)
def _is_mark(character: str) -> bool:
    is_skin_tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    is_mark = unicodedata.category(character).startswith("M")
    return is_mark or is_skin_tone or character == _JOINER


# Spans and tags: tag 0 is outside, 1 + 2k begins label k, 2 + 2k is inside label k


def snap(spans: Iterable[Span], offsets: Offsets) -> list[Span]:
    """The spans as whole tokens, sorted, without overlap.

    Reversed spans are swapped, those out of range are cut, those inside a word extended
    to the word, and those without a token dropped. Of two that share a token, the one
    that starts first is kept, then the longer one.
    """
    ordered = sorted(
        (Span(min(s.start, s.end), max(s.start, s.end), s.label) for s in spans),
        key=lambda span: (span.start, -span.end),
    )
    snapped: list[Span] = []
    taken = 0
    for span in ordered:
        inside = _tokens(span, offsets)
        if span.start < span.end and inside and offsets[inside[0]][0] >= taken:
            taken = offsets[inside[-1]][1]
            snapped.append(Span(offsets[inside[0]][0], taken, span.label))
    return snapped


def _tokens(span: Span, offsets: Offsets) -> range:
    """The tokens that overlap the span."""
    first = bisect_right(offsets, span.start, key=itemgetter(1))
    return range(first, bisect_left(offsets, span.end, key=itemgetter(0)))


def spans_to_tags(
    spans: Iterable[Span], offsets: Offsets, labels: Sequence[str]
) -> list[int]:
    """The T tags of a text. Spans of other labels are ignored."""
    first_tag = {label: 1 + 2 * k for k, label in enumerate(labels)}
    tags = [0] * len(offsets)
    for span in snap((s for s in spans if s.label in first_tag), offsets):
        first, *inside = _tokens(span, offsets)
        tags[first] = first_tag[span.label]
        for t in inside:
            tags[t] = tags[first] + 1
    return tags


def runs(tags: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first, last + 1, label index) of the tokens of each entity.

    An inside tag that does not follow a tag of its label begins an entity.
    """
    t = 0
    while t < len(tags):
        first, tag = t, tags[t]
        t += 1
        if tag == 0:
            continue
        inside = tag + tag % 2
        while t < len(tags) and tags[t] == inside:
            t += 1
        yield first, t, (inside - 2) // 2


def tags_to_spans(
    tags: Sequence[int], offsets: Offsets, labels: Sequence[str]
) -> list[Span]:
    """The entities of a text, sorted by start."""
    return [
        Span(offsets[first][0], offsets[last - 1][1], labels[k])
        for first, last, k in runs(tags)
    ]


# Examples


def read_sentences(path: Path = SENTENCES) -> list[Example]:
    """The sentences of the example, one per line; ``#`` starts a comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [parse_markup(line) for line in lines if line and not line.startswith("#")]


_ENTITY = re.compile(r"\[([A-Z]+) ([^\]]+)\]")


def parse_markup(line: str) -> Example:
    """Parse ``[PER Ana] left [LOC Porto].``.

    The id is derived from the text, so that a new line does not move others to another
    side of the split.
    """
    text, spans, done = "", [], 0
    for match in _ENTITY.finditer(line):
        text += line[done : match.start()]
        spans.append(Span(len(text), len(text) + len(match[2]), match[1]))
        text += match[2]
        done = match.end()
    text += line[done:]
    return Example(f"{zlib.crc32(text.encode()):08x}", text, tuple(spans))


@lru_cache(maxsize=1)
def base_examples() -> tuple[list[Example], list[Example]]:
    """(train, held out) of the sentences without the new label; lists are in train."""
    known, held_out = split(
        e for e in read_sentences() if NEW_LABEL not in labels_of([e])
    )
    return known + read_sentences(LISTS), held_out


def task_to_example(
    task: Mapping[str, Any],
    from_name: str,
    value: str,
    names: Mapping[str, str] | None = None,
) -> Example | None:
    """A task with the regions of its newest annotation.

    None if it has none, or a text without a word: there is nothing to learn from.

    Args:
        task: ``{"id", "data", "annotations"}`` as Label Studio exports it.
        from_name: the name of the ``Labels`` tag.
        value: the key of the text in ``data``.
        names: what the labels are called in the example; regions of other labels are
            left out. None keeps all labels as they are.
    """
    text = (task.get("data") or {}).get(value)
    done = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    if not isinstance(text, str) or not done or not (offsets := tokenize(text)):
        return None
    newest = max(done, key=lambda annotation: str(annotation.get("updated_at") or ""))
    spans = [
        span
        for region in newest.get("result") or []
        if (span := _region_to_span(region, from_name, names)) is not None
    ]
    return Example(str(task.get("id")), text, tuple(snap(spans, offsets)))


def _region_to_span(
    region: Any, from_name: str, names: Mapping[str, str] | None
) -> Span | None:
    if not isinstance(region, Mapping) or region.get("from_name") != from_name:
        return None
    value = region.get("value") or {}
    start, end, labels = value.get("start"), value.get("end"), value.get("labels")
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    for label in labels if isinstance(labels, list) else ():
        name = str(label) if names is None else names.get(str(label))
        if name is not None:
            return Span(start, end, name)
    return None


def example_to_task(example: Example, value: str = "text") -> dict[str, Any]:
    """A task for import into Label Studio, without entities."""
    return {"id": example.id, "data": {value: example.text}}


def example_to_annotation(
    example: Example, from_name: str, to_name: str
) -> list[dict[str, Any]]:
    """The entities as the ``result`` of an annotation in Label Studio."""
    return [
        {
            "id": f"{span.start}-{span.end}",
            "from_name": from_name,
            "to_name": to_name,
            "type": "labels",
            "origin": "manual",
            "value": {
                "start": span.start,
                "end": span.end,
                "text": example.text[span.start : span.end],
                "labels": [span.label],
            },
        }
        for span in example.spans
    ]


def example_to_annotated_task(
    example: Example, from_name: str, to_name: str, value: str = "text"
) -> dict[str, Any]:
    """A task with one annotation, as ``annotated_tasks`` returns it."""
    result = example_to_annotation(example, from_name, to_name)
    annotation = {"id": example.id, "result": result, "was_cancelled": False}
    return {**example_to_task(example, value), "annotations": [annotation]}


def split(
    examples: Iterable[Example], held_out_percent: int = 20
) -> tuple[list[Example], list[Example]]:
    """(train, held out) by a hash of the id, so that a task never changes sides."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        is_held_out = zlib.crc32(example.id.encode()) % 100 < held_out_percent
        sides[is_held_out].append(example)
    return sides


def labels_of(examples: Iterable[Example]) -> list[str]:
    """The labels that occur, sorted."""
    return sorted({span.label for example in examples for span in example.spans})
