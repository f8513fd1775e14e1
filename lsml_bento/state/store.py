"""A key-value store that all processes of a backend share, changed in transactions.

One interface, three implementations: memory, SQLite and Redis. It holds the models'
values, jobs, annotations, and which version is active. The rules are in the modules
that use it (``jobs.job_store``, ``jobs.annotations``, ``versions``). Implementations
only store, and all pass the same tests.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from lsml_bento.contract import Project

SEPARATOR = "\x1f"
PAGE = 500
"""Entries that ``each`` reads at a time."""

_Answer = TypeVar("_Answer")
Pair = tuple[str, str]
"""A key and its value."""

Values = dict[str, str | None]
"""Keys with their values; None for an absent key."""


def key_of(*parts: str | int) -> str:
    """A key of parts; only the last part may contain ``SEPARATOR``."""
    return SEPARATOR.join(map(str, parts))


def below(*parts: str | int) -> str:
    """The prefix of all keys that begin with these parts."""
    return SEPARATOR.join([*map(str, parts), ""])


class Change:
    """A serializable transaction, which buffers its writes until it is complete.

    It is retried if what it read has changed.

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
        """Prefetch keys, in one request where each ``get`` costs a round trip."""
        new = [key for key in dict.fromkeys(keys) if key not in self.seen]
        if new and self._get_all is not None:
            self.seen.update(zip(new, self._get_all(new), strict=True))

    def fetch_below(self, prefixes: Iterable[str]) -> None:
        """Prefetch whole prefixes that will be scanned, in one request too."""
        new = [p for p in dict.fromkeys(prefixes) if p not in self._scanned]
        if new and self._scan_all is not None:
            for prefix, pairs in zip(new, self._scan_all(new), strict=True):
                if pairs is not None:
                    self._scanned[prefix] = pairs

    def get(self, key: str) -> str | None:
        """The value of a key as this change left it, None for an absent key."""
        if key in self.writes:
            return self.writes[key]
        if key not in self.seen:
            self.seen[key] = self._get(key)
        return self.seen[key]

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """Keys that begin with a prefix and sort after ``after``, in order."""
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


class State(ABC):
    """Ordered keys and values; a completed change is visible to every process at once.

    Keys sort by code point. Projects are stored with their ``created_at`` only: call
    ``resolve`` first.

    Attributes:
        writes: how often this process has written. While it is unchanged, this process
            has not itself invalidated what it read.
    """

    writes: int = 0

    @abstractmethod
    def get(self, key: str) -> str | None:
        """The value of a key, None for an absent key.

        Raises:
            StateError: if the store did not respond within 500 ms.
        """

    @abstractmethod
    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """Keys that begin with a prefix and sort after ``after``, in order.

        Raises:
            StateError: if the store did not respond within 500 ms per page.
        """

    @abstractmethod
    def change(self, work: Callable[[Change], _Answer], wait_s: float = 2.0) -> _Answer:
        """Run ``work`` in a transaction: all of its writes are applied, or none.

        Args:
            work: called again if another writer interferes, so it must do nothing but
                read and write the change.
            wait_s: how long to wait for other writers.

        Raises:
            StateError: if the store stayed locked, is full or not writable.
        """

    @abstractmethod
    def close(self) -> None:
        """Release files and connections."""

    def for_events(self, wait_s: float) -> State:
        """The same state for the one thread that stores events.

        A remote store makes this one faster and gives up after ``wait_s``, since Label
        Studio waits only 1 s for the response to a webhook. ``close`` closes it too.
        """
        return self

    def each(self, prefix: str) -> Iterator[Pair]:
        """Every key that begins with a prefix, read a page at a time."""
        after = ""
        while page := self.scan(prefix, after, PAGE):
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1][0]

    # Values per project, which models get and set

    def read(self, project: Project) -> dict[str, Any]:
        """All values of a project; empty for an unknown project.

        Raises:
            StateError: if the store did not respond within 500 ms.
        """
        prefix = below("value", *identify(project))
        return {
            key.removeprefix(prefix): json.loads(value)
            for key, value in self.scan(prefix)
        }

    def write(self, project: Project, values: Mapping[str, Any]) -> None:
        """Set several values in one transaction.

        Raises:
            StateError: if the store stayed locked, is full or not writable.
            TypeError: if a value is not JSON.
        """
        identity = identify(project)
        encoded = {key: encode(key, value) for key, value in values.items()}

        def work(change: Change) -> None:
            know(change, project)
            for key, value in encoded.items():
                change.put(key_of("value", *identity, key), value)

        self.change(work)

    def projects(self) -> list[Project]:
        """Every known project, in the order in which they became known.

        Raises:
            StateError: if the store did not respond within 500 ms.
        """
        return known_projects(self)


def known_projects(reader: State | Change) -> list[Project]:
    """Every known project, in the order in which they became known."""
    prefix = below("project")
    found = [
        (int(since), key.removeprefix(prefix).split(SEPARATOR))
        for key, since in reader.scan(prefix)
    ]
    return [Project(id_, int(created_at)) for _, (id_, created_at) in sorted(found)]


def know(change: Change, project: Project) -> None:
    """Record that a project exists, and since when."""
    key = key_of("project", *identify(project))
    if change.get(key) is None:
        change.put(key, str(time.time_ns()))


def resolve(project: Project, reader: State | Change) -> Project:
    """The project with its ``created_at``.

    Without one, it is the newest known project with that id, or ``created_at`` 0 if no
    such project is known.

    Raises:
        StateError: if the state did not respond.
    """
    if project.created_at is not None:
        return project
    known = [p.created_at or 0 for p in known_projects(reader) if p.id == project.id]
    return Project(project.id, max(known, default=0))


def identify(project: Project) -> tuple[str, int]:
    """The key parts under which everything of a project is stored.

    Raises:
        ValueError: if the project has no ``created_at``.
    """
    if project.created_at is None:
        raise ValueError(f"project {project.id!r} has no created_at: resolve it first")
    return project.id, project.created_at


def encode(key: str, value: object) -> str:
    """A value as JSON text.

    Raises:
        TypeError: if JSON cannot hold it.
    """
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"set({key!r}, ...) takes values that JSON can hold, and this "
            f"{type(value).__name__} is not one ({error}): convert it first"
        ) from error
