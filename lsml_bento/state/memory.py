"""State in memory, and changes that keep their writes until they are done."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from lsml_bento.state.store import Change, Pair, State

_Answer = TypeVar("_Answer")
Values = dict[str, str | None]
"""Keys with their values; None for a key that is not there."""


class BufferedChange:
    """A ``Change`` that keeps its writes until it is done.

    Args:
        get: reads a key of the state.
        scan: scans the state, as ``State.scan``.
        get_all: reads several keys; where it is None, reading ahead is worth nothing.
        scan_all: scans several prefixes, None for one that holds too much.
        seen: where to note what was read; what scans may note there as well.

    Attributes:
        seen: keys read, with the values they had; None where there was none.
        writes: keys to set, or to remove where the value is None.
    """

    def __init__(
        self,
        get: Callable[[str], str | None],
        scan: Callable[[str, str, int | None], list[Pair]],
        get_all: Callable[[list[str]], list[str | None]] | None = None,
        scan_all: Callable[[list[str]], list[list[Pair] | None]] | None = None,
        seen: Values | None = None,
    ) -> None:
        self._get = get
        self._scan = scan
        self._get_all = get_all
        self._scan_all = scan_all
        self._scanned: dict[str, list[Pair]] = {}
        self._order: list[str] = []
        self.seen: Values = {} if seen is None else seen
        self.writes: Values = {}

    def suppose(self, values: Values) -> None:
        """Take these for the values of the state's keys, and read none; scans do."""
        self._get = values.get
        self._get_all = lambda keys: [values.get(key) for key in keys]

    def fetch(self, keys: Iterable[str]) -> None:
        """Read keys ahead."""
        new = [key for key in dict.fromkeys(keys) if key not in self.seen]
        if new and self._get_all is not None:
            self.seen.update(zip(new, self._get_all(new), strict=True))

    def fetch_below(self, prefixes: Iterable[str]) -> None:
        """Scan prefixes ahead."""
        new = [p for p in dict.fromkeys(prefixes) if p not in self._scanned]
        if new and self._scan_all is not None:
            for prefix, pairs in zip(new, self._scan_all(new), strict=True):
                if pairs is not None:
                    self._scanned[prefix] = pairs

    def get(self, key: str) -> str | None:
        """The value of a key as this change left it."""
        if key in self.writes:
            return self.writes[key]
        if key not in self.seen:
            self.seen[key] = self._get(key)
        return self.seen[key]

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """The keys as this change left them."""
        own: Values = {}
        for key in self._order[bisect_left(self._order, max(prefix, after)) :]:
            if not key.startswith(prefix):
                break
            if key > after:
                own[key] = self.writes[key]
        if not after and limit is None and prefix in self._scanned:
            stored = self._scanned[prefix]
        else:
            more = None if limit is None else limit + len(own)
            stored = self._scan(prefix, after, more)
        found: Values = {**dict(stored), **own}
        pairs = [(key, value) for key, value in found.items() if value is not None]
        return sorted(pairs)[:limit]

    def put(self, key: str, value: str) -> None:
        """Set a key."""
        self._write(key, value)

    def delete(self, key: str) -> None:
        """Remove a key."""
        self._write(key, None)

    def _write(self, key: str, value: str | None) -> None:
        if key not in self.writes:
            insort(self._order, key)
        self.writes[key] = value


class MemoryState(State):
    """State that lives and dies with its process: for tests and classes used alone."""

    def __init__(self) -> None:
        self.writes = 0
        self._values: dict[str, str] = {}
        self._order: list[str] = []
        self._lock = threading.RLock()

    def get(self, key: str) -> str | None:
        """The value of a key."""
        with self._lock:
            return self._values.get(key)

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """Keys in order."""
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
        """Do ``work`` while no other thread may."""
        with self._lock:
            change = BufferedChange(self._values.get, self.scan)
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
        """Nothing to let go of."""
