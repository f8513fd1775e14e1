"""State in one SQLite file, shared by every process of a backend on one machine."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lsml_bento.errors import StateError
from lsml_bento.state import Change, Pair, State

_READ_WAIT_S = 0.5
_Answer = TypeVar("_Answer")

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS owner (name TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS entries (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID""",
)


class SqliteState(State):
    """``State`` on SQLite in WAL mode: readers never wait for a writer.

    Args:
        path: the database file; its directory is made.
        owner: the backend's name. One backend per file: a second one is refused.

    Raises:
        StateError: if the file can not be used or belongs to another backend.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.writes = 0
        self._path = path
        self._local = threading.local()
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        with self._translated("opened", "; set LSML_HOME to a local directory"):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connection(10.0)
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            found = self._claim(connection, owner)
        if found != owner:
            self.close()
            raise StateError(
                f"{path.parent} holds the state of the backend {found!r} and this one "
                f"is {owner!r}: set LSML_HOME to a directory of its own"
            )

    def get(self, key: str) -> str | None:
        """The value of a key; waits 500 ms at most."""
        with self._translated("read"):
            return _Transaction(self._connection(_READ_WAIT_S)).get(key)

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """Keys in order; waits 500 ms at most."""
        with self._translated("read"):
            connection = self._connection(_READ_WAIT_S)
            return _Transaction(connection).scan(prefix, after, limit)

    def change(self, work: Callable[[Change], _Answer], wait_s: float = 2.0) -> _Answer:
        """Do ``work`` in one transaction, once no other process writes."""
        with (
            self._translated("written"),
            self._transaction(self._connection(wait_s)) as connection,
        ):
            answer = work(_Transaction(connection))
        with self._lock:
            self.writes += 1
        return answer

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in list(self._connections):
                connection.close()
        self._local = threading.local()

    def _claim(self, connection: sqlite3.Connection, owner: str) -> str:
        """Make the tables, and the file this backend's unless it is another's."""
        with self._transaction(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
            found = connection.execute("SELECT name FROM owner").fetchone()
            if found is None:
                connection.execute("INSERT INTO owner VALUES (?)", (owner,))
        return owner if found is None else str(found[0])

    @contextmanager
    def _transaction(
        self, connection: sqlite3.Connection
    ) -> Iterator[sqlite3.Connection]:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _translated(self, done: str, advice: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise StateError(
                f"the state in {self._path} could not be {done}: {error}{advice}"
            ) from error

    def _connection(self, wait_s: float) -> sqlite3.Connection:
        """This thread's connection, which waits so long for other writers."""
        found: _Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(
                self._path,
                timeout=wait_s,
                isolation_level=None,
                check_same_thread=False,  # for close()
                factory=_Connection,
            )
            found.execute("PRAGMA synchronous=NORMAL")
            self._local.connection = found
            with self._lock:
                self._connections.add(found)
        if found.wait_s != wait_s:
            found.execute(f"PRAGMA busy_timeout={int(wait_s * 1000)}")
            found.wait_s = wait_s
        return found


class _Connection(sqlite3.Connection):
    """A connection that can be referred to weakly, as an ended thread's must go."""

    wait_s: float | None = None


class _Transaction:
    """A ``Change`` that SQLite keeps, or a read outside of one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def fetch(self, keys: Iterable[str]) -> None:
        """Nothing: a key costs microseconds."""

    def fetch_below(self, prefixes: Iterable[str]) -> None:
        """Nothing, as well."""

    def get(self, key: str) -> str | None:
        found: Any = self._connection.execute(
            "SELECT value FROM entries WHERE key = ?", (key,)
        ).fetchone()
        return None if found is None else str(found[0])

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        return self._connection.execute(
            "SELECT key, value FROM entries "
            "WHERE key >= ? AND key < CAST(? AS TEXT) AND key > ? "
            "ORDER BY key LIMIT ?",
            # SQLite seeks the first bound and steps from there. The byte is behind all
            # that UTF-8 holds.
            (
                *(max(prefix, after), prefix.encode() + b"\xff"),
                *(after, -1 if limit is None else limit),
            ),
        ).fetchall()

    def put(self, key: str, value: str) -> None:
        self._connection.execute(
            "INSERT INTO entries VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def delete(self, key: str) -> None:
        self._connection.execute("DELETE FROM entries WHERE key = ?", (key,))
