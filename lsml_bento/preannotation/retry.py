"""Predict again the tasks that failed in a run over all tasks of a file.

The new output is written beside the old one and replaces it atomically. Each task keeps
its line, and a run that is killed at any moment loses nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lsml_bento.contract import Task
from lsml_bento.preannotation.durable_files import (
    OutputError,
    append,
    cut,
    save_checkpoint,
    writing,
)
from lsml_bento.preannotation.engine import Answer
from lsml_bento.preannotation.pipeline import Outcome, Page
from lsml_bento.preannotation.prediction_file import (
    FileCheckpoint,
    Paths,
    failure_of,
    line_of,
    row_of,
    swap,
)

_CHUNK = 1 << 20


@dataclass(frozen=True)
class FailedPage(Page):
    """Tasks that failed, with their rows in the list of failures."""

    rows: Sequence[dict[str, Any]] = ()


class Retry:
    """Writes the replacement of a complete output. Use it in a ``with`` block.

    Attributes:
        checkpoint: of the output, and of its replacement at the end.

    Raises:
        OutputError: if the replacement cannot be written; the output stays.
    """

    def __init__(self, output: Path, checkpoint: FileCheckpoint) -> None:
        self._paths = Paths.of(output)
        self.checkpoint = checkpoint
        self._is_whole = False
        self._read = 0
        self._failures = 0
        with writing(output):
            self._old = output.open("rb")
            self._new, self._failed = (cut(p, 0) for p in self._paths.replacements)

    def pages(self, size: int) -> Iterator[FailedPage]:
        """Yield the tasks that failed, as they are in the output."""
        at = 0
        with self._paths.output.open("rb") as output:
            rows = self._rows(0)
            while page := list(islice(rows, size)):
                at += len(page)
                tasks = [_task(row, output) for row in page if row["at"] is not None]
                yield FailedPage(tasks, at, rows=page)

    def write(self, page: FailedPage, answers: Sequence[Answer]) -> Outcome:
        """Copy the output up to each failed task, and write the task's new line."""
        outcome = Outcome()
        left = iter(answers)
        self._is_whole = False
        with writing(self._paths.output):
            for row in page.rows:
                self._read += 1
                answer = None if row["at"] is None else next(left)
                if answer is None:
                    self._keep(row)
                else:
                    self._put(row, answer, outcome)
        self._is_whole = True
        return outcome

    def __enter__(self) -> Retry:
        return self

    def __exit__(self, *_: object) -> None:
        """Copy the rest, and replace the output.

        An error later in the run keeps the pages that were written completely. If there
        are none, or the replacement cannot be written, the output stays as it is.
        """
        try:
            with writing(self._paths.output):
                with self._old, self._new, self._failed:
                    if self._is_whole:
                        self._finish()
                if self.checkpoint.swapping:
                    self.checkpoint = swap(self._paths, self.checkpoint)
        finally:
            if not self.checkpoint.swapping:
                for path in self._paths.replacements:
                    path.unlink(missing_ok=True)

    def _finish(self) -> None:
        for row in self._rows(self._read):
            self._keep(row)
        self._copy(self.checkpoint.output)
        for file in (self._new, self._failed):
            os.fsync(file.fileno())
        update = {
            "output": self._new.tell(),
            "failed": self._failed.tell(),
            "failures": self._failures,
            "swapping": True,
        }
        now = self.checkpoint.model_copy(update=update)
        save_checkpoint(self._paths.checkpoint, now)
        self.checkpoint = now

    def _rows(self, start: int) -> Iterator[dict[str, Any]]:
        with self._paths.failed.open("rb") as file:
            for line in islice(file, start, None):
                yield json.loads(line)

    def _put(
        self, row: dict[str, Any], answer: bytes | Exception, outcome: Outcome
    ) -> None:
        self._copy(row["at"])
        task = json.loads(self._old.readline())
        at = self._new.tell()
        line, found = line_of(task, answer, self.checkpoint.model_version)
        append(self._new, [line])
        if isinstance(answer, Exception):
            self._failures += 1
            failure = outcome.add_failure(row["where"], task, answer)
            append(self._failed, [row_of(failure, at)])
        else:
            outcome.add_prediction(is_empty=not found)

    def _keep(self, row: dict[str, Any]) -> None:
        at = None
        if row["at"] is not None:
            self._copy(row["at"])
            at = self._new.tell()
        self._failures += 1
        append(self._failed, [row_of(failure_of(row), at)])

    def _copy(self, end: int) -> None:
        """Copy the old output up to a byte."""
        while (left := end - self._old.tell()) > 0:
            chunk = self._old.read(min(left, _CHUNK))
            if not chunk:
                raise OutputError(
                    f"{self._paths.output} is shorter than its checkpoint says: "
                    "another program changed it; replace it with --overwrite"
                )
            append(self._new, [chunk])


def _task(row: dict[str, Any], output: Any) -> Task:
    output.seek(row["at"])
    task: Task = json.loads(output.readline())
    if task.get("id") is None:
        task["id"] = int(row["where"].rpartition(" ")[2])
    return task
