"""Directories written beside a store of weights, and renamed into it when whole.

A rename is all or nothing, so that a process killed at any moment leaves a scrap in the
workroom and never half a version in the store.
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
    """Where versions of one store are written. Every OSError becomes a WeightsError.

    Args:
        store: its directory, made when the first version is written.
        inside: a directory in the store that its readers can bear. It is used where no
            rename reaches the store from beside it, as from outside of a volume.
        prepare: makes ``inside`` bearable, each time that it is not.
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
    def scrap(self, kind: str) -> Iterator[Path]:
        """A new directory, removed after the block if it was not put anywhere.

        It is locked until then, so that no sweep takes it.
        """
        with self.translated("written"):
            # Not mkdtemp's, which nobody else may read.
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
        """Put a directory where another one may be; None leaves the place empty.

        Args:
            made: a scrap, flushed.
            target: in the store, one level below its top.
            then: done before any other process puts something.
            replace: whether there may be one.
        """
        with self.scrap("old") as old, self.translated("written"):
            with self._locked(self.path()):
                target.parent.mkdir(parents=True, exist_ok=True)
                before = old / target.name
                if target.exists():
                    if not replace:
                        raise WeightsError(f"{target} is there already: name another")
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
                    target.parent.rmdir()  # if it was the last one
            if made is not None:
                _flush_one(target.parent)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Wait until no other thread or process is in a block of that name."""
        with self.translated("written"):
            lock = self.path() / f"{name}.lock"
        with self._locked(lock):
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()

    def sweep(self, older_than_s: float) -> list[str]:
        """Remove the scraps of killed processes; returns their names."""
        with self.translated("swept"):
            scraps = list(self._store.glob(f"{_PROBE}*"))
            for room in (self._beside, self._inside):
                scraps += room.iterdir() if room.is_dir() else ()
        old = [path for path in scraps if age_s(path) >= older_than_s]
        return [
            path.name
            for path in old
            if path.name.startswith(("new-", "old-", "pull-", "latest-", _PROBE))
            or path.suffix == ".lock"
            if _remove_unlocked(path)
        ]

    def path(self) -> Path:
        """A directory from which a rename reaches the store."""
        if self._found is None:
            self._store.mkdir(parents=True, exist_ok=True)
            reached = _reaches(self._beside, self._store)
            self._found = self._beside if reached else self._inside
        self._found.mkdir(parents=True, exist_ok=True)
        if self._found == self._inside:
            self._prepare(self._inside)
        return self._found

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Hold a lock that ends with the process, where the file system has such."""
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
        """Say which store could not be read or written, and what to do."""
        try:
            yield
        except OSError as error:
            raise self.fault(done, error) from error

    def fault(self, done: str, error: Exception) -> WeightsError:
        """What to raise for an error."""
        advice = (
            "the disk is full: free some space, or set LSML_MODEL_STORE to another one"
            if self.is_full(error)
            else "set LSML_MODEL_STORE to a directory that this user can write"
        )
        return WeightsError(
            f"the weights in the model store {self._store} could not be {done}: "
            f"{error}; {advice}"
        )

    def is_full(self, error: Exception) -> bool:
        """Whether the disk is; libraries turn that into errors of their own."""
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if self._found is None:
            return False
        try:
            return shutil.disk_usage(self._found).free < _FULL_BYTES
        except OSError:
            return False


def flush(directory: Path) -> None:
    """Have everything on the disk: a full one, or one over the network, says so now.

    Raises:
        OSError: if it is not.
    """
    for path in [*directory.rglob("*"), directory]:
        if path.is_file() or path.is_dir():
            _flush_one(path)


def _lock(path: Path) -> int:
    """A file, made if it is not there, with the lock; closing it lets go."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    while True:
        file = os.open(path, flags)
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # Whoever had it before may have removed it: a lock of nobody else's by now.
        with suppress(OSError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)


def age_s(path: Path) -> float:
    """Seconds since anything in it changed; less than none if that can not be told."""
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


def _reaches(room: Path, store: Path) -> bool:
    """Whether a rename goes from one directory to the other: try it with a file."""
    name = f"{_PROBE}{uuid4().hex}"
    try:
        room.mkdir(exist_ok=True)
        (room / name).touch()
        (room / name).rename(store / name)
    except OSError:
        return False
    finally:
        for directory in (room, store):
            with suppress(OSError):
                (directory / name).unlink()
    return True


def _remove_unlocked(path: Path) -> bool:
    """Remove what no living process writes; whether it is gone."""
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
            pass  # no locks there: its age must do
        finally:
            os.close(file)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
    return not path.exists()
