"""State in one SQLite file, shared by every process of a backend on one machine."""

from __future__ import annotations

import logging
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lsml_bento.errors import StateError, StateTaken
from lsml_bento.state.store import Change, Pair, State

log = logging.getLogger(__name__)

_READ_WAIT_S = 0.5
_MOST_KEYS = 500
"""Keys that one statement reads."""

_CHECKPOINT_EVERY_S = 1.0
_LONG_LOG, _LONGEST_LOG = 20_000, 60_000
"""Length of SQLite's write-ahead log in pages of 4 KiB. Over the first, the checkpoint
blocks writers until it is complete; over the second, a writer makes the checkpoint."""

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
        path: the database file; its directory is created.
        owner: the backend's name. A file belongs to one backend.

    Raises:
        StateError: if the file cannot be used.
        StateTaken: if it belongs to another backend.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.writes = 0
        self._path = path
        self._local = threading.local()
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._checkpoints = _Checkpoints(path)
        with self._translated("opened", "; set LSML_HOME to a local directory"):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connection(10.0)
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            found = self._claim(connection, owner)
        if found != owner:
            self.close()
            raise StateTaken(
                f"{path.parent} holds the state of the backend {found!r}, and this one "
                f"is {owner!r}: set LSML_HOME to another directory"
            )

    def get(self, key: str) -> str | None:
        with self._translated("read"):
            return _get(self._connection(_READ_WAIT_S), key)

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        with self._translated("read"):
            return _scan(self._connection(_READ_WAIT_S), prefix, after, limit)

    def change(self, work: Callable[[Change], _Answer], wait_s: float = 2.0) -> _Answer:
        with (
            self._translated("written"),
            self._transaction(self._connection(wait_s)) as connection,
        ):
            change = Change(
                partial(_get, connection),
                partial(_scan, connection),
                partial(_get_all, connection),
            )
            answer = work(change)
            _apply(connection, change)
        self._checkpoints.ask()
        with self._lock:
            self.writes += 1
        return answer

    def close(self) -> None:
        """Close the connections of all threads."""
        self._checkpoints.close()
        with self._lock:
            for connection in list(self._connections):
                connection.close()
        self._local = threading.local()

    def _claim(self, connection: sqlite3.Connection, owner: str) -> str:
        """Create the tables; return the owner, this backend if the file is new."""
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
        """This thread's connection, set to wait ``wait_s`` for other writers."""
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
            found.execute(f"PRAGMA wal_autocheckpoint={_LONGEST_LOG}")
            self._local.connection = found
            with self._lock:
                self._connections.add(found)
        if found.wait_s != wait_s:
            found.execute(f"PRAGMA busy_timeout={int(wait_s * 1000)}")
            found.wait_s = wait_s
        return found


class _Connection(sqlite3.Connection):
    """A connection that can be weakly referenced, so that it ends with its thread."""

    wait_s: float | None = None

    def __del__(self) -> None:
        # Python 3.13 warns of each connection that ends without this.
        try:  # noqa: SIM105 - suppress may be gone when the interpreter ends
            self.close()
        except sqlite3.ProgrammingError:
            pass  # it was never opened


class _Checkpoints:
    """Checkpoints SQLite's write-ahead log in a background thread.

    SQLite would do it within a commit: 10 to 50 ms, about once in 90 events.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Request a checkpoint; returns at once."""
        self._asked.set()
        with self._lock:
            if self._thread is None:
                self._closing.clear()
                self._thread = threading.Thread(
                    target=self._serve, name="checkpoints", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Make the checkpoint that was requested, if any, then stop."""
        with self._lock:
            if self._thread is None:
                return
            is_due = self._asked.is_set()
            self._closing.set()
            self._asked.set()
            self._thread.join()
            self._thread = None
            self._asked.clear()
        if is_due:
            self._make()

    def _serve(self) -> None:
        while not self._closing.wait(_CHECKPOINT_EVERY_S):
            self._asked.wait()
            self._asked.clear()
            if not self._closing.is_set():
                self._make()

    def _make(self) -> None:
        try:
            with closing(sqlite3.connect(self._path)) as connection:
                found = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if found[1] > _LONG_LOG:
                    # Writers kept appending: block them until the log is copied.
                    connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        except sqlite3.Error as error:
            log.debug("Checkpoint failed: %s path=%s", error, self._path)


def _get(connection: sqlite3.Connection, key: str) -> str | None:
    found: Any = connection.execute(
        "SELECT value FROM entries WHERE key = ?", (key,)
    ).fetchone()
    return None if found is None else str(found[0])


def _get_all(connection: sqlite3.Connection, keys: list[str]) -> list[str | None]:
    """Several values in one statement: other threads may run between statements."""
    found: dict[str, str] = {}
    for start in range(0, len(keys), _MOST_KEYS):
        page = keys[start : start + _MOST_KEYS]
        marks = ",".join("?" * len(page))
        query = f"SELECT key, value FROM entries WHERE key IN ({marks})"  # noqa: S608
        found.update(connection.execute(query, page))
    return [found.get(key) for key in keys]


def _scan(
    connection: sqlite3.Connection, prefix: str, after: str, limit: int | None
) -> list[Pair]:
    return connection.execute(
        "SELECT key, value FROM entries "
        "WHERE key >= ? AND key < CAST(? AS TEXT) AND key > ? "
        "ORDER BY key LIMIT ?",
        # SQLite seeks to the first bound and steps from there. UTF-8 never contains
        # the byte 0xFF, so it sorts after every key with the prefix.
        (
            *(max(prefix, after), prefix.encode() + b"\xff"),
            *(after, -1 if limit is None else limit),
        ),
    ).fetchall()


def _apply(connection: sqlite3.Connection, change: Change) -> None:
    puts = [(key, value) for key, value in change.writes.items() if value is not None]
    gone = [(key,) for key, value in change.writes.items() if value is None]
    connection.executemany(
        "INSERT INTO entries VALUES (?, ?) "
        "ON CONFLICT DO UPDATE SET value = excluded.value",
        puts,
    )
    connection.executemany("DELETE FROM entries WHERE key = ?", gone)
