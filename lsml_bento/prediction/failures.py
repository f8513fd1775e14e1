"""Errors of ``predict``, in the form that clients and the log get."""

from __future__ import annotations

import logging
from typing import Any

from lsml_bento.contract import Project
from lsml_bento.error_text import locate
from lsml_bento.errors import LsmlError, ModelError

log = logging.getLogger(__name__)

_IDS = 20
"""Tasks that a log line names."""


def for_client(error: Exception) -> LsmlError:
    """The error as a client sees it: one sentence and a status."""
    if isinstance(error, LsmlError):
        return error
    return ModelError(f"predict() raised {locate(error)}")


def log_failures(
    project: Project, failed: list[tuple[Any, Exception]], total: int
) -> None:
    """Log one line for each reason, with the tasks that failed for it.

    Args:
        project: of the request.
        failed: ids of tasks, and why each failed.
        total: how many tasks the request has.
    """
    # Thousands of tasks may share one error, which is described only once.
    distinct = {id(error): error for _, error in failed}
    reasons = {key: str(for_client(error)) for key, error in distinct.items()}
    by_reason: dict[str, list[tuple[Any, Exception]]] = {}
    for task_id, error in failed:
        by_reason.setdefault(reasons[id(error)], []).append((task_id, error))
    for reason, entries in by_reason.items():
        ids = ", ".join(f"{task_id!r:.50}" for task_id, _ in entries[:_IDS])
        more = f" and {len(entries) - _IDS} more" if len(entries) > _IDS else ""
        error = entries[0][1]
        log.error(
            "Predict failed: project=%s tasks=%s%s (%d of %d): %s",
            project,
            ids,
            more,
            len(entries),
            total,
            reason,
            exc_info=error.__cause__ if isinstance(error, LsmlError) else error,
        )
