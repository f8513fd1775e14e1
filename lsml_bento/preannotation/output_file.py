"""An output of ``preannotate``: its lines, and the files that stand beside it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lsml_bento.contract import Task
from lsml_bento.preannotation.checkpoint import FileCheckpoint, save_checkpoint
from lsml_bento.preannotation.selection import PreannotationError, predictions_of
from lsml_bento.preannotation.tally import SHOWN, Failure

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class OutputError(PreannotationError):
    """An output that can not be written, or is not this run's."""


class Paths(NamedTuple):
    """An output and what stands beside it."""

    output: Path
    failed: Path
    checkpoint: Path

    @classmethod
    def of(cls, output: Path) -> Paths:
        """Those of an output."""
        return cls(
            output,
            output.with_name(f"{output.name}.failed.jsonl"),
            output.with_name(f"{output.name}.checkpoint"),
        )

    @property
    def successors(self) -> tuple[Path, Path]:
        """What takes the places of the output and of the list of failures."""
        return (
            self.output.with_name(f"{self.output.name}.next"),
            self.failed.with_name(f"{self.failed.name}.next"),
        )


def line_of(task: Task, answer: bytes | Exception, version: str) -> tuple[bytes, bool]:
    """A line of an output, and whether there is a prediction in it.

    The task's predictions by other model versions stay.
    """
    kept = [
        prediction
        for prediction in task.get("predictions") or []
        if not isinstance(prediction, dict)
        or prediction.get("model_version") != version
    ]
    new = predictions_of(answer, version) if isinstance(answer, bytes) else []
    return to_line({**task, "predictions": kept + new}), bool(new)


def row_of(failure: Failure, at: int | None) -> bytes:
    """A line of the list of failures.

    Args:
        failure: told in it.
        at: where the task's line begins in the output, in bytes; None if there is none.
    """
    where, task_id, reason = failure
    return to_line({"where": where, "id": task_id, "reason": reason, "at": at})


def failure_of(row: dict[str, Any]) -> Failure:
    """The failure that a line of the list tells."""
    return Failure(row["where"], row["id"], row["reason"])


def first_failures(path: Path) -> list[Failure]:
    """The first failures of a list; none if there is no such file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [failure_of(json.loads(line)) for line in islice(file, SHOWN)]


def has_failed_tasks(path: Path) -> bool:
    """Whether a list of failures names a task, and not only what is none."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return any(json.loads(line)["at"] is not None for line in file)


def to_line(value: dict[str, Any]) -> bytes:
    """JSON and an end of line."""
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape
        return json.dumps(value).encode() + b"\n"


# Files


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Say which output could not be written, and what to do.

    Raises:
        OutputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        advice = (
            "free some space"
            if error.errno in _FULL
            else "see that this user can write there"
        )
        raise OutputError(
            f"{error.filename or output} can not be written: {error.strerror}; "
            f"{advice} and run the same command again, which goes on where this one "
            "stopped"
        ) from error


def cut(path: Path, size: int) -> FileIO:
    """A file, opened at the end of its first bytes; what was behind them is gone."""
    file = FileIO(path, "r+" if path.exists() else "w+")
    file.truncate(size)
    file.seek(size)
    return file


def append(file: FileIO, lines: Iterable[bytes]) -> None:
    """Write all of it, which one call on an unbuffered file may not.

    Raises:
        OSError: if the disk is full.
    """
    left = memoryview(b"".join(lines))
    while left:
        left = left[file.write(left) :]


def swap(paths: Paths, now: FileCheckpoint) -> FileCheckpoint:
    """Put both successors in their places: again, if a kill came between.

    Args:
        paths: of the output.
        now: the checkpoint of the successors, stored already.

    Raises:
        OSError: if it can not be done; it is done at the next start.
    """
    for successor, path in zip(paths.successors, paths[:2], strict=True):
        if successor.exists():
            successor.replace(path)
    done = now.model_copy(update={"swapping": False})
    save_checkpoint(paths.checkpoint, done)
    return done


def on_disk(*files: FileIO) -> None:
    """Have what was written on the disk."""
    for file in files:
        os.fsync(file.fileno())
