"""A project and pages of its tasks, as both readers ask for them.

Source: Label Studio 1.23.2 ``data_manager/api.py`` and ``managers.py``. Each page asks
for ids above the last one read: pages by number would shift, and give tasks twice,
while people add and delete them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lsml_bento.adapters.label_studio_api.problems import CHECK_URL
from lsml_bento.adapters.label_studio_api.session import Session
from lsml_bento.contract import Task

_QUICK = 10
"""Pages in a row without problem, after which they may be larger again."""

Filter = dict[str, Any]
"""One of the Data Manager's: ``filter``, ``operator``, ``type``, ``value``."""


def read_project(
    session: Session, project_id: str, *, patience_s: float | None = None
) -> dict[str, Any]:
    """Its ``id``, ``created_at``, ``label_config`` and ``total_annotations_number``.

    Raises:
        LsmlError: of the session's classes, if Label Studio refuses, or does not answer
            in time.
    """
    asked = f"project {project_id}"
    # All counts of a large project take long.
    query = {"include": "id,created_at,label_config,total_annotations_number"}
    path = f"api/projects/{project_id}/"
    found = session.get(asked, path, query, patience_s)
    if not isinstance(found, dict) or found.get("id") != int(project_id):
        raise session.error(asked, "answered with no project", CHECK_URL)
    return found


def above(column: str, value: int) -> Filter:
    """Only tasks whose number in a column is greater."""
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
    """Tasks in order of their ids, as Label Studio sends them; the last page is empty.

    Args:
        session: whom to ask.
        asked: what is read, for messages.
        query: ``project``, ``page_size`` at most and what else the address says.
        filters: what each task has to meet.
        plain: makes a task of what was sent; ``LookupError``, ``TypeError``,
            ``ValueError`` or ``AttributeError`` if it is none.
        last: only tasks of greater ids.
        included: only these tasks.

    Raises:
        LsmlError: of the session's classes, if Label Studio refuses, or does not answer
            in time.
    """
    asks = {"ordering": ["tasks:id"]} | chosen(included)
    query = {**query, "resolve_uri": "false"}  # else s3:// is an address for browsers
    most, quick = query["page_size"], 0
    while True:
        both = {"conjunction": "and", "items": [*filters, above("id", last)]}
        query["query"] = json.dumps({"filters": both, **asks}, separators=(",", ":"))
        size = query["page_size"]
        page = session.get(asked, "api/tasks/", query)
        quick = quick + 1 if query["page_size"] == size else 0
        if quick >= _QUICK:
            query["page_size"], quick = min(most, 2 * size), 0
        tasks = _tasks_in(page, plain)
        if tasks is None:
            raise session.error(asked, "answered with no tasks", CHECK_URL)
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
    """What asks for these tasks only; nothing for None."""
    if task_ids is None:
        return {}
    return {"selectedItems": {"all": False, "included": list(task_ids)}}


def _tasks_in(page: Any, plain: Callable[[dict[str, Any]], Task]) -> list[Task] | None:
    """The tasks of an answer; None if it is no such answer."""
    try:
        return [plain(task) for task in page["tasks"]]
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
