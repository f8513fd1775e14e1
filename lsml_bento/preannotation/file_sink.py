"""Predictions into a file, so that a run killed at any moment is only resumed.

Beside OUTPUT stand OUTPUT.checkpoint and OUTPUT.failed.jsonl. What the checkpoint does
not count is cut off before a run goes on, so that each line is there once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from lsml_bento.preannotation.checkpoint import (
    FileCheckpoint,
    load_checkpoint,
    save_checkpoint,
)
from lsml_bento.preannotation.output_file import (
    OutputError,
    Paths,
    append,
    cut,
    line_of,
    on_disk,
    row_of,
    swap,
    writing,
)
from lsml_bento.preannotation.selection import Answer
from lsml_bento.preannotation.tally import Outcome
from lsml_bento.preannotation.task_file import FilePage, Place

_FLUSH_EVERY_S = 1.0


class PredictionFile:
    """Takes answers to tasks of a file, in order, within a ``with`` block.

    Nothing is touched before the first answers come.

    Args:
        output: each line becomes a task with its ``predictions``.
        begun: what the run is about, at its beginning.
        unit: what the tasks' entries are numbered by, ``"line"`` or ``"task"``.
        overwrite: forget what is there.

    Attributes:
        paths: of the output, and of what stands beside it.
        checkpoint: how far the output is; stored once a second, and at the end.
        ended: to be set where all tasks were read.

    Raises:
        OutputError: if the output is another run's, or can not be read.
    """

    def __init__(
        self, output: Path, begun: FileCheckpoint, unit: str, *, overwrite: bool = False
    ) -> None:
        self.paths = Paths.of(output)
        self.ended = False
        self._unit = unit
        self._is_cut = False
        self._due = 0.0
        self._files: tuple[FileIO, FileIO] | None = None
        with writing(output):
            found = None if overwrite else _resumed(self.paths, begun)
        self.checkpoint = found or begun

    @property
    def place(self) -> Place:
        """Where reading goes on."""
        return Place(self.checkpoint.offset, self.checkpoint.number)

    def __enter__(self) -> PredictionFile:
        """The output."""
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Have everything on the disk that was written, unless that is what failed.

        Raises:
            OutputError: if it can not be written; what was stored last stays.
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
        """Append the lines of a page, unless it or one before it was not reached.

        Raises:
            OutputError: if they can not be written; what the checkpoint counts stays.
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
            assert answer is not None  # noqa: S101 - looked at above
            line, found = line_of(entry.task, answer, self.checkpoint.model_version)
            if isinstance(answer, Exception):
                where = f"{self._unit} {entry.place.number}"
                failure = outcome.failed(where, entry.task, answer)
                rows.append(row_of(failure, end))
            else:
                outcome.answered(found=found)
            lines.append(line)
            end += len(line)
        with writing(self.paths.output):
            output, failed = self._opened()
            append(output, lines)
            append(failed, rows)
            self._move(page.entries[-1].place, lines, rows)
        return outcome

    def _opened(self) -> tuple[FileIO, FileIO]:
        if self._files is None:
            was = self.checkpoint
            if not was.output:
                # So that a run that ends before the next one is stored is gone on with,
                # and nobody looks for what an older one counts.
                save_checkpoint(self.paths.checkpoint, was)
            self._files = (
                cut(self.paths.output, was.output),
                cut(self.paths.failed, was.failed),
            )
        return self._files

    def _move(self, place: Place, lines: list[bytes], rows: list[bytes]) -> None:
        was = self.checkpoint
        self.checkpoint = was.model_copy(
            update={
                "offset": place.offset,
                "number": place.number,
                "done": was.done + len(lines),
                "output": was.output + sum(map(len, lines)),
                "failed": was.failed + sum(map(len, rows)),
                "failures": was.failures + len(rows),
            }
        )
        if time.monotonic() >= self._due:
            self._save()

    def _save(self) -> None:
        on_disk(*self._opened())
        save_checkpoint(self.paths.checkpoint, self.checkpoint)
        self._due = time.monotonic() + _FLUSH_EVERY_S


def _resumed(paths: Paths, begun: FileCheckpoint) -> FileCheckpoint | None:
    """The checkpoint of an earlier run of the same command; None before the first."""
    output, failed, path = paths
    found = load_checkpoint(path, FileCheckpoint)
    if found is None:
        if output.exists() and output.stat().st_size:
            raise OutputError(
                f"{output} exists and there is no {path.name} beside it to go on from: "
                "name another output, or --overwrite it"
            )
        return None
    if difference := begun.differs_in(found):
        raise OutputError(
            f"{output} holds predictions {difference}: name another output, or "
            "--overwrite it"
        )
    if found.swapping:
        found = swap(paths, found)
    for file, counted in ((output, found.output), (failed, found.failed)):
        size = file.stat().st_size if file.exists() else 0
        if size < counted:
            raise OutputError(
                f"{file} has {size} bytes where its checkpoint counts {counted}, so "
                f"that something else changed it: --overwrite {output}"
            )
    return found
