"""Read the tasks of one project, and write their predictions in bulk.

* The import checks all predictions, then stores them in one transaction. It leaves out
  those that do not fit the label config, and still answers 201 with the number that it
  stored. Newer versions refuse all of them with 400.
* The Data Manager's action that deletes predictions deletes those of all versions.

Source: Label Studio 1.23.2 ``data_import/api.py`` (``ImportPredictionsAPI``) and
``data_manager/actions/basic.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import SecretStr

from lsml_bento.adapters.label_studio_api.problems import Problem
from lsml_bento.adapters.label_studio_api.reading import read_pages, read_project
from lsml_bento.adapters.label_studio_api.selecting import SelectedPages, of_versions
from lsml_bento.adapters.label_studio_api.session import Session
from lsml_bento.contract import Project, Task, parse_project
from lsml_bento.errors import LsmlError
from lsml_bento.model.label_config import parse_label_config
from lsml_bento.preannotation.selection import (
    PreannotationError,
    Predicted,
    Refused,
    ResultUnknown,
    Unreachable,
)

_IDS = 200
"""Tasks named in one URL: 2 kB of it."""

_FIRST_S = 60.0
"""How long the first request is retried: the URL may be wrong."""

_SETTLE_S = (0.5, 60.0)
"""The shortest and longest pause after a POST whose result is unknown."""

_DELETES = 4
"""Predictions deleted concurrently."""


class LabelStudioPredictions(SelectedPages):
    """Reads a project's tasks and writes their predictions.

    Requests are retried while Label Studio does not answer. The key is sent only to the
    origin of ``url``, since redirects are not followed. Thread-safe. The arguments are
    those of ``LabelStudioTasks``.
    """

    def __init__(
        self,
        url: str,
        api_key: SecretStr | str,
        project_id: int | str,
        *,
        page_size: int = 500,
        patience_s: float = 3600.0,
    ) -> None:
        session = Session(
            url, api_key, patience_s, refused=PreannotationError, away=Unreachable
        )
        super().__init__(session, str(int(project_id)), page_size)
        self._patience_s = patience_s
        self._slowest_s = _SETTLE_S[0]
        self._label_config = ""

    def project(self) -> tuple[Project, str]:
        """Return the project with its ``created_at``, and its label config.

        Retries for at most a minute.
        """
        patience_s = min(self._patience_s, _FIRST_S)
        found = read_project(self._session, self._id, patience_s=patience_s)
        config = found.get("label_config")
        self._label_config = config if isinstance(config, str) else ""
        return parse_project(found), self._label_config

    def predicted(self, version: str, task_ids: Sequence[int]) -> set[int]:
        """Return which of these tasks have a prediction of exactly this version."""
        return {task_id for task_id, _ in self._predictions(version, task_ids)}

    def write(self, predictions: Sequence[Predicted]) -> None:
        """Store predictions in one POST; up to 500 are one transaction.

        Retries while Label Studio accepts no connection or answers 429.

        Raises:
            ResultUnknown: if all or some may have been stored. Label Studio has had
                time to finish, and answers.
            Refused: if Label Studio refuses the content of one; none was stored.
            PreannotationError: if it refuses the key or the project; none was stored.
            Unreachable: if it accepted no connection in time, or did not answer again
                after a POST whose result is unknown.
        """
        asked = f"{len(predictions)} predictions for project {self._id}"
        body = [{**one.prediction, "task": one.task_id} for one in predictions]
        path = f"api/projects/{self._id}/import/predictions"
        started = time.monotonic()
        answer = self._session.ask(asked, path, {}, method="POST", body=body)
        self._slowest_s = max(self._slowest_s, time.monotonic() - started)
        if isinstance(answer, Problem):
            raise self._not_written(asked, answer, predictions)
        stored = answer.get("created") if isinstance(answer, dict) else None
        if stored == 0 and predictions:
            raise self._refusal(predictions, "stored none")
        if stored != len(predictions):
            raise self._result_unknown(asked, f"says that it stored {stored}")

    def delete(self, version: str, task_ids: Sequence[int]) -> None:
        """Delete the predictions of a model version of these tasks.

        A few at a time: Label Studio's bulk action deletes those of all versions.
        """
        found = list(self._predictions(version, task_ids))
        with ThreadPoolExecutor(_DELETES) as pool:
            # An error cancels those that have not started.
            list(pool.map(self._delete, found))

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._session.close()

    def _delete(self, found: tuple[int, int]) -> None:
        task_id, prediction_id = found
        asked = f"prediction {prediction_id} of task {task_id}"
        path = f"api/predictions/{prediction_id}/"
        answer = self._session.ask(asked, path, {}, method="DELETE")
        if isinstance(answer, Problem) and answer.status != 404:
            raise self._session.failure(asked, answer, "deleted")

    def _predictions(
        self, version: str, task_ids: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """Yield the task id and id of every prediction of exactly this version."""
        asked = f"predictions of {len(task_ids)} tasks of project {self._id}"
        query = {"project": self._id, "review": "true", "page_size": _IDS}
        query |= {"fields": "all", "include": "id,predictions"}
        holds = [of_versions("contains", version)]
        for start in range(0, len(task_ids), _IDS):
            some = task_ids[start : start + _IDS]
            for page in read_pages(
                self._session, asked, query, holds, _predictions_of, included=some
            ):
                for task in page:
                    for prediction_id, found in task["predictions"]:
                        if found == version:
                            yield task["id"], prediction_id

    def _not_written(
        self, asked: str, problem: Problem, predictions: Sequence[Predicted]
    ) -> LsmlError:
        if not problem.undone:
            # It may still store them: reading back too early would miss them.
            read_project(self._session, self._id)
            time.sleep(min(self._slowest_s, _SETTLE_S[1]))
            return self._result_unknown(asked, problem.found)
        if problem.status in {400, 413, 422}:
            return self._refusal(predictions, problem.found)
        return self._session.failure(asked, problem, "written")

    def _result_unknown(self, asked: str, found: str) -> LsmlError:
        remedy = "read back which are stored"
        return self._session.error(
            asked, found, remedy, verb="confirmed as written", kind=ResultUnknown
        )

    def _refusal(self, predictions: Sequence[Predicted], found: str) -> LsmlError:
        """Return why Label Studio refuses predictions, in detail for a single one."""
        if len(predictions) > 1:
            asked = f"{len(predictions)} predictions for project {self._id}"
            remedy = "write them one by one to find which it refuses"
        else:
            [one] = predictions
            asked = f"the prediction for task {one.task_id}"
            remedy = self._misfit(one.prediction) or (
                "it may be too large, or its task was deleted: see its log"
            )
        return self._session.error(asked, found, remedy, verb="written", kind=Refused)

    def _misfit(self, prediction: dict[str, Any]) -> str:
        """Say how a prediction does not fit the label config; empty if it does."""
        if not self._label_config:
            self.project()
        interface = parse_label_config(self._label_config)
        try:
            errors = interface.validate_prediction(prediction, return_errors=True)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            errors = [f"{type(error).__name__}: {error}"]
        said = "; ".join(str(one) for one in errors)[:500]
        return f"it does not fit the label config: {said}" if said else ""


def _predictions_of(task: dict[str, Any]) -> Task:
    """Return a task's id, and the id and model version of its predictions."""
    found = [(int(one["id"]), one["model_version"]) for one in task["predictions"]]
    return {"id": int(task["id"]), "predictions": found}
