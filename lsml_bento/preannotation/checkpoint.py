"""How far a run of ``preannotate`` is, in a file that is replaced whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from lsml_bento.preannotation.selection import PreannotationError


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FileCheckpoint(_Kept):
    """How far predictions into a file are.

    Attributes:
        tasks: the digest of the file that tasks are read from.
        label_config: its digest.
        model_version: that predicts.
        offset: bytes of the tasks' file that are done, where it has lines.
        number: lines or tasks of it that are done.
        done: tasks in the output, the failed ones among them.
        output: bytes of the output that count.
        failed: bytes that count of the file of failures.
        failures: how many it lists.
        ended: whether all tasks were read.
        swapping: whether both files have successors that are to take their places.
    """

    tasks: str
    label_config: str
    model_version: str
    offset: int = 0
    number: int = 0
    done: int = 0
    output: int = 0
    failed: int = 0
    failures: int = 0
    ended: bool = False
    swapping: bool = False

    def differs_in(self, other: FileCheckpoint) -> str | None:
        """What another run was about, in words; None if about the same."""
        if self.tasks != other.tasks:
            return "of other tasks"
        if self.label_config != other.label_config:
            return "for another label config"
        if self.model_version != other.model_version:
            return f"by the model version {other.model_version!r}"
        return None


class ProjectCheckpoint(_Kept):
    """How far predictions into a project are.

    Attributes:
        model_version: that predicts.
        selection: names the tasks that were selected.
        above: the task up to which predictions were overwritten.
        pending: tasks whose predictions were being sent; empty once they were stored.
    """

    model_version: str
    selection: str
    above: int = -1
    pending: list[int] = []


_Checkpoint = TypeVar("_Checkpoint", bound=_Kept)


def load_checkpoint(path: Path, shape: type[_Checkpoint]) -> _Checkpoint | None:
    """The checkpoint of a file; None if there is none.

    Raises:
        PreannotationError: if it can not be read.
    """
    try:
        return shape.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PreannotationError(
            f"the checkpoint {path} can not be read: {error.strerror}"
        ) from error
    except ValidationError as error:
        raise PreannotationError(
            f"{path} is no checkpoint of this version of lsml-bento: start anew with "
            "--overwrite, or remove it"
        ) from error


def save_checkpoint(path: Path, checkpoint: _Kept) -> None:
    """Put a checkpoint in the place of the one before, whole or not at all.

    Raises:
        OSError: if it can not be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(checkpoint.model_dump_json().encode())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep others from running with the same checkpoint.

    Raises:
        PreannotationError: if somebody does, or the lock beside it can not be made.
    """
    place = path.with_name(f".{path.name}.lock")
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise PreannotationError(
            f"another run writes {path} now: wait for its end, or stop it"
        ) from error
    except OSError as error:
        raise PreannotationError(
            f"nothing can be written beside {path}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        lock.release()
