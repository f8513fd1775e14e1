"""A project of a Label Studio that is in memory, and fails on request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lsml_bento.contract import Project, Task
from lsml_bento.preannotation.selection import (
    Predicted,
    Refused,
    ResultUnknown,
    Selection,
    Unreachable,
)
from tests.doubles import CONFIG

PROJECT = Project("1", 1795426489)


class ProjectInMemory:
    """A filling of ``ProjectPredictions``.

    Args:
        texts: of its tasks, whose ids are 1, 2, ..
        page_size: tasks in a page.

    Attributes:
        stored: every prediction, by task.
        faults: what the next POSTs do: ``"lost"`` stores nothing and ``"stored"`` all,
            and both say that their fate is unknown; ``"half"`` stores half of them.
        refuses: tasks whose predictions are refused.
        breaks: tasks whose predictions make a POST fail, of which nothing is stored.
        away: whether the next page is not given.
        posts: how many predictions each POST had.
    """

    def __init__(self, *texts: str, page_size: int = 3) -> None:
        self.tasks: list[Task] = [
            {"id": number, "data": {"text": text}}
            for number, text in enumerate(texts, 1)
        ]
        self.page_size = page_size
        self.stored: dict[int, list[dict[str, Any]]] = {}
        self.faults: list[str] = []
        self.refuses: set[int] = set()
        self.breaks: set[int] = set()
        self.away = False
        self.posts: list[int] = []
        self.deleted: list[int] = []

    def project(self) -> tuple[Project, str]:
        return PROJECT, CONFIG

    def count(self, selection: Selection) -> int | None:
        return len(self.tasks)

    def pages(self, selection: Selection, above: int = -1) -> Iterator[list[Task]]:
        while True:
            if self.away:
                self.away = False
                raise Unreachable("Label Studio is away")
            left = [task for task in self.tasks if task["id"] > above]
            if selection.missing is not None:
                had = self.predicted(selection.missing, [t["id"] for t in left])
                left = [task for task in left if task["id"] not in had]
            if not left:
                return
            yield left[: self.page_size]
            above = left[: self.page_size][-1]["id"]

    def predicted(self, version: str, task_ids: Sequence[int]) -> set[int]:
        return {
            task_id
            for task_id in task_ids
            for one in self.stored.get(task_id, [])
            if one["model_version"] == version
        }

    def write(self, predictions: Sequence[Predicted]) -> None:
        self.posts.append(len(predictions))
        if refused := {one.task_id for one in predictions} & self.refuses:
            raise Refused(f"Label Studio refuses the predictions of {refused}")
        if {one.task_id for one in predictions} & self.breaks:
            raise ResultUnknown("Label Studio answered 500")
        fault = self.faults.pop(0) if self.faults else ""
        kept = {"lost": 0, "half": len(predictions) // 2}.get(fault, len(predictions))
        for task_id, prediction in predictions[:kept]:
            self.stored.setdefault(task_id, []).append(prediction)
        if fault:
            raise ResultUnknown("the connection was lost")

    def delete(self, version: str, task_ids: Sequence[int]) -> None:
        for task_id in task_ids:
            had = self.stored.get(task_id, [])
            self.deleted += [task_id] * len(had)
            kept = [one for one in had if one["model_version"] != version]
            self.stored[task_id] = kept

    def close(self) -> None:
        """Nothing is open."""

    def counts(self) -> list[int]:
        """How many predictions each task has."""
        return [len(self.stored.get(task["id"], [])) for task in self.tasks]
