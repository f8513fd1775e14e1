"""State in one SQLite file, shared by every process of a backend on one machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from lsml_bento.errors import StateError
from lsml_bento.types import Project

_READ_WAIT_MS = 500
_WRITE_WAIT_MS = 5_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS owner (name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS project_values (
    project_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (project_id, created_at, key)
);
"""


class SqliteState:
    """``State`` on SQLite in WAL mode: readers never wait for a writer.

    Args:
        path: the database file; its directory is made.
        owner: the backend's name. One backend per file: a second one is refused.

    Raises:
        StateError: if the file can not be used or belongs to another backend.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path
        self._local = threading.local()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write_connection().executescript(
                "PRAGMA journal_mode=WAL; BEGIN IMMEDIATE;" + _SCHEMA + "COMMIT;"
            )
        except (OSError, sqlite3.Error) as error:
            raise StateError(
                f"the state in {path} can not be opened: {error}; set LSML_HOME to a "
                "writable directory on a local disk"
            ) from error
        self._claim(owner)

    def read(self, project: Project) -> Mapping[str, Any]:
        """All values of a project; waits 500 ms at most."""
        rows = self._rows(
            "SELECT key, value FROM project_values "
            "WHERE project_id = ? AND created_at = ?",
            _identity(project),
        )
        return {key: orjson.loads(value) for key, value in rows}

    def write(self, project: Project, values: Mapping[str, Any]) -> None:
        """Set several values in one transaction; waits 5 s at most."""
        rows = [(*_identity(project), key, _encode(key, values[key])) for key in values]
        connection = self._write_connection()
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(
                    "INSERT INTO project_values VALUES (?, ?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET value = excluded.value",
                    rows,
                )
        except sqlite3.Error as error:
            raise StateError(
                f"the state in {self._path} could not be written: {error}"
            ) from error

    def projects(self) -> list[Project]:
        """Every known project, oldest first."""
        rows = self._rows(
            "SELECT project_id, created_at FROM project_values "
            "GROUP BY project_id, created_at ORDER BY MIN(rowid)",
            (),
        )
        return [Project(*row) for row in rows]

    def close(self) -> None:
        """Close this thread's connections; an ended thread's are closed already."""
        for connection in vars(self._local).values():
            connection.close()
        vars(self._local).clear()

    def _claim(self, owner: str) -> None:
        connection = self._write_connection()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute("SELECT name FROM owner").fetchone()
            if found is None:
                connection.execute("INSERT INTO owner VALUES (?)", (owner,))
        if found is not None and found[0] != owner:
            raise StateError(
                f"{self._path.parent} holds the state of the backend {found[0]!r} and "
                f"this one is {owner!r}: set LSML_HOME to a directory of its own"
            )

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            return (
                self._connection("read", _READ_WAIT_MS)
                .execute(query, values)
                .fetchall()
            )
        except sqlite3.Error as error:
            raise StateError(
                f"the state in {self._path} could not be read: {error}"
            ) from error

    def _write_connection(self) -> sqlite3.Connection:
        return self._connection("write", _WRITE_WAIT_MS)

    def _connection(self, purpose: str, wait_ms: int) -> sqlite3.Connection:
        # A connection per thread and purpose: the time to wait belongs to a connection.
        found: sqlite3.Connection | None = getattr(self._local, purpose, None)
        if found is None:
            found = sqlite3.connect(
                self._path, timeout=wait_ms / 1000, isolation_level=None
            )
            found.execute("PRAGMA synchronous=NORMAL")
            setattr(self._local, purpose, found)
        return found


def _identity(project: Project) -> tuple[str, int]:
    if project.created_at is None:
        raise ValueError(f"project {project.id!r} has no created_at: resolve it first")
    return project.id, project.created_at


def _encode(key: str, value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise TypeError(
            f"set({key!r}, ...) takes what JSON can hold, and {type(value).__name__} "
            "is not: convert it first"
        ) from error
