"""Annotations to tensors and back: tokens, spans, BIO tags, features, splits.

Every function is pure. Offsets are half-open and count code points, as Label Studio's
do, so that ``text[start:end]`` is the entity.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

SENTENCES = Path(__file__).with_name("sentences.txt")
LISTS = Path(__file__).with_name("lists.txt")

Offsets = list[tuple[int, int]]
"""The (start, end) of each token of a text, ascending, never overlapping."""


class Span(NamedTuple):
    """An entity: ``text[start:end]`` is a ``label``."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Example:
    """A text and its entities, sorted by start, never overlapping.

    Attributes:
        id: of the Label Studio task, or made of the text; decides the split.
    """

    id: str
    text: str
    spans: tuple[Span, ...]


# Tokens

_TOKEN = re.compile(r"\w+|[^\w\s]")
_JOINER = "\u200d"  # holds the parts of an emoji together


def tokenize(text: str) -> Offsets:
    """Words, and every other visible character by itself.

    A combining mark belongs to the word or the emoji that it stands on.
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
    """Whether a word goes on after a mark, or an emoji after a joiner."""
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
    """The spans as whole tokens, sorted, never overlapping.

    A reversed span is turned round, one out of range is cut, one inside a word grows
    to the word, one that is empty or holds no token is dropped. Of two that share a
    token the one that starts first stays, and of those the longer.
    """
    ordered = sorted(
        (Span(min(s.start, s.end), max(s.start, s.end), s.label) for s in spans),
        key=lambda span: (span.start, -span.end),
    )
    snapped: list[Span] = []
    taken = 0
    for span in ordered:
        inside = [(s, e) for s, e in offsets if s < span.end and e > span.start]
        if span.start < span.end and inside and inside[0][0] >= taken:
            taken = inside[-1][1]
            snapped.append(Span(inside[0][0], taken, span.label))
    return snapped


def spans_to_tags(
    spans: Iterable[Span], offsets: Offsets, labels: Sequence[str]
) -> list[int]:
    """T tags of a text; spans of other labels are left out."""
    first_tag = {label: 1 + 2 * k for k, label in enumerate(labels)}
    tags = [0] * len(offsets)
    for span in snap((s for s in spans if s.label in first_tag), offsets):
        tag = first_tag[span.label]
        for t, (start, end) in enumerate(offsets):
            if span.start <= start and end <= span.end:
                tags[t] = tag if start == span.start else tag + 1
    return tags


def runs(tags: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """The half-open (first, last) tokens of each entity, with its label's index.

    An inside tag that follows nothing of its label begins an entity.
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


# Features and tensors


FEATURES = 9
"""F, how many features a token has."""

_ROW = struct.Struct(f"={FEATURES}i")


@lru_cache(maxsize=65536)
def features(word: str, buckets: int) -> bytes:
    """F hashed features of a word, as int32: its shape, itself, its affixes.

    Affixes and shape carry over to names that were never seen, and hashing needs no
    vocabulary that would grow.
    """
    word = unicodedata.normalize("NFC", word)
    if set(shape(word)) == {"*"}:
        word = "*"  # the next emoji is as good as the last
    lower = word.lower()
    named = (
        f"shape {shape(word)}",
        f"word {lower}",
        *(f"prefix {lower[:n]}" for n in (1, 2, 3)),
        *(f"suffix {lower[-n:]}" for n in (1, 2, 3, 4)),
    )
    # Row 0 stays free for padding; crc32 is the same in every process, hash() is not.
    return _ROW.pack(*(1 + zlib.crc32(name.encode()) % (buckets - 1) for name in named))


def shape(word: str) -> str:
    """``Xxx`` for Anna, ``XX`` for NATO, ``dd`` for 1998, ``*`` for any emoji.

    Runs are cut after two.
    """
    kinds = "".join(map(_kind, word))
    return re.sub(r"(.)\1\1+", r"\1\1", kinds)


def _kind(character: str) -> str:
    if character.isalpha():
        return "X" if character.isupper() else "x"
    if character.isdigit():
        return "d"
    is_pictorial = unicodedata.category(character)[0] in "SMC"
    return "*" if is_pictorial and not character.isascii() else character


def encode(text: str, offsets: Offsets, buckets: int) -> bytes:
    """int32 (T, F) features of a text, as bytes: words are packed once, then joined."""
    return b"".join([features(text[start:end], buckets) for start, end in offsets])


def length(row: bytes) -> int:
    """T of an encoded text."""
    return len(row) // _ROW.size


def collate(rows: Sequence[bytes]) -> Tensor:
    """int32 (B, T, F) of B encoded texts, padded with 0 to the longest."""
    longest = max(_ROW.size, max(map(len, rows), default=0))
    packed = bytearray().join([row.ljust(longest, b"\0") for row in rows])
    flat = torch.frombuffer(packed, dtype=torch.int32)  # (B * T * F)
    return flat.view(len(rows), longest // _ROW.size, FEATURES)


def collate_tags(rows: Sequence[Sequence[int]], padding: int = -100) -> Tensor:
    """int64 (B, T) tags of B texts, padded with what cross-entropy leaves out."""
    longest = max(1, max(map(len, rows), default=0))
    padded = [[*row, *[padding] * (longest - len(row))] for row in rows]
    return torch.tensor(padded)


# Examples


def read_sentences(path: Path = SENTENCES) -> list[Example]:
    """The example's own sentences, one a line; ``#`` starts a comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [parse_markup(line) for line in lines if line and not line.startswith("#")]


_ENTITY = re.compile(r"\[([A-Z]+) ([^\]]+)\]")


def parse_markup(line: str) -> Example:
    """``[PER Ana] left [LOC Porto].`` as an example.

    Its id is made of its text, so that a new line moves no other line to another split.
    """
    text, spans, done = "", [], 0
    for match in _ENTITY.finditer(line):
        text += line[done : match.start()]
        spans.append(Span(len(text), len(text) + len(match[2]), match[1]))
        text += match[2]
        done = match.end()
    text += line[done:]
    return Example(f"{zlib.crc32(text.encode()):08x}", text, tuple(spans))


def task_to_example(
    task: Mapping[str, Any], from_name: str, value: str
) -> Example | None:
    """A task with the regions of its newest annotation; None if it has none.

    Args:
        task: ``{"id", "data", "annotations"}`` as Label Studio exports it.
        from_name: the name of the ``Labels`` tag.
        value: the key of the text in ``data``.
    """
    text = task["data"].get(value)
    done = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    if not isinstance(text, str) or not done:
        return None
    newest = max(done, key=lambda annotation: str(annotation.get("updated_at") or ""))
    spans = [
        span
        for region in newest.get("result") or []
        if (span := _region_to_span(region, from_name)) is not None
    ]
    return Example(str(task.get("id")), text, tuple(snap(spans, tokenize(text))))


def _region_to_span(region: Mapping[str, Any], from_name: str) -> Span | None:
    value = region.get("value") or {}
    start, end, labels = value.get("start"), value.get("end"), value.get("labels")
    if region.get("from_name") != from_name or not labels:
        return None
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    return Span(start, end, str(labels[0]))


def example_to_task(example: Example) -> dict[str, Any]:
    """A task to import into Label Studio, without its entities."""
    return {"id": example.id, "data": {"text": example.text}}


def split(
    examples: Iterable[Example], held_out_percent: int = 20
) -> tuple[list[Example], list[Example]]:
    """(train, held out) by a hash of the id: a task keeps its side for ever."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        is_held_out = zlib.crc32(example.id.encode()) % 100 < held_out_percent
        sides[is_held_out].append(example)
    return sides


def labels_of(examples: Iterable[Example]) -> list[str]:
    """The labels that occur, sorted."""
    return sorted({span.label for example in examples for span in example.spans})
