"""Directories that are written beside a model store, then renamed into it.

A rename is atomic: a process that is killed at any moment leaves a temporary directory
behind, and never half a version in the store.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from lsml_bento.errors import WeightsError

if sys.platform != "win32":
    import fcntl

_PROBE = ".lsml-probe-"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_BYTES = 1 << 20


class StagingArea:
    """Where the versions of one store are written.

    Every ``OSError`` becomes a ``WeightsError``.

    Args:
        store: the store's directory, created when the first version is written.
        inside: a directory inside the store that readers of the store accept. It is
            used where files cannot be renamed into the store from beside it, as when
            the store is a mounted volume.
        prepare: makes ``inside`` acceptable to readers; called before each use.
    """

    def __init__(
        self, store: Path, inside: Path, prepare: Callable[[Path], None]
    ) -> None:
        self._store = store
        self._beside = store.parent / f".{store.name}-writing"
        self._inside = inside
        self._prepare = prepare
        self._found: Path | None = None

    @contextmanager
    def temporary(self, kind: str) -> Iterator[Path]:
        """A new directory, deleted after the block unless ``put`` moved it.

        It is locked during the block, so that ``sweep`` leaves it alone.
        """
        with self.translated("written"):
            # mkdtemp would make it unreadable for other users.
            directory = self.path() / f"{kind}-{uuid4().hex}"
            directory.mkdir()
        try:
            with self._locked(directory):
                yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def put(
        self,
        made: Path | None,
        target: Path,
        then: Callable[[], None],
        *,
        replace: bool = True,
    ) -> None:
        """Move a directory into the store, replacing the target.

        Args:
            made: a temporary directory, flushed; None only deletes the target.
            target: in the store, two levels deep.
            then: called before another process can put something.
            replace: whether the target may exist.
        """
        with self.temporary("old") as old, self.translated("written"):
            with self._locked(self.path()):
                target.parent.mkdir(parents=True, exist_ok=True)
                before = old / target.name
                if target.exists():
                    if not replace:
                        raise WeightsError(f"{target} already exists: use another name")
                    target.rename(before)
                try:
                    if made is not None:
                        made.rename(target)
                except OSError:
                    if before.exists():
                        before.rename(target)
                    raise
                then()
                with suppress(OSError):
                    target.parent.rmdir()  # if it is empty now
            if made is not None:
                _flush_one(target.parent)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """A lock between threads and processes, by name."""
        with self.translated("written"):
            lock = self.path() / f"{name}.lock"
        with self._locked(lock):
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()

    def sweep(self, older_than_s: float) -> list[str]:
        """Delete temporary directories of killed processes; returns their names."""
        with self.translated("swept"):
            found = list(self._store.glob(f"{_PROBE}*"))
            for area in (self._beside, self._inside):
                found += area.iterdir() if area.is_dir() else ()
        old = [path for path in found if age_s(path) >= older_than_s]
        return [
            path.name
            for path in old
            if path.name.startswith(("new-", "old-", "pull-", "latest-", _PROBE))
            or path.suffix == ".lock"
            if _remove_unlocked(path)
        ]

    def path(self) -> Path:
        """A directory on the store's file system."""
        if self._found is None:
            self._store.mkdir(parents=True, exist_ok=True)
            can_rename = _can_rename(self._beside, self._store)
            self._found = self._beside if can_rename else self._inside
        self._found.mkdir(parents=True, exist_ok=True)
        if self._found == self._inside:
            self._prepare(self._inside)
        return self._found

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Hold a lock that ends with the process, if the file system supports it."""
        if sys.platform == "win32":
            yield
            return
        with self.translated("written"):
            file = _lock(path)
        try:
            yield
        finally:
            os.close(file)

    @contextmanager
    def translated(self, done: str) -> Iterator[None]:
        """Turn an ``OSError`` into a ``WeightsError`` that says what to do."""
        try:
            yield
        except OSError as error:
            raise self.fault(done, error) from error

    def fault(self, done: str, error: Exception) -> WeightsError:
        advice = (
            "the disk is full: free some space, or set LSML_MODEL_STORE to another disk"
            if self.is_full(error)
            else "set LSML_MODEL_STORE to a directory that this user can write"
        )
        return WeightsError(
            f"the weights in the model store {self._store} could not be {done}: "
            f"{error}; {advice}"
        )

    def is_full(self, error: Exception) -> bool:
        """Whether the disk is full; libraries raise various errors for that."""
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if self._found is None:
            return False
        try:
            return shutil.disk_usage(self._found).free < _FULL_BYTES
        except OSError:
            return False


def flush(directory: Path) -> None:
    """Flush all files to the disk, so that a full or remote disk reports errors now.

    Raises:
        OSError: if the disk is full or fails.
    """
    for path in [*directory.rglob("*"), directory]:
        if path.is_file() or path.is_dir():
            _flush_one(path)


def _lock(path: Path) -> int:
    """Open and lock a path, creating a file if needed; closing it unlocks."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    while True:
        file = os.open(path, flags)
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # The previous holder may have deleted the file: then this lock is worthless.
        with suppress(OSError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)


def age_s(path: Path) -> float:
    """Seconds since anything in it changed; -1 if unknown."""
    try:
        found = [path, *path.rglob("*")] if path.is_dir() else [path]
        return time.time() - max(entry.lstat().st_ctime for entry in found)
    except OSError:
        return -1.0


def _flush_one(path: Path) -> None:
    if sys.platform == "win32":
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _can_rename(source: Path, store: Path) -> bool:
    """Whether files can be renamed from one directory to the other: try one."""
    name = f"{_PROBE}{uuid4().hex}"
    try:
        source.mkdir(exist_ok=True)
        (source / name).touch()
        (source / name).rename(store / name)
    except OSError:
        return False
    finally:
        for directory in (source, store):
            with suppress(OSError):
                (directory / name).unlink()
    return True


def _remove_unlocked(path: Path) -> bool:
    """Delete a path unless a process has locked it; whether it is gone."""
    if sys.platform != "win32":
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # no locks on this file system: rely on its age
        finally:
            os.close(file)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
    return not path.exists()
