"""Texts and tags to tensors: hashed features, padded batches.

Every function is pure. Shape letters: B texts, T tokens, F features.
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

from examples.pytorch_ner.data import Offsets

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
