"""State in memory."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from lsml_bento.state.store import Change, Pair, State

_Answer = TypeVar("_Answer")


class MemoryState(State):
    """State that ends with its process: for tests and classes used without a server."""

    def __init__(self) -> None:
        self.writes = 0
        self._values: dict[str, str] = {}
        self._order: list[str] = []
        self._lock = threading.RLock()

    def get(self, key: str) -> str | None:
        with self._lock:
            return self._values.get(key)

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        found: list[Pair] = []
        with self._lock:
            place = bisect_left(self._order, max(prefix, after))
            for key in self._order[place:]:
                if not key.startswith(prefix) or len(found) == limit:
                    break
                if key > after:
                    found.append((key, self._values[key]))
        return found

    def change(self, work: Callable[[Change], _Answer], wait_s: float = 2.0) -> _Answer:
        with self._lock:
            change = Change(self._values.get, self.scan)
            answer = work(change)
            for key, value in change.writes.items():
                self._apply(key, value)
            self.writes += bool(change.writes)
        return answer

    def _apply(self, key: str, value: str | None) -> None:
        if value is None:
            with suppress(KeyError):
                del self._values[key]
                del self._order[bisect_left(self._order, key)]
        else:
            if key not in self._values:
                insort(self._order, key)
            self._values[key] = value

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
