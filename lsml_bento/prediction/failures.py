"""From a request's answers to the slots that its client gets, failures to the log."""

from __future__ import annotations

import logging
from typing import Any

from lsml_bento.contract import Project, Task
from lsml_bento.error_text import locate
from lsml_bento.errors import DeadlineExceeded, LsmlError, ModelError
from lsml_bento.model.render import EMPTY_SLOT, Slot

log = logging.getLogger(__name__)

_IDS = 20
"""Tasks that a log line names."""


def slots_of(
    project: Project, tasks: list[Task], answers: list[Any], deadline_s: float
) -> list[Slot]:
    """One slot per task: ``[]`` for one that failed or came too late.

    Args:
        project: for the log.
        tasks: B tasks.
        answers: B entries: a slot, an Exception, or None if the deadline came first.
        deadline_s: for the log.

    Raises:
        LsmlError: the first reason, if no task has a slot and one failed.
        DeadlineExceeded: if no task was reached in time.
    """
    failed = [
        (task.get("id"), answer)
        for task, answer in zip(tasks, answers, strict=True)
        if isinstance(answer, Exception)
    ]
    late = sum(answer is None for answer in answers)
    if failed:
        _log_failures(project, failed, len(tasks))
    if failed and len(failed) + late == len(tasks):
        raise for_client(failed[0][1])
    if late and late == len(tasks):
        raise DeadlineExceeded(
            f"none of {late} tasks was predicted within {deadline_s:g} s "
            "(LSML_PREDICT_DEADLINE_S): the model is slow or stuck"
        )
    if late:
        log.warning(
            "deadline: project=%s %d of %d tasks not predicted within %g s; retrieve "
            "predictions again to go on, or use `lsml-bento preannotate`",
            project,
            late,
            len(tasks),
            deadline_s,
        )
    return [a if isinstance(a, bytes) else EMPTY_SLOT for a in answers]


def for_client(error: Exception) -> LsmlError:
    """The error as a client may see it: one sentence and a status."""
    if isinstance(error, LsmlError):
        return error
    return ModelError(f"predict() raised {locate(error)}")


def _log_failures(
    project: Project, failed: list[tuple[Any, Exception]], of: int
) -> None:
    """One line for each reason, with the tasks that it cost."""
    # Thousands of tasks may share one error, which is described but once.
    reasons = {id(error): str(for_client(error)) for error in _distinct(failed)}
    by_reason: dict[str, list[tuple[Any, Exception]]] = {}
    for task_id, error in failed:
        by_reason.setdefault(reasons[id(error)], []).append((task_id, error))
    for reason, entries in by_reason.items():
        ids = ", ".join(f"{task_id!r:.50}" for task_id, _ in entries[:_IDS])
        more = f" and {len(entries) - _IDS} more" if len(entries) > _IDS else ""
        error = entries[0][1]
        log.error(
            "predict failed: project=%s tasks=%s%s (%d of %d): %s",
            project,
            ids,
            more,
            len(entries),
            of,
            reason,
            exc_info=error.__cause__ if isinstance(error, LsmlError) else error,
        )


def _distinct(failed: list[tuple[Any, Exception]]) -> list[Exception]:
    return list({id(error): error for _, error in failed}.values())
