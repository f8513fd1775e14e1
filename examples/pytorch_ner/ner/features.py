"""From texts and tags to tensors: hashed features, padded batches.

All functions are pure. Shape letters: B texts, T tokens, F features.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ner.data import Offsets

FEATURES = 9
"""F, the number of features per token."""

_ROW = struct.Struct(f"={FEATURES}i")


@lru_cache(maxsize=65536)
def features(word: str, buckets: int) -> bytes:
    """F hashed int32 features of a word: shape, word, prefixes and suffixes.

    Affixes and shape generalize to unseen names, and hashing needs no vocabulary.
    """
    word = unicodedata.normalize("NFC", word)
    if set(shape(word)) == {"*"}:
        word = "*"  # all emoji have the same features
    lower = word.lower()
    named = (
        f"shape {shape(word)}",
        f"word {lower}",
        *(f"prefix {lower[:n]}" for n in (1, 2, 3)),
        *(f"suffix {lower[-n:]}" for n in (1, 2, 3, 4)),
    )
    # Row 0 is for padding. Unlike hash(), crc32 is the same in every process.
    return _ROW.pack(*(1 + zlib.crc32(name.encode()) % (buckets - 1) for name in named))


def shape(word: str) -> str:
    """``Xxx`` for Anna, ``XX`` for NATO, ``dd`` for 1998, ``*`` for any emoji.

    Runs are shortened to two.
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
    """The int32 (T, F) features of a text, as bytes."""
    return b"".join([features(text[start:end], buckets) for start, end in offsets])


def collate(rows: Sequence[bytes]) -> Tensor:
    """Pad B encoded texts with 0 to int32 (B, T, F)."""
    longest = max(_ROW.size, max(map(len, rows), default=0))
    packed = bytearray().join([row.ljust(longest, b"\0") for row in rows])
    flat = torch.frombuffer(packed, dtype=torch.int32)  # (B * T * F)
    return flat.view(len(rows), longest // _ROW.size, FEATURES)


def collate_tags(rows: Sequence[Sequence[int]], padding: int = -100) -> Tensor:
    """Pad the tags of B texts to int64 (B, T), which cross-entropy ignores."""
    longest = max(1, max(map(len, rows), default=0))
    padded = [[*row, *[padding] * (longest - len(row))] for row in rows]
    return torch.tensor(padded)
