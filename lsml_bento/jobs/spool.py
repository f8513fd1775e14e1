"""Events that the database did not accept in time, kept in a file until it does.

Each process appends to its own file below ``LSML_HOME/inbox``, and holds a lock beside
it. A file whose lock is free belongs to a process that died, and is replayed by the
process that finds it.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lsml_bento.errors import StateError

log = logging.getLogger(__name__)

_CHUNK = 50
"""Replay at most this many events in one change; new events wait meanwhile."""

Replay = Callable[[list[dict[str, Any]]], None]
"""Stores the bodies of events in order; raises ``StateError`` to be called again."""


class Spool:
    """One process's file of events.

    Args:
        directory: created when it is first needed.

    Attributes:
        is_empty: whether all appended events have been replayed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._lock: FileLock | None = None
        self._replayed = 0
        self._size = 0
        self.is_empty = True
        self._most = _CHUNK

    def append(self, bodies: list[dict[str, Any]]) -> None:
        """Append events; they are in the file when this returns.

        Raises:
            StateError: if they could not be written.
        """
        data = b"".join(json.dumps(body).encode() + b"\n" for body in bodies)
        try:
            if self._lock is None:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._lock = _lock_of(self._path)
                self._lock.acquire(timeout=0)
            with self._path.open("ab", buffering=0) as file:
                start = file.tell()
                if file.write(data) != len(data):
                    file.truncate(start)
                    raise OSError("the disk is full")
        except (OSError, Timeout) as error:
            raise StateError(
                f"neither the state nor {self._directory} accepts events: {error}; is "
                "the disk full?"
            ) from error
        self._size += len(data)
        self.is_empty = False

    def replay(self, take: Replay) -> None:
        """Pass the next events to ``take`` in order; delete the file after the last.

        A part that ``take`` refused is smaller the next time, as a distant Redis may
        be too slow for a whole one.

        Raises:
            StateError: if ``take`` did. Events that it accepted are not passed again.
        """
        if self.is_empty:
            return
        parts = _replay(self._path, self._replayed, self._sparing(take), self._most)
        self._replayed = next(parts, self._size)
        if self._replayed >= self._size:
            log.info("Events replayed: file=%s", self._path.name)
            self._path.unlink(missing_ok=True)
            self._replayed = self._size = 0
            self.is_empty = True

    def replay_abandoned(self, take: Replay) -> None:
        """Replay the files of processes that died.

        Raises:
            StateError: if ``take`` did.
        """
        for path in sorted(self._directory.glob("*.jsonl")):
            if path == self._path:
                continue
            lock = _lock_of(path)
            try:
                lock.acquire(timeout=0)
            except (OSError, Timeout):
                continue  # its process is alive
            try:
                if path.exists():
                    for _ in _replay(path, 0, self._sparing(take), self._most):
                        pass
                    log.info("Events replayed: file=%s", path.name)
                    path.unlink()
                Path(lock.lock_file).unlink(missing_ok=True)
            finally:
                lock.release()

    def _sparing(self, take: Replay) -> Replay:
        """``take``, with half as many events the next time after a refusal."""

        def sparing(bodies: list[dict[str, Any]]) -> None:
            try:
                take(bodies)
            except StateError:
                self._most = max(1, self._most // 2)
                raise
            self._most = min(_CHUNK, 2 * self._most)

        return sparing

    def close(self) -> None:
        """Release the file; the next process replays the events that are left."""
        if self._lock is not None:
            self._lock.release()
            if self.is_empty:
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock = None


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".lock"), thread_local=False)


def _replay(path: Path, start: int, take: Replay, most: int) -> Iterator[int]:
    """Pass the file's events to ``take``; yield the offset after each part."""
    with path.open("rb") as file:
        file.seek(start)
        while chunk := _lines(file, most):
            take([body for line in chunk if (body := _parsed(line, path)) is not None])
            yield file.tell()


def _lines(file: Any, most: int) -> list[bytes]:
    lines: list[bytes] = []
    while len(lines) < most and (line := file.readline()):
        lines.append(line)
    return lines


def _parsed(line: bytes, path: Path) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
    except ValueError:
        # Its process was killed before it answered the request with the event.
        log.warning("Event left out: it was not written completely file=%s", path)
        return None
    return body if isinstance(body, dict) else None
