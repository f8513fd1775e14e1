"""State in memory, and changes that buffer their writes."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from lsml_bento.state.store import Change, Pair, State

_Answer = TypeVar("_Answer")
Values = dict[str, str | None]
"""Keys with their values; None for an absent key."""


class BufferedChange:
    """A ``Change`` that buffers its writes until it is complete.

    Args:
        get: reads a key of the state.
        scan: scans the state, as ``State.scan``.
        get_all: reads several keys; None where prefetching saves nothing.
        scan_all: scans several prefixes; its result is None for one with too many keys.
        seen: records what was read; the functions may add to it.

    Attributes:
        seen: keys read, with the values they had; None for absent keys.
        writes: keys to set, or to delete where the value is None.
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
        """Use these values in place of reads; scans still read the state."""
        self._get = values.get
        self._get_all = lambda keys: [values.get(key) for key in keys]

    def fetch(self, keys: Iterable[str]) -> None:
        new = [key for key in dict.fromkeys(keys) if key not in self.seen]
        if new and self._get_all is not None:
            self.seen.update(zip(new, self._get_all(new), strict=True))

    def fetch_below(self, prefixes: Iterable[str]) -> None:
        new = [p for p in dict.fromkeys(prefixes) if p not in self._scanned]
        if new and self._scan_all is not None:
            for prefix, pairs in zip(new, self._scan_all(new), strict=True):
                if pairs is not None:
                    self._scanned[prefix] = pairs

    def get(self, key: str) -> str | None:
        if key in self.writes:
            return self.writes[key]
        if key not in self.seen:
            self.seen[key] = self._get(key)
        return self.seen[key]

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
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
        self._write(key, value)

    def delete(self, key: str) -> None:
        self._write(key, None)

    def _write(self, key: str, value: str | None) -> None:
        if key not in self.writes:
            insort(self._order, key)
        self.writes[key] = value


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
        """Do nothing: there is nothing to release."""
