"""Read the tasks that match several lists of Data Manager filters.

* Label Studio accepts one list of filters with one conjunction. Lists with ``or`` are
  multiplied out: each alternative is a list with ``and`` and a request of its own.
* ``predictions_model_versions`` matches versions that contain the text, on SQLite in
  any case: ``v1`` also matches ``V10``. It is used only if no other version of the
  project contains the text. Otherwise all tasks are read, and the caller has to check.
* A page of tasks may make Label Studio ask the project's backends for predictions. The
  parameter ``review`` prevents that.

Source: Label Studio 1.23.2 ``data_manager/managers.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import groupby, islice, product
from typing import Any

from lsml_bento.adapters.label_studio_api.problems import Problem
from lsml_bento.adapters.label_studio_api.reading import Filter, read_pages
from lsml_bento.adapters.label_studio_api.session import Session
from lsml_bento.contract import Task
from lsml_bento.preannotation.selection import PreannotationError, Selection

MOST = 32
"""The most alternatives: memory holds a page of tasks of each."""


_OF_TASK = (
    *("id", "data", "meta", "created_at", "updated_at", "is_labeled", "overlap"),
    *("inner_id", "total_annotations", "cancelled_annotations", "total_predictions"),
    *("project", "updated_by", "file_upload"),
)
"""Fields that Label Studio sends to a backend, without annotations and predictions."""


class SelectedPages:
    """The tasks of a project that match a selection."""

    def __init__(self, session: Session, project_id: str, page_size: int) -> None:
        self._session = session
        self._id = project_id
        self._page_size = page_size

    def count(self, selection: Selection) -> int | None:
        """Return how many tasks are selected; None if that takes several requests."""
        groups = self._groups(selection)
        lists = [group for group in groups if group[1]]
        missing = self._without(selection.missing)
        if missing is None and selection.missing is not None:
            return None
        if missing is not None:
            lists.append(("and", [missing]))
        if len(lists) > 1 and any(conjunction == "or" for conjunction, _ in lists):
            return None
        conjunction = lists[0][0] if lists else "and"
        query = self._first(conjunction, [one for _, few in lists for one in few])
        found = self._session.get(f"project {self._id}", "api/tasks/", query)
        total = found.get("total") if isinstance(found, dict) else None
        return total if isinstance(total, int) else None

    def pages(self, selection: Selection, above: int = -1) -> Iterator[list[Task]]:
        """Yield the selected tasks by ascending id, as they were imported.

        Tasks with a prediction of ``selection.missing`` are among them if the name of
        another version contains that name. Tasks have the fields that Label Studio
        sends to a backend, without annotations, drafts and predictions. No page is
        empty. Memory holds a page for each alternative of the filters. Concurrent
        changes may be seen or not; no task comes twice.

        Raises:
            PreannotationError: also if Label Studio does not understand the filters.
        """
        filters = alternatives(self._groups(selection))
        without = self._without(selection.missing)
        if without is not None:
            filters = [[*few, without] for few in filters]
        asked = f"the tasks of project {self._id}"
        query = self._query(include=",".join(_OF_TASK), page_size=self._page_size)
        each = [
            read_pages(self._session, asked, query, few, _plain, last=above)
            for few in filters
        ]
        pages = each[0] if len(each) == 1 else _merged(each, self._page_size)
        yield from (page for page in pages if page)

    def _groups(self, selection: Selection) -> list[tuple[str, list[Filter]]]:
        """Return the filters of the selection and its tab, checked by Label Studio."""
        groups = [items_of(selection.filters, "the filters")]
        if selection.view is not None:
            groups.append(self._filters_of(selection.view))
        for conjunction, items in groups:
            if items:
                self._try(conjunction, items)
        return groups

    def _filters_of(self, view: int) -> tuple[str, list[Filter]]:
        asked = f"tab {view} of project {self._id}"
        remedy = "open the tab in the Data Manager: its address ends with tab=NUMBER"
        found = self._session.ask(asked, f"api/dm/views/{view}/", {})
        if isinstance(found, Problem):
            if found.status == 404:
                found = found._replace(remedy=remedy)
            raise self._session.failure(asked, found)
        if not isinstance(found, dict) or str(found.get("project")) != self._id:
            raise self._session.error(asked, "has it in another project", remedy)
        filters = (found.get("data") or {}).get("filters")
        return items_of(filters, f"the filters of {asked}")

    def _try(self, conjunction: str, items: list[Filter]) -> None:
        """Ask with the filters.

        To what it does not understand Label Studio answers 500, as when it is broken:
        then it would do so without filters too.
        """
        asked = f"the tasks of project {self._id} that meet the filters"
        for _ in range(3):
            query = self._first(conjunction, items)
            found = self._session.ask(asked, "api/tasks/", query, patience_s=0)
            if not isinstance(found, Problem):
                return
            self._session.get(asked, "api/tasks/", self._first("and", []))
        if found.status in {400, 500}:
            remedy = "check the columns, operators and values of the filters"
            raise self._session.error(asked, found.found, remedy)
        raise self._session.failure(asked, found)

    def _first(self, conjunction: str, items: list[Filter]) -> dict[str, Any]:
        """Return a query for the first task, whose answer has the number of tasks."""
        filters = {"filters": {"conjunction": conjunction, "items": items}}
        query = self._query(include="id", page_size=1)
        return query | {"query": json.dumps(filters, separators=(",", ":"))}

    def _without(self, version: str | None) -> Filter | None:
        """Return the filter for tasks without predictions of a version.

        None if it would be wrong, since another version contains the same text.
        """
        if version is None:
            return None
        asked = f"the model versions of project {self._id}"
        path = f"api/projects/{self._id}/model-versions/"
        versions = self._session.get(asked, path, {})
        if not isinstance(versions, dict):
            return None
        if any(version.lower() in one.lower() for one in versions if one != version):
            return None
        return of_versions("not_contains", version)

    def _query(self, **more: Any) -> dict[str, Any]:
        return {"project": self._id, "review": "true"} | more


def items_of(filters: Any, asked: str) -> tuple[str, list[Filter]]:
    """Return the conjunction and the items.

    Args:
        filters: ``{"conjunction": "and", "items": [..]}``; None or empty for all tasks.
        asked: names the filters in messages.

    Raises:
        PreannotationError: if they are not filters of the Data Manager.
    """
    if not filters:
        return "and", []
    try:
        conjunction, items = filters["conjunction"], filters["items"]
        named = [(item["filter"], item["operator"], item["value"]) for item in items]
        fits = isinstance(items, list) and conjunction in ("and", "or")
        fits = fits and all(isinstance(name, str) for name, *_ in named)
    except (LookupError, TypeError):
        fits = False
    if not fits:
        raise PreannotationError(
            f"{asked} are not the Data Manager's: {str(filters)[:200]}; they look like "
            '{"conjunction": "and", "items": [{"filter": "filter:tasks:data.text", '
            '"operator": "contains", "type": "String", "value": "Ann"}]}'
        )
    return conjunction, items


def alternatives(groups: Sequence[tuple[str, list[Filter]]]) -> list[list[Filter]]:
    """Return lists of filters: a task is selected if it matches all of one list.

    Raises:
        PreannotationError: if there are more than ``MOST``.
    """
    choices = [
        [[item] for item in items] if conjunction == "or" and items else [items]
        for conjunction, items in groups
    ]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST:
        raise PreannotationError(
            f"the filters make {count} alternatives, more than {MOST}: make a tab in "
            'the Data Manager with fewer filters joined by "or"'
        )
    return [[item for part in parts for item in part] for parts in product(*choices)]


def of_versions(operator: str, version: str) -> Filter:
    """Return a filter for tasks with or without versions that contain a text."""
    column = "filter:tasks:predictions_model_versions"
    value = [version]  # Label Studio would split a text into characters.
    return {"filter": column, "operator": operator, "type": "List", "value": value}


def _plain(task: dict[str, Any]) -> Task:
    if not isinstance(task["data"], dict):
        raise TypeError
    return {key: task[key] for key in _OF_TASK if key in task} | {"id": int(task["id"])}


def _merged(streams: Sequence[Iterator[list[Task]]], size: int) -> Iterator[list[Task]]:
    """Yield pages of several streams, with each task once."""
    each = [(task for page in stream for task in page) for stream in streams]
    ordered = merge(*each, key=_id_of)
    once = (next(same) for _, same in groupby(ordered, key=_id_of))
    while page := list(islice(once, size)):
        yield page


def _id_of(task: Task) -> int:
    found: int = task["id"]
    return found
