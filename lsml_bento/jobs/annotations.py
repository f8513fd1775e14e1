"""The newest state of every annotation that Label Studio reported, with its task.

``fit`` learns from these where no credentials for Label Studio's API are set. Events
may come twice, late and in any order: ``updated_at`` decides, and what was deleted
stays deleted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import orjson

from lsml_bento.contract import Project, Task, parse_time
from lsml_bento.errors import LabelConfigError
from lsml_bento.jobs.events import Annotation, Event, annotations_of
from lsml_bento.model.label_config import parse_label_config
from lsml_bento.state.store import (
    SEPARATOR,
    Change,
    State,
    below,
    identify,
    key_of,
    know,
)

log = logging.getLogger(__name__)

_HEAVY = frozenset({"annotations", "predictions", "drafts"})
_DELETED = ""
_LOOKED_AT = 50


class AnnotationStore:
    """Annotations and tasks in the state.

    Args:
        state: shared by all processes of the backend.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def annotated_tasks(self, project: Project) -> Iterator[Task]:
        """Tasks with their ``annotations``, without skipped ones, a page at a time."""
        prefix = below("journal", *identify(project))
        task: Task | None = None
        current, orphans = "", 0
        for key, value in self._state.each(prefix):
            task_key, _, annotation_key = key.removeprefix(prefix).partition(SEPARATOR)
            if task_key != current:
                if task is not None and task["annotations"]:
                    yield task
                task, current = None, task_key
            _, _, body = value.partition(SEPARATOR)
            if body == _DELETED:
                continue
            if not annotation_key:
                task = {**json.loads(body), "annotations": []}
            elif task is None:
                orphans += 1
            elif not (annotation := json.loads(body)).get("was_cancelled"):
                task["annotations"].append(annotation)
        if task is not None and task["annotations"]:
            yield task
        if orphans:
            log.warning(
                "Annotations left out: their tasks are unknown; set "
                "LABEL_STUDIO_API_KEY to read them from Label Studio project=%s n=%d",
                project,
                orphans,
            )

    def any_task(self, project: Project) -> Task | None:
        """One of the project's tasks, if any is known."""
        prefix = below("journal", *identify(project))
        for key, value in self._state.scan(prefix, limit=_LOOKED_AT):
            body = value.partition(SEPARATOR)[2]
            if key.endswith(SEPARATOR) and body != _DELETED:
                task: Task = json.loads(body)
                return task
        return None

    def total(self, project: Project) -> int | None:
        """How many annotations Label Studio last counted in the project, if known."""
        found = self._state.get(key_of("total-annotations", *identify(project)))
        return None if found is None else int(found)


def record(change: Change, event: Event) -> list[Any]:
    """Store what an event reports.

    Args:
        change: the change that it belongs to.
        event: of a project with its ``created_at``.

    Returns:
        The ids of the annotations that it changed, without skipped ones.
    """
    project = event.project
    know(change, project)
    _record_project(change, event)
    for task in event.tasks:
        _put_task(change, project, task)
    for task_id in event.deleted_tasks:
        _delete_task(change, project, task_id)
    changed: list[Any] = [
        annotation["id"]
        for annotation in event.annotations
        if _put_annotation(change, project, annotation)
        and not annotation.get("was_cancelled")
    ]
    for annotation_id in event.deleted_annotations:
        if _delete_annotation(change, project, annotation_id):
            changed.append(annotation_id)
    return changed


def fetch_record(
    change: Change, events: Sequence[Event], others: Iterable[str] = ()
) -> None:
    """Read ahead what ``record`` reads for events of projects with ``created_at``.

    The other keys are read in the same round trip.
    """
    change.fetch([*others, *(key for event in events for key in _keys_of(event))])
    change.fetch_below(
        below("journal", *identify(event.project), _sortable(task_id))
        for event in events
        for task_id in event.deleted_tasks
    )


def _keys_of(event: Event) -> Iterator[str]:
    identity = identify(event.project)
    yield key_of("project", *identity)
    if event.label_config is not None:
        yield key_of("value", *identity, "label_config")
        yield key_of("project-updated", *identity)
    for task in event.tasks:
        yield key_of("journal", *identity, _sortable(task["id"]), "")
    for annotation in event.annotations:
        yield from _keys_of_annotation(event.project, annotation)
    for annotation_id in event.deleted_annotations:
        yield key_of("annotation", *identity, annotation_id)


def _keys_of_annotation(project: Project, annotation: Annotation) -> Iterator[str]:
    identity = identify(project)
    task_key = _sortable(annotation["task"])
    yield key_of("annotation", *identity, annotation["id"])
    yield key_of("journal", *identity, task_key, "")
    yield key_of("journal", *identity, task_key, _sortable(annotation["id"]))


def observe(change: Change, project: Project, tasks: Iterable[Task]) -> None:
    """Store the annotations inside the tasks of a ``/predict``."""
    annotated = [(task, found) for task in tasks if (found := annotations_of(task))]
    change.fetch(
        key
        for _, found in annotated
        for annotation in found
        for key in _keys_of_annotation(project, annotation)
    )
    for task, found in annotated:
        _put_task(change, project, task)
        for annotation in found:
            _put_annotation(change, project, annotation, reported=False)


def _record_project(change: Change, event: Event) -> None:
    identity = identify(event.project)
    if event.total_annotations is not None:
        change.put(key_of("total-annotations", *identity), str(event.total_annotations))
    if event.label_config is None:
        return
    key = key_of("value", *identity, "label_config")
    is_news = event.action in {"PROJECT_UPDATED", "START_TRAINING"}
    if change.get(key) is not None and not is_news:
        return
    since = key_of("project-updated", *identity)
    stamp = _stamp(event.data["project"])
    if stamp and stamp < (change.get(since) or ""):
        return
    if (new := json.dumps(event.label_config)) == change.get(key):
        return
    try:
        parse_label_config(event.label_config)
    except LabelConfigError as error:
        about = error, event.action, event.project
        log.warning("Label config left out: %s event=%r project=%s", *about)
        return
    change.put(key, new)
    change.put(since, stamp)


def _put_task(change: Change, project: Project, task: Task) -> None:
    light = {key: value for key, value in task.items() if key not in _HEAVY}
    key = key_of("journal", *identify(project), _sortable(task["id"]), "")
    _put_newer(change, key, light)


def _delete_task(change: Change, project: Project, task_id: str) -> None:
    prefix = below("journal", *identify(project), _sortable(task_id))
    for key, _ in change.scan(prefix):
        change.delete(key)
    change.put(prefix, SEPARATOR + _DELETED)


def _put_annotation(
    change: Change, project: Project, annotation: Annotation, *, reported: bool = True
) -> bool:
    """Store an annotation; whether it is new in this state and not deleted."""
    identity = identify(project)
    task_key = _sortable(annotation["task"])
    of = key_of("annotation", *identity, annotation["id"])
    if change.get(of) == _DELETED:
        return False
    task = change.get(key_of("journal", *identity, task_key, ""))
    if task is not None and task.endswith(SEPARATOR + _DELETED):
        return False
    key = key_of("journal", *identity, task_key, _sortable(annotation["id"]))
    if not _put_newer(change, key, annotation, reported=reported):
        return False
    change.put(of, task_key)
    return True


def _delete_annotation(change: Change, project: Project, annotation_id: str) -> bool:
    """Mark an annotation as deleted; whether it was not marked yet.

    One that no event reported may have been read from Label Studio's API.
    """
    identity = identify(project)
    of = key_of("annotation", *identity, annotation_id)
    task_key = change.get(of)
    if task_key == _DELETED:
        return False
    change.put(of, _DELETED)
    if task_key is not None:
        change.delete(key_of("journal", *identity, task_key, _sortable(annotation_id)))
    return True


def _put_newer(
    change: Change, key: str, entry: dict[str, Any], *, reported: bool = True
) -> bool:
    stamp = _stamp(entry)
    if reported and stamp:
        # It sorts above the same state seen in a /predict, which starts no job.
        stamp += "+"
    known = change.get(key)
    if known is not None:
        known_stamp, _, body = known.partition(SEPARATOR)
        if body == _DELETED or (stamp and stamp <= known_stamp):
            return False
    change.put(key, stamp + SEPARATOR + orjson.dumps(entry).decode())
    return True


def _stamp(entry: dict[str, Any]) -> str:
    """When the entry was last changed, as text that sorts; empty if unknown."""
    for name in ("updated_at", "created_at"):
        value = entry.get(name)
        if not isinstance(value, str):
            continue
        with suppress(ValueError):
            return parse_time(value).isoformat(timespec="microseconds")
    return ""


def _sortable(identity: int | str) -> str:
    """An id as text that sorts as Label Studio's numbers do."""
    text = str(identity)
    return text.zfill(20) if text.isdecimal() and text.isascii() else text
