"""Read a project and pages of its tasks.

Each page asks for ids above the last one read. Numbered pages would shift while people
add and delete tasks, and return some twice.

Source: Label Studio 1.23.2 ``data_manager/api.py`` and ``managers.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lsml_bento.adapters.label_studio_api.problems import CHECK_URL
from lsml_bento.adapters.label_studio_api.session import Session
from lsml_bento.contract import Task

_GROW_AFTER = 10
"""Pages in a row without a problem, after which pages may grow again."""

Filter = dict[str, Any]
"""A filter of the Data Manager: ``filter``, ``operator``, ``type``, ``value``."""


def read_project(
    session: Session, project_id: str, *, patience_s: float | None = None
) -> dict[str, Any]:
    """Return a project's ``id``, ``created_at`` and ``label_config``."""
    asked = f"project {project_id}"
    # Counting everything in a large project takes long.
    query = {"include": "id,created_at,label_config"}
    path = f"api/projects/{project_id}/"
    found = session.get(asked, path, query, patience_s)
    if not isinstance(found, dict) or found.get("id") != int(project_id):
        raise session.error(asked, "answered without the project", CHECK_URL)
    return found


def above(column: str, value: int) -> Filter:
    """Return a filter for tasks whose number in a column is greater."""
    name = f"filter:tasks:{column}"
    return {"filter": name, "operator": "greater", "type": "Number", "value": value}


def read_pages(
    session: Session,
    asked: str,
    query: dict[str, Any],
    filters: Sequence[Filter],
    plain: Callable[[dict[str, Any]], Task],
    *,
    last: int = -1,
    included: Sequence[int] | None = None,
) -> Iterator[list[Task]]:
    """Yield tasks by ascending id; the last page may be empty.

    Args:
        session: of Label Studio.
        asked: what is read, for messages.
        query: ``project``, the largest ``page_size``, and more parameters.
        filters: that each task must match.
        plain: converts what was sent to a task, or raises ``LookupError``,
            ``TypeError``, ``ValueError`` or ``AttributeError``.
        last: only tasks with greater ids.
        included: only these tasks.

    Raises:
        LsmlError: of the session's classes, if Label Studio refuses or does not answer
            in time.
    """
    asks = {"ordering": ["tasks:id"]} | chosen(included)
    query = {**query, "resolve_uri": "false"}  # Keep s3:// addresses.
    most, in_time = query["page_size"], 0
    while True:
        both = {"conjunction": "and", "items": [*filters, above("id", last)]}
        query["query"] = json.dumps({"filters": both, **asks}, separators=(",", ":"))
        size = query["page_size"]
        page = session.get(asked, "api/tasks/", query)
        in_time = in_time + 1 if query["page_size"] == size else 0
        if in_time >= _GROW_AFTER:
            query["page_size"], in_time = min(most, 2 * size), 0
        tasks = _tasks_in(page, plain)
        if tasks is None:
            raise session.error(asked, "answered without tasks", CHECK_URL)
        for task in tasks:
            if task["id"] <= last:
                raise session.error(
                    asked,
                    f"sent task {task['id']} after task {last}, though asked for them "
                    "in order of their ids",
                    "update Label Studio to 1.23",
                )
            last = task["id"]
        yield tasks
        if not tasks or page.get("total") == len(tasks):
            return


def chosen(task_ids: Sequence[int] | None) -> dict[str, Any]:
    """Return the parameters that select only these tasks; none for None."""
    if task_ids is None:
        return {}
    return {"selectedItems": {"all": False, "included": list(task_ids)}}


def _tasks_in(page: Any, plain: Callable[[dict[str, Any]], Task]) -> list[Task] | None:
    """Return the tasks of an answer; None if it has none."""
    try:
        return [plain(task) for task in page["tasks"]]
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
