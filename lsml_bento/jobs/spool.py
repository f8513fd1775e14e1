"""Events that the database did not take in time, kept in a file until it does.

Each process appends to a file of its own below ``LSML_HOME/inbox``, and holds a lock
beside it. A file whose lock is free belongs to a process that died: whoever finds it
replays it.
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
"""Events replayed in one change at most; new ones wait for it."""

Replay = Callable[[list[dict[str, Any]]], None]
"""Takes the bodies of events, in order; raises ``StateError`` to be called again."""


class Spool:
    """One process's file of events.

    Args:
        directory: made when it is first needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._lock: FileLock | None = None
        self._replayed = 0
        self._size = 0
        self._most = _CHUNK

    @property
    def is_empty(self) -> bool:
        """Whether all that was appended has been replayed."""
        return self._size == 0

    def append(self, bodies: list[dict[str, Any]]) -> None:
        """Add events; they have left this process when this returns.

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
                f"neither the state nor {self._directory} takes events: {error}; is "
                "the disk full?"
            ) from error
        self._size += len(data)

    def replay(self, take: Replay) -> None:
        """Give the next ones to ``take``, in order; the file goes with the last.

        A part that ``take`` refused is smaller the next time: a Redis that is far away
        may have no time for a whole one.

        Raises:
            StateError: if ``take`` did; what it took is not given to it again.
        """
        if self.is_empty:
            return
        parts = _replay(self._path, self._replayed, self._sparing(take), self._most)
        self._replayed = next(parts, self._size)
        if self._replayed >= self._size:
            log.info("events replayed from %s", self._path.name)
            self._path.unlink(missing_ok=True)
            self._replayed = self._size = 0

    def adopt(self, take: Replay) -> None:
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
                continue  # its process lives
            try:
                if path.exists():
                    for _ in _replay(path, 0, self._sparing(take), self._most):
                        pass
                    log.info("events replayed from %s", path.name)
                    path.unlink()
                Path(lock.lock_file).unlink(missing_ok=True)
            finally:
                lock.release()

    def _sparing(self, take: Replay) -> Replay:
        """``take``, with what it refuses cut in half for the next time."""

        def sparing(bodies: list[dict[str, Any]]) -> None:
            try:
                take(bodies)
            except StateError:
                self._most = max(1, self._most // 2)
                raise
            self._most = min(_CHUNK, 2 * self._most)

        return sparing

    def close(self) -> None:
        """Let go of the file; events that are left wait in it for the next process."""
        if self._lock is not None:
            self._lock.release()
            if self.is_empty:
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock = None


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".lock"), thread_local=False)


def _replay(path: Path, start: int, take: Replay, most: int) -> Iterator[int]:
    """Give the file's events to ``take``; the offset after each part that it took."""
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
        # A process that was killed while it wrote had not answered the event.
        log.warning("%s: an event that was not written to its end is left out", path)
        return None
    return body if isinstance(body, dict) else None
