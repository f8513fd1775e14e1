"""Tasks in a file: JSON Lines line by line, or a JSON list item by item.

Tasks are what Label Studio imports: ``{"data": {..}}`` with or without an ``id``, or
the plain data. Memory does not grow with the file.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import ijson

from lsml_bento.contract import Task
from lsml_bento.preannotation.selection import PreannotationError
from lsml_bento.preannotation.tally import Failure, Page

_CHUNK = 1 << 20


class TaskFileError(PreannotationError):
    """A file whose tasks can not be read."""


class Place(NamedTuple):
    """The end of a task in its file.

    Attributes:
        offset: bytes up to it; in a JSON list, at least those.
        number: of the line, or of the task in a JSON list, from 1.
    """

    offset: int = 0
    number: int = 0


class Entry(NamedTuple):
    """A line or an item: a task, or why it is none."""

    place: Place
    task: Task | None
    fault: str = ""


@dataclass(frozen=True)
class FilePage(Page):
    """Entries of a file; ``tasks`` are those that are tasks."""

    entries: Sequence[Entry] = ()


class TaskFile:
    """A file of tasks.

    Args:
        path: ends in ``.json`` for a list of tasks, else each line is one.

    Attributes:
        unit: what its entries are numbered by.
        size: in bytes.
        ended: whether ``pages`` gave the last page of the file, and was asked for more.

    Raises:
        TaskFileError: if it can not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended = False
        self._is_list = path.suffix.lower() == ".json"
        self.unit = "task" if self._is_list else "line"
        with self._open() as file:
            if not file.seekable():
                raise TaskFileError(
                    f"the tasks in {self.path} can not be read: it is a pipe, in which "
                    "no run can go on where one stopped; save it as a file"
                )
            self.size = file.seek(0, 2)
            if self._is_list:
                file.seek(0)
                self._check_list(file)

    def digest(self) -> str:
        """What tells its contents from those of another file."""
        digest = hashlib.blake2b(digest_size=16)
        with self._open() as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def pages(
        self, start: Place, size: int, limit: int | None = None
    ) -> Iterator[FilePage]:
        """The entries behind a place, in order.

        Args:
            start: the end of what was read before.
            size: entries of a page at most.
            limit: tasks at most.

        Raises:
            TaskFileError: where the file can not be read any further.
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

    def _entries(self, start: Place) -> Iterator[Entry]:
        with self._open() as file:
            try:
                yield from (self._items if self._is_list else _lines)(file, start)
            except OSError as error:
                raise TaskFileError(
                    f"the tasks in {self.path} can not be read: {error.strerror}"
                ) from error

    def _items(self, file: BinaryIO, start: Place) -> Iterator[Entry]:
        number = 0
        _skip_mark(file)
        try:
            for item in ijson.items(file, "item", use_float=True):
                number += 1
                if number > start.number:
                    yield _entry(Place(file.tell(), number), item)
        except (ijson.JSONError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise TaskFileError(
                f"{self.path} is no JSON behind its task {number}: {said}; what is "
                "before it was read"
            ) from error

    def _check_list(self, file: BinaryIO) -> None:
        _skip_mark(file)
        first = file.read(_CHUNK).lstrip()[:1]
        if first != b"[":
            raise TaskFileError(
                f"{self.path} holds no JSON list of tasks: it begins with "
                f"{first.decode(errors='replace')!r}; name a file with a task on each "
                "line .jsonl"
            )

    def _page(self, entries: list[Entry]) -> FilePage:
        tasks = [
            task if task.get("id") is not None else {**task, "id": entry.place.number}
            for entry in entries
            if (task := entry.task) is not None
        ]
        unread = [
            Failure(f"{self.unit} {entry.place.number}", None, entry.fault)
            for entry in entries
            if entry.task is None
        ]
        return FilePage(tasks, entries[-1].place.offset, unread, entries)

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise TaskFileError(
                f"the tasks in {self.path} can not be read: {error.strerror}"
            ) from error


def _lines(file: BinaryIO, start: Place) -> Iterator[Entry]:
    offset, number = start
    file.seek(offset)
    for line in file:
        offset, number = offset + len(line), number + 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        place = Place(offset, number)
        try:
            yield _entry(place, json.loads(line, parse_constant=_refuse_constant))
        except (ValueError, RecursionError) as error:
            said = " ".join(str(error).split())[:200]
            yield Entry(place, None, f"it is no JSON: {said}")


def _entry(place: Place, value: Any) -> Entry:
    """The task that Label Studio would make of a value.

    Source: Label Studio 1.23.2 ``data_import/models.py``.
    """
    if not isinstance(value, dict) or not value:
        found = "an empty object" if value == {} else type(value).__name__
        return Entry(place, None, f'it is no task, {{"data": {{..}}}}, but {found}')
    task = value if value.get("data") else {"data": value}
    if not isinstance(task["data"], dict):
        found = type(task["data"]).__name__
        return Entry(place, None, f"its data is no object, but {found}")
    if not isinstance(task.get("id"), (int, str, type(None))):
        found = type(task["id"]).__name__
        return Entry(place, None, f"its id is neither a number nor a text, but {found}")
    if not isinstance(task.get("predictions"), (list, type(None))):
        found = type(task["predictions"]).__name__
        return Entry(place, None, f"its predictions are no list, but {found}")
    return Entry(place, task)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _skip_mark(file: BinaryIO) -> None:
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
