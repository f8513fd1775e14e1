"""State in one SQLite file, shared by every process of a backend on one machine."""

from __future__ import annotations

import json
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lsml_bento.errors import StateError
from lsml_bento.state import encode, identify
from lsml_bento.types import Project

_READ_WAIT_MS = 500
_WRITE_WAIT_MS = 2_000

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS owner (name TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS project_values (
        project_id TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (project_id, created_at, key)
    )""",
)


class SqliteState:
    """``State`` on SQLite in WAL mode: readers never wait for a writer.

    Args:
        path: the database file; its directory is made.
        owner: the backend's name. One backend per file: a second one is refused.
        write_wait_ms: how long a write waits for those of other processes.

    Raises:
        StateError: if the file can not be used or belongs to another backend.
    """

    def __init__(
        self, path: Path, owner: str, *, write_wait_ms: int = _WRITE_WAIT_MS
    ) -> None:
        self.writes = 0
        self._path = path
        self._write_wait_ms = write_wait_ms
        self._local = threading.local()
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._lock = threading.Lock()
        with self._translated("opened", "; set LSML_HOME to a local directory"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write_connection().execute("PRAGMA journal_mode=WAL").fetchall()
            found = self._claim(owner)
        if found != owner:
            self.close()
            raise StateError(
                f"{path.parent} holds the state of the backend {found!r} and this one "
                f"is {owner!r}: set LSML_HOME to a directory of its own"
            )

    def read(self, project: Project) -> Mapping[str, Any]:
        """All values of a project; waits 500 ms at most."""
        rows = self._rows(
            "SELECT key, value FROM project_values "
            "WHERE project_id = ? AND created_at = ?",
            identify(project),
        )
        return {key: json.loads(value) for key, value in rows}

    def write(self, project: Project, values: Mapping[str, Any]) -> None:
        """Set several values in one transaction; waits 2 s at most."""
        identity = identify(project)
        rows = [(*identity, key, encode(key, value)) for key, value in values.items()]
        with self._translated("written"), self._transaction() as connection:
            connection.executemany(
                "INSERT INTO project_values VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET value = excluded.value",
                rows,
            )
        with self._lock:
            self.writes += 1

    def projects(self) -> list[Project]:
        """Every known project, oldest first."""
        rows = self._rows(
            "SELECT project_id, created_at FROM project_values "
            "GROUP BY project_id, created_at ORDER BY MIN(rowid)",
            (),
        )
        return [Project(*row) for row in rows]

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in list(self._connections):
                connection.close()
        self._local = threading.local()

    def _claim(self, owner: str) -> str:
        """Make the tables, and the file this backend's unless it is another's."""
        with self._transaction() as connection:
            for statement in _SCHEMA:
                connection.execute(statement)
            found = connection.execute("SELECT name FROM owner").fetchone()
            if found is None:
                connection.execute("INSERT INTO owner VALUES (?)", (owner,))
        return owner if found is None else str(found[0])

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            connection = self._connection("read", _READ_WAIT_MS)
            return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._failure("read", error) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._write_connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _translated(self, done: str, advice: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise self._failure(done, error, advice) from error

    def _failure(self, done: str, error: Exception, advice: str = "") -> StateError:
        return StateError(
            f"the state in {self._path} could not be {done}: {error}{advice}"
        )

    def _write_connection(self) -> sqlite3.Connection:
        return self._connection("write", self._write_wait_ms)

    def _connection(self, purpose: str, wait_ms: int) -> sqlite3.Connection:
        # A connection per thread and purpose: the time to wait belongs to a connection.
        found: _Connection | None = getattr(self._local, purpose, None)
        if found is None:
            found = sqlite3.connect(
                self._path,
                timeout=wait_ms / 1000,
                isolation_level=None,
                check_same_thread=False,  # for close()
                factory=_Connection,
            )
            found.execute("PRAGMA synchronous=NORMAL")
            setattr(self._local, purpose, found)
            with self._lock:
                self._connections.add(found)
        return found


class _Connection(sqlite3.Connection):
    """A connection that can be referred to weakly, as an ended thread's must go."""
