"""Split a batch that failed until the items that fail are found."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Bisection(Generic[_Item]):
    """Iterate over the parts to try, in order. Call ``halve`` for a part that failed.

    Args:
        parts: of a batch, or the whole batch as one part.
        limit: the most items in a part; may be changed between parts.
    """

    def __init__(self, parts: Iterable[list[_Item]], limit: int = sys.maxsize) -> None:
        self.limit = limit
        self._parts = deque(parts)

    def __iter__(self) -> Iterator[list[_Item]]:
        while self._parts:
            part = self._parts.popleft()
            if len(part) > self.limit:
                self._parts.appendleft(part[self.limit :])
                part = part[: self.limit]
            yield part

    def __bool__(self) -> bool:
        """Whether parts are left."""
        return bool(self._parts)

    def halve(self, part: list[_Item]) -> None:
        """Try both halves of a part next."""
        middle = len(part) // 2
        self._parts.extendleft((part[middle:], part[:middle]))

    def add(self, parts: Iterable[list[_Item]]) -> None:
        """Try more parts at the end."""
        self._parts.extend(parts)
