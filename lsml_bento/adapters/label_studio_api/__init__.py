"""Read a project's annotated tasks from Label Studio's API with label-studio-sdk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr

from lsml_bento.adapters.label_studio_api.reading import (
    above,
    read_pages,
)
from lsml_bento.adapters.label_studio_api.session import Session
from lsml_bento.contract import Task
from lsml_bento.errors import TrainingError

_NOT_OF_TASK = {
    *("predictions", "predictions_results", "predictions_score"),
    *("predictions_model_versions", "drafts", "draft_exists"),
    *("annotations_results", "annotations_ids"),
}
"""Predictions, drafts, and texts that the Data Manager shortens for its table."""

_NOT_OF_ANNOTATION = {"created_username", "created_ago"}
"""Fields that webhooks do not have: the annotator's e-mail address, and an age."""


class LabelStudioTasks:
    """Reads annotated tasks, and retries while Label Studio does not answer.

    The key is sent only to the origin of ``url``, since redirects are not followed.
    Label Studio Enterprise shows annotators only their own annotations: use the key of
    a manager.

    Args:
        url: of Label Studio, with its sub-path if it has one.
        api_key: a personal access token or a legacy token.
        page_size: the most tasks in one answer; halved if one takes over 30 s.
        patience_s: how long one request is retried after 429, 5xx, timeouts and lost
            connections.
    """

    def __init__(
        self,
        url: str,
        api_key: SecretStr | str,
        *,
        page_size: int = 100,
        patience_s: float = 60.0,
    ) -> None:
        self._session = Session(url, api_key, patience_s)
        self._page_size = page_size

    def annotated(self, project_id: str) -> Iterator[Task]:
        """Yield tasks that have an annotation that is not skipped, by ascending id.

        Each has ``id``, ``data`` as it was imported and ``annotations`` by ascending
        id, without skipped ones, predictions and drafts. At most two pages are in
        memory. Concurrent changes may be seen or not; no task comes twice. If the
        project retrieves predictions automatically, Label Studio first asks the backend
        for those that are missing on a page.

        Raises:
            TrainingError: if Label Studio refuses or does not answer in time.
        """
        asked = f"the annotated tasks of project {_checked(project_id)}"
        query = {"project": project_id, "fields": "all", "page_size": self._page_size}
        annotated = above("total_annotations", 0)
        for tasks in read_pages(self._session, asked, query, [annotated], _plain):
            for task in tasks:
                if task["annotations"]:
                    yield task

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._session.close()


def _checked(project_id: str) -> str:
    if not (project_id.isascii() and project_id.isdecimal()):
        raise TrainingError(
            f"project {project_id!r} cannot be read from Label Studio: its projects "
            "have numbers; start the training from Label Studio"
        )
    return project_id


def _plain(task: dict[str, Any]) -> Task:
    """Return a task as the annotation store keeps it."""
    annotations = [
        {key: one for key, one in annotation.items() if key not in _NOT_OF_ANNOTATION}
        | {"result": annotation["result"] or []}
        for annotation in sorted(task["annotations"], key=lambda one: int(one["id"]))
        if not annotation["was_cancelled"]
    ]
    kept = {key: value for key, value in task.items() if key not in _NOT_OF_TASK}
    return {**kept, "id": int(task["id"]), "annotations": annotations}
