"""The output file of a run. A run that was killed at any moment can be resumed.

Beside OUTPUT are OUTPUT.checkpoint and OUTPUT.failed.jsonl, the list of failures. What
the checkpoint does not count is cut off when a run resumes, so that no line is there
twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lsml_bento.contract import Task
from lsml_bento.preannotation.durable_files import (
    Checkpoint,
    OutputError,
    append,
    cut,
    load_checkpoint,
    save_checkpoint,
    writing,
)
from lsml_bento.preannotation.engine import Answer
from lsml_bento.preannotation.pipeline import (
    SHOWN,
    Failure,
    Outcome,
    predictions_of,
)
from lsml_bento.preannotation.task_file import FilePage, Position

_SAVE_EVERY_S = 1.0


class FileCheckpoint(Checkpoint):
    """How far an output file is.

    Attributes:
        tasks: digest of the task file.
        label_config: digest of the label config.
        model_version: that predicts.
        offset: bytes of the task file that are done, if it has lines.
        number: lines or tasks of it that are done.
        done: tasks in the output, including those that failed.
        output: bytes of the output that count.
        failed: bytes of the list of failures that count.
        failures: how many it lists.
        ended: whether all tasks were read.
        swapping: whether replacements of both files are complete and must be moved to
            their final names.
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
        """Say how another run differs in its inputs; None if it does not."""
        if self.tasks != other.tasks:
            return "of other tasks"
        if self.label_config != other.label_config:
            return "for another label config"
        if self.model_version != other.model_version:
            return f"by the model version {other.model_version!r}"
        return None


class Paths(NamedTuple):
    """An output file and the files beside it."""

    output: Path
    failed: Path
    checkpoint: Path

    @classmethod
    def of(cls, output: Path) -> Paths:
        return cls(
            output,
            output.with_name(f"{output.name}.failed.jsonl"),
            output.with_name(f"{output.name}.checkpoint"),
        )

    @property
    def replacements(self) -> tuple[Path, Path]:
        """Files that will replace the output and the list of failures."""
        return (
            self.output.with_name(f"{self.output.name}.next"),
            self.failed.with_name(f"{self.failed.name}.next"),
        )


class PredictionFile:
    """Writes answers to the tasks of a file, in order. Use it in a ``with`` block.

    No file is changed before the first answers are written.

    Args:
        output: each line is a task with its ``predictions``.
        start: the checkpoint of a run that has not begun.
        unit: what numbers the entries of the task file, e.g. ``"line"``.
        overwrite: ignore an existing output.

    Attributes:
        checkpoint: how far the output is; saved once a second and at the end.
        ended: set it when all tasks were read.

    Raises:
        OutputError: if the output belongs to another run or cannot be read.
    """

    def __init__(
        self, output: Path, start: FileCheckpoint, unit: str, *, overwrite: bool = False
    ) -> None:
        self.paths = Paths.of(output)
        self.ended = False
        self._unit = unit
        self._is_cut = False
        self._save_at = 0.0
        self._files: tuple[FileIO, FileIO] | None = None
        with writing(output):
            found = None if overwrite else _resumed(self.paths, start)
        self.checkpoint = found or start

    @property
    def position(self) -> Position:
        """Where to continue reading."""
        return Position(self.checkpoint.offset, self.checkpoint.number)

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Flush to disk what was written, unless writing failed.

        If that fails, the last saved checkpoint stays.
        """
        ended = self.ended and not self._is_cut
        try:
            if isinstance(error, OutputError) or not (ended or self._files):
                return
            self.checkpoint = self.checkpoint.model_copy(update={"ended": ended})
            with writing(self.paths.output):
                self._save()
        finally:
            for file in self._files or ():
                file.close()

    def write(self, page: FilePage, answers: Sequence[Answer]) -> Outcome:
        """Append the lines of a page, unless tasks up to its end were not reached.

        Raises:
            OutputError: if they cannot be written; what the checkpoint counts stays.
        """
        self._is_cut = self._is_cut or None in answers
        outcome = Outcome()
        if self._is_cut:
            return outcome
        left, unread = iter(answers), iter(page.unread)
        lines: list[bytes] = []
        rows: list[bytes] = []
        end = self.checkpoint.output
        for entry in page.entries:
            if entry.task is None:
                failure = next(unread)
                outcome.failures.append(failure)
                rows.append(row_of(failure, None))
                continue
            answer = next(left)
            assert answer is not None  # noqa: S101 - checked above
            line, found = line_of(entry.task, answer, self.checkpoint.model_version)
            if isinstance(answer, Exception):
                where = f"{self._unit} {entry.position.number}"
                failure = outcome.add_failure(where, entry.task, answer)
                rows.append(row_of(failure, end))
            else:
                outcome.add_prediction(is_empty=not found)
            lines.append(line)
            end += len(line)
        with writing(self.paths.output):
            output, failed = self._opened()
            append(output, lines)
            append(failed, rows)
            self._advance(page.entries[-1].position, lines, rows)
        return outcome

    def _opened(self) -> tuple[FileIO, FileIO]:
        if self._files is None:
            was = self.checkpoint
            if not was.output:
                # A run that is killed before its first save can then be resumed, and
                # does not look for what an older checkpoint counts.
                save_checkpoint(self.paths.checkpoint, was)
            self._files = (
                cut(self.paths.output, was.output),
                cut(self.paths.failed, was.failed),
            )
        return self._files

    def _advance(
        self, position: Position, lines: list[bytes], rows: list[bytes]
    ) -> None:
        was = self.checkpoint
        self.checkpoint = was.model_copy(
            update={
                "offset": position.offset,
                "number": position.number,
                "done": was.done + len(lines),
                "output": was.output + sum(map(len, lines)),
                "failed": was.failed + sum(map(len, rows)),
                "failures": was.failures + len(rows),
            }
        )
        if time.monotonic() >= self._save_at:
            self._save()

    def _save(self) -> None:
        for file in self._opened():
            os.fsync(file.fileno())
        save_checkpoint(self.paths.checkpoint, self.checkpoint)
        self._save_at = time.monotonic() + _SAVE_EVERY_S


def _resumed(paths: Paths, start: FileCheckpoint) -> FileCheckpoint | None:
    """Return the checkpoint of an earlier run of the same command; None if none."""
    output, failed, path = paths
    found = load_checkpoint(path, FileCheckpoint)
    if found is None:
        if output.exists() and output.stat().st_size:
            raise OutputError(
                f"{output} exists, and there is no {path.name} beside it to resume "
                "from: choose another output, or pass --overwrite"
            )
        return None
    if difference := start.differs_in(found):
        raise OutputError(
            f"{output} holds predictions {difference}: choose another output, or pass "
            "--overwrite"
        )
    if found.swapping:
        found = swap(paths, found)
    for file, counted in ((output, found.output), (failed, found.failed)):
        size = file.stat().st_size if file.exists() else 0
        if size < counted:
            raise OutputError(
                f"{file} has {size} bytes but its checkpoint counts {counted}: another "
                f"program changed it; replace {output} with --overwrite"
            )
    return found


def swap(paths: Paths, now: FileCheckpoint) -> FileCheckpoint:
    """Move both replacements to their final names, also after a kill in between.

    Their checkpoint is already saved. If moving fails, the next run tries again.
    """
    for replacement, path in zip(paths.replacements, paths[:2], strict=True):
        if replacement.exists():
            replacement.replace(path)
    done = now.model_copy(update={"swapping": False})
    save_checkpoint(paths.checkpoint, done)
    return done


# Lines


def line_of(task: Task, answer: bytes | Exception, version: str) -> tuple[bytes, bool]:
    """Return a line of the output, and whether it has a new prediction.

    The task's predictions by other model versions stay. An exported task may have ids
    in place of predictions, annotations and drafts; importing these would fail, so they
    are left out.
    """
    whole: dict[str, Any] = {
        name: [one for one in task.get(name) or [] if isinstance(one, dict)]
        for name in ("annotations", "drafts", "predictions")
        if name in task
    }
    kept = [
        prediction
        for prediction in whole.get("predictions", [])
        if prediction.get("model_version") != version
    ]
    new = predictions_of(answer, version) if isinstance(answer, bytes) else []
    return _to_line({**task, **whole, "predictions": kept + new}), bool(new)


def row_of(failure: Failure, at: int | None) -> bytes:
    """Return a line of the list of failures.

    The task's line begins at byte ``at`` of the output; None if it has no line.
    """
    where, task_id, reason = failure
    return _to_line({"where": where, "id": task_id, "reason": reason, "at": at})


def failure_of(row: dict[str, Any]) -> Failure:
    """Return the failure in a line of the list."""
    return Failure(row["where"], row["id"], row["reason"])


def first_failures(path: Path) -> list[Failure]:
    """Return the first failures of a list; none if there is no such file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [failure_of(json.loads(line)) for line in islice(file, SHOWN)]


def has_failed_tasks(path: Path) -> bool:
    """Whether a list of failures names tasks, not only entries that are not tasks."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return any(json.loads(line)["at"] is not None for line in file)


def _to_line(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape
        return json.dumps(value).encode() + b"\n"
