"""Read tasks from a file: JSON Lines, a JSON list, CSV or TSV.

Tasks are as Label Studio imports them: ``{"data": {..}}`` with or without an ``id``, or
only the data. JSON is read line by line or item by item, so that memory does not grow
with the file. CSV and TSV are read as a whole, since a column's type depends on all of
its rows.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, cast

import ijson

from lsml_bento.contract import Task
from lsml_bento.preannotation.pipeline import Failure, Page
from lsml_bento.preannotation.selection import PreannotationError

_CHUNK = 1 << 20


class TaskFileError(PreannotationError):
    """A file whose tasks cannot be read."""


class Position(NamedTuple):
    """The end of a task in its file.

    Attributes:
        offset: bytes up to it; in a JSON list, at least as many; in CSV and TSV, about
            as many.
        number: of the line, of the task in a JSON list, or of the row, from 1.
    """

    offset: int = 0
    number: int = 0


class Entry(NamedTuple):
    """A line, an item or a row: a task, or the reason why it is not one."""

    position: Position
    task: Task | None
    fault: str = ""


@dataclass(frozen=True)
class FilePage(Page):
    """Entries of a file; ``tasks`` holds those that are tasks."""

    entries: Sequence[Entry] = ()


class TaskFile:
    """A file of tasks.

    Args:
        path: a list of tasks, or one task, if it ends in ``.json``; a row per task
            below the names of the columns if it ends in ``.csv`` or ``.tsv``; else each
            line is a task.

    Attributes:
        unit: what numbers its entries: ``"line"``, ``"task"`` or ``"row"``.
        size: in bytes.
        ended: whether ``pages`` reached the end of the file.

    Raises:
        TaskFileError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended = False
        self._kind = path.suffix.lower()
        self.unit = {".json": "task", ".csv": "row", ".tsv": "row"}.get(
            self._kind, "line"
        )
        with self._open() as file:
            if not file.seekable():
                raise TaskFileError(
                    f"the tasks in {self.path} cannot be read: a run cannot be "
                    "resumed from a pipe; save the tasks as a file"
                )
            self.size = file.seek(0, 2)
            if self._kind == ".json":
                file.seek(0)
                self._check_list(file)

    def digest(self) -> str:
        """Return a digest of its contents."""
        digest = hashlib.blake2b(digest_size=16)
        with self._open() as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def pages(
        self, start: Position, size: int, limit: int | None = None
    ) -> Iterator[FilePage]:
        """Yield the entries after a position, with at most ``limit`` tasks.

        A page has at most ``size`` entries.

        Raises:
            TaskFileError: where the file cannot be read any further.
        """
        self.ended = False
        entries: list[Entry] = []
        left = limit
        if left == 0:
            return
        for entry in self._entries(start):
            entries.append(entry)
            if left is not None and entry.task is not None:
                left -= 1
            if len(entries) == size or left == 0:
                yield self._page(entries)
                entries = []
            if left == 0:
                return
        if entries:
            yield self._page(entries)
        self.ended = True

    def _entries(self, start: Position) -> Iterator[Entry]:
        with self._open() as file:
            try:
                if self.unit == "row":
                    yield from self._rows(file, start)
                else:
                    yield from (self._items if self.unit == "task" else _lines)(
                        file, start
                    )
            except OSError as error:
                raise TaskFileError(
                    f"the tasks in {self.path} cannot be read: {error.strerror}"
                ) from error

    def _items(self, file: BinaryIO, start: Position) -> Iterator[Entry]:
        number = 0
        _skip_mark(file)
        try:
            for item in ijson.items(file, self._prefix, use_float=True):
                number += 1
                if number > start.number:
                    yield _entry(Position(file.tell(), number), item)
        except (ijson.JSONError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise TaskFileError(
                f"{self.path} is not valid JSON after task {number}: {said}; the tasks "
                "before it were read"
                + ("" if self._prefix else "; name it .jsonl if each line is a task")
            ) from error

    def _check_list(self, file: BinaryIO) -> None:
        _skip_mark(file)
        first = file.read(_CHUNK).lstrip()[:1]
        self._prefix = "" if first == b"{" else "item"
        if first not in (b"[", b"{"):
            raise TaskFileError(
                f"{self.path} does not hold a JSON list of tasks: it begins with "
                f"{first.decode(errors='replace')!r}; write [ and ] around the tasks"
            )

    def _rows(self, file: BinaryIO, start: Position) -> Iterator[Entry]:
        """Read CSV or TSV with the calls that Label Studio makes.

        Source: Label Studio 1.23.2 ``data_import/models.py``.
        """
        import pandas  # noqa: PLC0415 - slow to import, and needed here only

        first = file.readline()
        file.seek(0)
        separator = ";" if first.count(b";") > first.count(b",") else ","
        try:
            table = pandas.read_csv(
                file, sep="\t" if self._kind == ".tsv" else separator
            )
        except ValueError as error:  # of the parser, or of the text's encoding
            said = " ".join(str(error).split())[:200]
            raise TaskFileError(
                f"{self.path} cannot be read as {self._kind[1:].upper()}: {said}; save "
                "it as UTF-8, with the names of the columns in the first row"
            ) from error
        table = table.astype(object).where(table.notna(), "")
        left = table.iloc[start.number :].to_dict("records")
        for number, row in enumerate(left, start.number + 1):
            task = cast(Task, {"data": row})
            yield Entry(Position(self.size * number // len(table), number), task)

    def _page(self, entries: list[Entry]) -> FilePage:
        tasks = [
            task
            if task.get("id") is not None
            else {**task, "id": entry.position.number}
            for entry in entries
            if (task := entry.task) is not None
        ]
        unread = [
            Failure(f"{self.unit} {entry.position.number}", None, entry.fault)
            for entry in entries
            if entry.task is None
        ]
        return FilePage(tasks, entries[-1].position.offset, unread, entries)

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise TaskFileError(
                f"the tasks in {self.path} cannot be read: {error.strerror}"
            ) from error


def _lines(file: BinaryIO, start: Position) -> Iterator[Entry]:
    offset, number = start
    file.seek(offset)
    for line in file:
        offset, number = offset + len(line), number + 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        position = Position(offset, number)
        try:
            yield _entry(position, json.loads(line, parse_constant=_refuse_constant))
        except (ValueError, RecursionError) as error:
            said = " ".join(str(error).split())[:200]
            yield Entry(position, None, f"invalid JSON: {said}")


def _entry(position: Position, value: Any) -> Entry:
    """Return the task that Label Studio would create from a value.

    Source: Label Studio 1.23.2 ``data_import/models.py``.
    """
    if not isinstance(value, dict) or not value:
        found = "an empty object" if value == {} else type(value).__name__
        return Entry(position, None, f'not a task, {{"data": {{..}}}}, but {found}')
    task = value if value.get("data") else {"data": value}
    if not isinstance(task["data"], dict):
        found = type(task["data"]).__name__
        return Entry(position, None, f'"data" must be an object, not {found}')
    if not isinstance(task.get("id"), (int, str, type(None))):
        found = type(task["id"]).__name__
        return Entry(position, None, f'"id" must be a number or a string, not {found}')
    if not isinstance(task.get("predictions"), (list, type(None))):
        found = type(task["predictions"]).__name__
        return Entry(position, None, f'"predictions" must be a list, not {found}')
    return Entry(position, task)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _skip_mark(file: BinaryIO) -> None:
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
