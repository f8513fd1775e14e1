"""Pages of tasks in a run of ``preannotate``, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lsml_bento.contract import Task
from lsml_bento.prediction.failures import for_client

SHOWN = 20
"""Failures that are kept in memory and listed at the end; a file has all of them."""


class Failure(NamedTuple):
    """A task that was not predicted, or a place where no task could be read.

    Attributes:
        where: ``"line 17"`` of a file; empty for a project's task.
        task_id: None where the task has none.
        reason: one sentence.
    """

    where: str
    task_id: int | str | None
    reason: str

    def __str__(self) -> str:
        """The failure in a line."""
        task = "" if self.task_id is None else f"task {self.task_id!r:.50}"
        named = f"{self.where} ({task})" if self.where and task else self.where or task
        return f"{named}: {self.reason}"


@dataclass(frozen=True)
class Page:
    """Tasks that are read, predicted and written together.

    Attributes:
        tasks: what ``predict`` gets.
        at: how far its end is, in the units of the run's total.
        unread: places between them where no task could be read.
    """

    tasks: list[Task]
    at: int
    unread: Sequence[Failure] = ()


@dataclass
class Outcome:
    """What became of a page.

    Attributes:
        predicted: tasks with an answer.
        empty: those of them for which the model had no prediction.
        skipped: tasks that had a prediction of the model version before.
        failures: in the order of the tasks.
    """

    predicted: int = 0
    empty: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)

    def answered(self, *, found: bool) -> None:
        """Count a task that was predicted, and whether it has a prediction."""
        self.predicted += 1
        self.empty += not found

    def failed(self, where: str, task: Task, error: Exception) -> Failure:
        """Count a task that failed."""
        failure = Failure(where, task.get("id"), reason_of(error))
        self.failures.append(failure)
        return failure


@dataclass
class Tally:
    """What became of all pages so far.

    Attributes:
        failures: the first ones.
        at: how far the run is, in the units of its total.
    """

    predicted: int = 0
    empty: int = 0
    skipped: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    at: int = 0

    def add(self, outcome: Outcome, at: int) -> None:
        """Count a page."""
        self.predicted += outcome.predicted
        self.empty += outcome.empty
        self.skipped += outcome.skipped
        self.failed += len(outcome.failures)
        self.failures += outcome.failures[: SHOWN - len(self.failures)]
        self.at = max(self.at, at)


def reason_of(error: Exception) -> str:
    """An error as it is listed: one sentence."""
    return " ".join(str(for_client(error)).split())
