"""What every process of a backend must agree on: ordered keys, changed in transactions.

One interface with three fillings (memory, SQLite, Redis) holds everything: the models'
values, the ledger of jobs, the journal of annotations, and which version is active. The
rules stand above it, once (``job_store``, ``journal``, ``versions``); below it there is
only storage, and every filling passes one test-suite.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from lsml_bento.contract import Project

SEPARATOR = "\x1f"
PAGE = 500
"""Entries that ``each`` holds at a time."""

_Answer = TypeVar("_Answer")
Pair = tuple[str, str]
"""A key and its value."""


def key_of(*parts: str | int) -> str:
    """A key; all parts but the last one are free of ``SEPARATOR``."""
    return SEPARATOR.join(map(str, parts))


def below(*parts: str | int) -> str:
    """What the keys under these parts begin with."""
    return SEPARATOR.join([*map(str, parts), ""])


def last_of(key: str, prefix: str) -> str:
    """What follows a prefix in a key."""
    return key[len(prefix) :]


class Change(Protocol):
    """A transaction: what it reads stays so until it is done, or it is done again."""

    def fetch(self, keys: Iterable[str]) -> None:
        """Read keys that will be got, in one go where each costs a round trip."""

    def fetch_below(self, prefixes: Iterable[str]) -> None:
        """Read what lies below prefixes that will be scanned whole, in one go too."""

    def get(self, key: str) -> str | None:
        """The value of a key, None where there is none."""

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """Keys that begin with a prefix and sort behind ``after``, in order."""

    def put(self, key: str, value: str) -> None:
        """Set a key."""

    def delete(self, key: str) -> None:
        """Remove a key; nothing happens where there is none."""


class State(ABC):
    """Ordered keys and values, seen by every process as soon as a change is done.

    Keys sort by code point. A project without ``created_at`` is never stored:
    ``resolve`` it.

    Attributes:
        writes: how often this process wrote. As long as it stays, what this process
            read is not out of date by its own doing.
    """

    writes: int = 0

    @abstractmethod
    def get(self, key: str) -> str | None:
        """The value of a key, None where there is none.

        Raises:
            StateError: if no answer came within 500 ms.
        """

    @abstractmethod
    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """Keys that begin with a prefix and sort behind ``after``, in order.

        Raises:
            StateError: if no answer came in time.
        """

    @abstractmethod
    def change(self, work: Callable[[Change], _Answer], wait_s: float = 2.0) -> _Answer:
        """Do ``work`` in a transaction: all of its changes are seen, or none.

        Args:
            work: called again if another process came between, so that it may do
                nothing but read and write the change.
            wait_s: how long to wait for other writers.

        Raises:
            StateError: if the store stayed locked, is full or not writable.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    def each(self, prefix: str) -> Iterator[Pair]:
        """Every key that begins with a prefix, a page in memory at a time."""
        after = ""
        while page := self.scan(prefix, after, PAGE):
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1][0]

    # Values per project, which models get and set

    def read(self, project: Project) -> dict[str, Any]:
        """All values of a project, empty for an unknown one.

        Raises:
            StateError: if no answer came within 500 ms.
        """
        prefix = below("value", *identify(project))
        return {
            last_of(key, prefix): json.loads(value) for key, value in self.scan(prefix)
        }

    def write(self, project: Project, values: Mapping[str, Any]) -> None:
        """Set several values at once, or none of them.

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
        """Every known project, the one that was known first first.

        Raises:
            StateError: if no answer came within 500 ms.
        """
        return known_projects(self)


class Reader(Protocol):
    """What can be scanned: a state, or a change of it."""

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """As ``State.scan``."""


def known_projects(reader: Reader) -> list[Project]:
    """Every known project, the one that was known first first."""
    prefix = below("project")
    found = [
        (int(since), last_of(key, prefix).split(SEPARATOR))
        for key, since in reader.scan(prefix)
    ]
    return [Project(id_, int(created_at)) for _, (id_, created_at) in sorted(found)]


def know(change: Change, project: Project) -> None:
    """Remember that there is such a project, and since when."""
    key = key_of("project", *identify(project))
    if change.get(key) is None:
        change.put(key, str(time.time_ns()))


def resolve(project: Project, reader: Reader) -> Project:
    """The project that is meant, with a ``created_at``.

    Without one, the newest known project of that id is meant; where none is known, the
    project gets ``created_at`` 0.

    Raises:
        StateError: if the state did not answer.
    """
    if project.created_at is not None:
        return project
    known = [p.created_at or 0 for p in known_projects(reader) if p.id == project.id]
    return Project(project.id, max(known, default=0))


def identify(project: Project) -> tuple[str, int]:
    """What is kept for a project is kept under this.

    Raises:
        ValueError: if the project has no ``created_at``.
    """
    if project.created_at is None:
        raise ValueError(f"project {project.id!r} has no created_at: resolve it first")
    return project.id, project.created_at


def encode(key: str, value: object) -> str:
    """A value as the JSON that is kept.

    Raises:
        TypeError: if it is not JSON.
    """
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"set({key!r}, ..) takes what JSON can hold, and this "
            f"{type(value).__name__} it can not ({error}): convert it first"
        ) from error
