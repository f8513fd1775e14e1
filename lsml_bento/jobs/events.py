"""Label Studio's webhooks, parsed into what happened to annotations and tasks.

Source: Label Studio 1.23.2 ``webhooks/models.py``, recorded events in
``tests/payloads``: single objects and lists, missing payloads, unknown actions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from lsml_bento.contract import (
    Project,
    Task,
    not_too_deep,
    parse_action,
    parse_project,
)
from lsml_bento.errors import BadRequest

Annotation = dict[str, Any]
"""A person's answer as Label Studio sends it: ``id``, ``result``, ``task``, .."""

_SECRET = re.compile("token|password|login|secret|api_key", re.IGNORECASE)
_SHORT = 100


@dataclass(frozen=True)
class Event:
    """Something that happened in Label Studio.

    Attributes:
        action: ``ANNOTATION_CREATED``, ``START_TRAINING``, ..; any text.
        project: empty where the event names none (``send_payload: false``).
        data: the body without ``action`` and without secrets.
        annotations: created or updated ones, each with the id of its task.
        tasks: created ones, and those of ``annotations``.
        deleted_annotations: ids.
        deleted_tasks: ids.
    """

    action: str
    project: Project
    data: dict[str, Any] = field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()
    tasks: tuple[Task, ...] = ()
    deleted_annotations: tuple[str, ...] = ()
    deleted_tasks: tuple[str, ...] = ()

    @property
    def label_config(self) -> str | None:
        """The project's label config, if the event contains it."""
        found = self._of_project("label_config")
        return found if isinstance(found, str) and found.strip() else None

    @property
    def total_annotations(self) -> int | None:
        """How many annotations Label Studio counts in the project."""
        found = self._of_project("total_annotations_number")
        is_number = isinstance(found, int) and not isinstance(found, bool)
        return found if is_number else None

    @property
    def is_about_annotations(self) -> bool:
        """Whether it matters only if it changes an annotation."""
        return bool(self.annotations or self.deleted_annotations)

    def for_project(self, project: Project) -> Event:
        """The same event with this project."""
        return self if project == self.project else replace(self, project=project)

    @property
    def body(self) -> dict[str, Any]:
        """The body from which ``parse_event`` makes this event."""
        return {"action": self.action, **self.data}

    def _of_project(self, key: str) -> Any:
        project = self.data.get("project")
        return project.get(key) if isinstance(project, dict) else None

    def single(self) -> Iterator[Event]:
        """One event per annotation, as classes that take single events expect."""
        if self.action != "ANNOTATIONS_CREATED":
            yield self
            return
        tasks = {str(task.get("id")): task for task in self.tasks}
        for annotation in self.annotations:
            task = tasks.get(str(annotation.get("task")))
            data = {**self.data, "annotation": annotation, "task": task or {}}
            yield Event(
                "ANNOTATION_CREATED",
                self.project,
                data,
                (annotation,),
                (task,) if task else (),
            )


def parse_event(body: object) -> Event:
    """Parse the body of ``/webhook``; invalid parts of a payload are left out.

    Raises:
        BadRequest: if it is not an object with an ``action``, or the project is
            invalid.
    """
    action = parse_action(body)
    fields = body if isinstance(body, dict) else {}
    try:
        project = parse_project(fields.get("project"))
    except ValueError as error:
        raise BadRequest(f"project: {error}") from None
    data = without_secrets(fields)
    del data["action"]
    if not _can_be_kept(data):
        data = {key: value for key, value in data.items() if _can_be_kept(value)}
    if action == "TASKS_DELETED":
        return Event(action, project, data, deleted_tasks=_ids(data.get("tasks")))
    if action in {"ANNOTATIONS_DELETED", "ANNOTATION_DELETED"}:
        gone = [*_objects(data.get("annotations")), *_objects(data.get("annotation"))]
        return Event(action, project, data, deleted_annotations=_ids(gone))
    tasks = [*_objects(data.get("task")), *_objects(data.get("tasks"))]
    annotations = _objects(data.get("annotation"))
    return Event(
        action,
        project,
        data,
        tuple(_with_task(annotations, tasks)),
        tuple(task for task in tasks if has_id(task)),
    )


def annotations_of(task: Task) -> list[Annotation]:
    """The annotations inside a task, each with the id of the task."""
    if not has_id(task):
        return []
    found = [a for a in _objects(task.get("annotations")) if has_id(a)]
    if not found or not _can_be_kept(task):
        return []
    return [{**annotation, "task": task["id"]} for annotation in found]


def without_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    """A body without the project's token and the credentials for task data."""
    return {
        key: without_secrets(value)
        if key in {"project", "params"} and isinstance(value, dict)
        else value
        for key, value in fields.items()
        if not _is_secret(key)
    }


def _is_secret(key: str) -> bool:
    return _is_short_secret(key) if len(key) < _SHORT else bool(_SECRET.search(key))


@lru_cache(maxsize=1024)  # the same 50 names in every event
def _is_short_secret(key: str) -> bool:
    return bool(_SECRET.search(key))


def _with_task(
    annotations: list[Annotation], tasks: list[Task]
) -> Iterator[Annotation]:
    """Annotations that have an id and a known task, with the id of the task."""
    paired = len(annotations) == len(tasks)
    for place, annotation in enumerate(annotations):
        if not has_id(annotation):
            continue
        task = annotation.get("task")
        if isinstance(task, dict):
            task = task.get("id")
        if task is None and paired:
            task = tasks[place].get("id")
        if _is_id(task):
            yield {**annotation, "task": task}


def _objects(value: Any) -> list[dict[str, Any]]:
    found = value if isinstance(value, list) else [value]
    return [one for one in found if isinstance(one, dict)]


def _ids(value: Any) -> tuple[str, ...]:
    found = value if isinstance(value, list) else [value]
    ids = [one.get("id") if isinstance(one, dict) else one for one in found]
    return tuple(str(one) for one in ids if _is_id(one))


def has_id(one: dict[str, Any]) -> bool:
    """Whether a task or an annotation has a usable id."""
    return _is_id(one.get("id"))


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= 100 and value.isprintable()
    return isinstance(value, int) and not isinstance(value, bool)


def _can_be_kept(value: Any) -> bool:
    try:
        not_too_deep(value)
    except ValueError:
        return False
    return True
