"""Files that survive a kill: checkpoints, locks, and lines that are appended."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from lsml_bento.preannotation.selection import PreannotationError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class OutputError(PreannotationError):
    """A file that cannot be written, or belongs to another run."""


class Checkpoint(BaseModel):
    """How far a run is."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


_Checkpoint = TypeVar("_Checkpoint", bound=Checkpoint)


def load_checkpoint(path: Path, kind: type[_Checkpoint]) -> _Checkpoint | None:
    """Read a checkpoint; None if there is no such file."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PreannotationError(
            f"the checkpoint {path} cannot be read: {error.strerror}"
        ) from error
    except ValidationError as error:
        raise PreannotationError(
            f"{path} is not a checkpoint of this version of lsml-bento: start again "
            "with --overwrite, or remove the file"
        ) from error


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace a checkpoint atomically."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(checkpoint.model_dump_json().encode())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file lock beside ``path``, so that no other run writes the same files.

    Raises:
        PreannotationError: if another run holds it, or it cannot be created.
    """
    lock_path = path.with_name(f".{path.name}.lock")
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise PreannotationError(
            f"another run is writing {path}: wait until it ends, or stop it"
        ) from error
    except OSError as error:
        raise PreannotationError(
            f"cannot write beside {path}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        lock_path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError with the file's name and what to do."""
    try:
        yield
    except OSError as error:
        advice = (
            "free some space"
            if error.errno in _FULL
            else "check that this user may write there"
        )
        raise OutputError(
            f"{error.filename or output} cannot be written: {error.strerror}; "
            f"{advice} and run the same command again to continue"
        ) from error


def cut(path: Path, size: int) -> FileIO:
    """Truncate a file to ``size`` bytes and open it at its end."""
    file = FileIO(path, "r+" if path.exists() else "w+")
    file.truncate(size)
    file.seek(size)
    return file


def append(file: FileIO, lines: Iterable[bytes]) -> None:
    """Write all lines; a single call on an unbuffered file may write fewer bytes."""
    left = memoryview(b"".join(lines))
    while left:
        left = left[file.write(left) :]
