"""Downloaded files on this machine's disk, up to a number of bytes."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_IN_USE_S = 600  # A model may still read a path that it was given recently.
_PART = ".part-"


class MediaCache:
    """Complete files only, up to a size; the least recently used are deleted first."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._estimate: int | None = None

    def find(self, name: str) -> Path | None:
        """Return a complete file and mark it as used now."""
        path = self._directory / name
        if not path.is_file():
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    @contextmanager
    def part(self) -> Iterator[Path]:
        """Yield a directory for one download, deleted at the end."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryDirectory(
            prefix=_PART, dir=self._directory, ignore_cleanup_errors=True
        ) as part:
            yield Path(part)

    def keep(self, body: Path, name: str) -> Path:
        """Move a complete download to its final name atomically."""
        size = body.stat().st_size
        path = body.replace(self._directory / name)
        with self._lock:
            if self._estimate is not None:
                self._estimate += size
            if self._estimate is None or self._estimate > self._max_bytes:
                self._estimate = self._prune()
        return path

    def _prune(self) -> int:
        now, files = time.time(), []
        for path in self._directory.iterdir():
            with contextlib.suppress(OSError):
                if path.name.startswith(_PART):
                    if path.stat().st_mtime < now - 3600:  # left by a killed process
                        shutil.rmtree(path)
                else:
                    files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            if total <= self._max_bytes * 0.9 or used > now - _IN_USE_S:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total
