"""The tasks and predictions of a Label Studio project, and errors that end a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lsml_bento.contract import Project, Task
from lsml_bento.errors import LsmlError


class PreannotationError(LsmlError):
    """A run that cannot start or continue."""


class Unreachable(PreannotationError):
    """Label Studio or a backend did not answer in time; ``--watch`` tries again."""


class VersionChanged(PreannotationError):
    """A backend switched to another model version during the run."""


class ResultUnknown(LsmlError):
    """A POST that may or may not have been carried out: read back what is stored."""


class Refused(LsmlError):
    """Label Studio refuses the content of predictions; none was stored."""


@dataclass(frozen=True)
class Selection:
    """Which tasks of a project.

    Attributes:
        filters: of the Data Manager, ``{"conjunction": "and", "items": [..]}``.
        view: the id of a tab of the Data Manager, whose filters are added.
        missing: leave out tasks with a prediction of this model version, as far as
            Label Studio can. Check the tasks that come with ``predicted``.
    """

    filters: dict[str, Any] | None = None
    view: int | None = None
    missing: str | None = None


class Predicted(NamedTuple):
    """A prediction as Label Studio imports it.

    Attributes:
        task_id: in Label Studio.
        prediction: ``result``, ``score`` and ``model_version``.
    """

    task_id: int
    prediction: dict[str, Any]


class ProjectPredictions(Protocol):
    """The tasks and predictions of one Label Studio project.

    Every method retries with back-off while Label Studio does not answer, and raises
    ``Unreachable`` after a time limit. A wrong token or a missing project raises a
    ``PreannotationError`` at once.
    """

    def project(self) -> tuple[Project, str]:
        """Return the project with its ``created_at``, and its label config."""

    def count(self, selection: Selection) -> int | None:
        """Return how many tasks are selected; None if Label Studio does not say."""

    def pages(self, selection: Selection, above: int = -1) -> Iterator[list[Task]]:
        """Yield the selected tasks with greater ids than ``above``, ascending.

        They are as they were imported, without predictions. Memory does not grow with
        the project.
        """

    def predicted(self, version: str, task_ids: Sequence[int]) -> set[int]:
        """Return which of these tasks have a prediction of a model version."""

    def write(self, predictions: Sequence[Predicted]) -> None:
        """Store predictions in one POST.

        Raises:
            ResultUnknown: if it is not known whether they were stored. Label Studio
                answers again.
            Refused: if Label Studio refuses the content of one of them.
        """

    def delete(self, version: str, task_ids: Sequence[int]) -> None:
        """Delete the predictions of a model version of these tasks."""

    def close(self) -> None:
        """Close the connections."""
