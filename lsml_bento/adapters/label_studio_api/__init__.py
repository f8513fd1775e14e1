"""A project's annotated tasks, read from Label Studio's API with label-studio-sdk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr

from lsml_bento.adapters.label_studio_api.reading import (
    above,
    read_pages,
    read_project,
)
from lsml_bento.adapters.label_studio_api.session import Session
from lsml_bento.contract import Project, Task, parse_project
from lsml_bento.errors import TrainingError

_NOT_OF_TASK = {
    *("predictions", "predictions_results", "predictions_score"),
    *("predictions_model_versions", "drafts", "draft_exists"),
    *("annotations_results", "annotations_ids"),
}
"""Predictions, drafts, and texts that the Data Manager cuts to fit into its table."""

_NOT_OF_ANNOTATION = {"created_username", "created_ago"}
"""What webhooks do not tell: the annotator's e-mail address, and ``5 minutes``."""


class LabelStudioTasks:
    """Reads annotated tasks; a Label Studio that is away for a while is waited for.

    The key goes to ``url``'s origin only, as no redirect is followed. To annotators
    Label Studio Enterprise shows their own annotations only: use a key of a manager.

    Args:
        url: where Label Studio answers, with its sub-path if it has one.
        api_key: a personal access token or a legacy token.
        page_size: tasks in one answer at most; halved where one takes over 30 s.
        patience_s: how long one request is tried again after 429, 5xx, timeouts and
            lost connections.
    """

    def __init__(
        self,
        url: str,
        api_key: SecretStr | str,
        *,
        page_size: int = 100,
        patience_s: float = 60.0,
    ) -> None:
        key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        self._session = Session(url, key, patience_s)
        self._page_size = page_size

    def annotated(self, project_id: str) -> Iterator[Task]:
        """Tasks with one annotation or more that is not skipped, in order of their ids.

        Each has ``id``, ``data`` as it was imported and ``annotations`` in order of
        their ids, without skipped ones; no predictions and no drafts. Two pages are in
        memory at most. What changes meanwhile is seen or not, and nothing comes twice.
        Where the project retrieves predictions automatically, Label Studio first asks
        the backend for those of a page that are missing.

        Raises:
            TrainingError: if Label Studio refuses, or does not answer in time.
        """
        asked = f"the annotated tasks of project {_checked(project_id)}"
        query = {"project": project_id, "fields": "all", "page_size": self._page_size}
        annotated = above("total_annotations", 0)
        for tasks in read_pages(self._session, asked, query, [annotated], _plain):
            for task in tasks:
                if task["annotations"]:
                    yield task

    def total_annotations(self, project_id: str) -> int | None:
        """How many annotations the project has, skipped ones left out.

        None if Label Studio does not say.

        Raises:
            TrainingError: if Label Studio refuses, or does not answer in time.
        """
        found = self._project(project_id).get("total_annotations_number")
        return found if isinstance(found, int) else None

    def project(self, project_id: str) -> tuple[Project, str]:
        """The project with its ``created_at``, and its label config.

        Raises:
            TrainingError: if Label Studio refuses, or does not answer in time.
        """
        found = self._project(project_id)
        config = found.get("label_config")
        return parse_project(found), config if isinstance(config, str) else ""

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._session.close()

    def _project(self, project_id: str) -> dict[str, Any]:
        return read_project(self._session, _checked(project_id))


def _checked(project_id: str) -> str:
    if not (project_id.isascii() and project_id.isdecimal()):
        raise TrainingError(
            f"project {project_id!r} cannot be read from Label Studio: its projects "
            "have numbers; start the training from Label Studio"
        )
    return project_id


def _plain(task: dict[str, Any]) -> Task:
    """A task as the journal has it."""
    annotations = [
        {key: one for key, one in annotation.items() if key not in _NOT_OF_ANNOTATION}
        | {"result": annotation["result"] or []}
        for annotation in sorted(task["annotations"], key=lambda one: int(one["id"]))
        if not annotation["was_cancelled"]
    ]
    kept = {key: value for key, value in task.items() if key not in _NOT_OF_TASK}
    return {**kept, "id": int(task["id"]), "annotations": annotations}
