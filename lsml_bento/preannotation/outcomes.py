"""Pages of tasks, the answers to them, and counts of what became of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lsml_bento.contract import Task
from lsml_bento.prediction.failures import for_client

Answer = bytes | Exception | None
"""A prediction as JSON, the error of a task, or None for a task that was not reached
before the run was stopped."""

SHOWN = 20
"""Failures kept in memory and listed at the end; a file lists all of them."""


class Failure(NamedTuple):
    """A task that was not predicted, or an entry that is not a task.

    Attributes:
        where: e.g. ``"line 17"`` of a file; empty for a task of a project.
        task_id: None if the task has none.
        reason: one sentence.
    """

    where: str
    task_id: int | str | None
    reason: str

    def __str__(self) -> str:
        task = "" if self.task_id is None else f"task {self.task_id!r:.50}"
        named = f"{self.where} ({task})" if self.where and task else self.where or task
        return f"{named}: {self.reason}"


@dataclass(frozen=True)
class Page:
    """Tasks that are read, predicted and written together.

    Attributes:
        tasks: the input of ``predict``.
        at: the position of the page's end, in the unit of the run's total.
        unread: entries among them that are not tasks.
    """

    tasks: list[Task]
    at: int
    unread: Sequence[Failure] = ()


@dataclass
class Outcome:
    """What became of the tasks of one page.

    Attributes:
        predicted: tasks with an answer.
        empty: predicted tasks for which the model returned no prediction.
        skipped: tasks that already had a prediction of the model version.
        failures: in the order of the tasks.
    """

    predicted: int = 0
    empty: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add_prediction(self, *, is_empty: bool) -> None:
        """Count a task that was predicted."""
        self.predicted += 1
        self.empty += is_empty

    def add_failure(self, where: str, task: Task, error: Exception) -> Failure:
        """Count a task that failed."""
        reason = " ".join(str(for_client(error)).split())
        failure = Failure(where, task.get("id"), reason)
        self.failures.append(failure)
        return failure


@dataclass
class Totals:
    """What became of the tasks of a run.

    Attributes:
        failures: the first ``SHOWN``.
        at: how far the run is, in the unit of its total.
    """

    predicted: int = 0
    empty: int = 0
    skipped: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    at: int = 0

    @property
    def tasks(self) -> int:
        """Tasks that were tried."""
        return self.predicted + self.failed

    def add(self, outcome: Outcome, at: int) -> None:
        """Add the outcome of a page that ends at a position."""
        self.predicted += outcome.predicted
        self.empty += outcome.empty
        self.skipped += outcome.skipped
        self.failed += len(outcome.failures)
        self.failures += outcome.failures[: SHOWN - len(self.failures)]
        self.at = max(self.at, at)


def predictions_of(answer: bytes, version: str) -> list[dict[str, Any]]:
    """Return the predictions in an answer, all labelled with this model version.

    A version that the model wrote into a prediction is replaced: the run looks for its
    predictions by ``version``.
    """
    entry = json.loads(answer)
    found = entry if isinstance(entry, list) else [entry]
    return [
        {**one, "model_version": version}
        for one in found
        if isinstance(one, dict) and "result" in one
    ]
