"""Pre-annotation in bulk: what is selected, written and read back of a project."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lsml_bento.contract import Project, Task
from lsml_bento.errors import LsmlError

Answer = bytes | Exception | None
"""A slot as ``rendering`` makes it, the error that a task met, or None for a task that
was not reached."""


class PreannotationError(LsmlError):
    """A run that can not begin, or not go on."""


class Unreachable(PreannotationError):
    """Label Studio or a backend was waited for in vain; ``--watch`` asks again."""


class VersionChanged(PreannotationError):
    """A backend went to another model version during the run."""


class FateUnknown(LsmlError):
    """A POST that may or may not have been carried out: the caller reads back."""


class Refused(LsmlError):
    """Predictions that Label Studio refuses for what is in them: none was stored."""


@dataclass(frozen=True)
class Selection:
    """Which tasks of a project.

    Attributes:
        filters: the Data Manager's, ``{"conjunction": "and", "items": [..]}``.
        view: the id of a tab of the Data Manager; its filters are added.
        missing: without tasks that have a prediction of this model version, as far as
            Label Studio can leave them out: ask ``predicted`` of what comes.
    """

    filters: dict[str, Any] | None = None
    view: int | None = None
    missing: str | None = None


class Predicted(NamedTuple):
    """A task's prediction as Label Studio takes it.

    Attributes:
        task_id: in Label Studio.
        prediction: ``result``, ``score`` and ``model_version``.
    """

    task_id: int
    prediction: dict[str, Any]


class ProjectPredictions(Protocol):
    """The tasks and predictions of one project of a Label Studio.

    Every method waits for a Label Studio that is away, with growing pauses, and raises
    ``Unreachable`` in the end; a wrong token or a missing project is a
    ``PreannotationError`` at once.
    """

    def project(self) -> tuple[Project, str]:
        """The project with its ``created_at``, and its label config."""

    def count(self, selection: Selection) -> int | None:
        """How many tasks are selected; None if Label Studio does not say."""

    def pages(self, selection: Selection, above: int = -1) -> Iterator[list[Task]]:
        """The selected tasks by ascending id, as they were imported.

        Memory does not grow with the project; tasks come without predictions.

        Args:
            selection: of the project's tasks.
            above: only tasks of greater ids.
        """

    def predicted(self, version: str, task_ids: Sequence[int]) -> set[int]:
        """Which of these tasks have a prediction of a model version."""

    def write(self, predictions: Sequence[Predicted]) -> None:
        """Store predictions, all in one POST.

        Raises:
            FateUnknown: if nobody can say whether they were stored; Label Studio
                answers again.
            Refused: if Label Studio refuses what is in one of them.
        """

    def delete(self, version: str, task_ids: Sequence[int]) -> None:
        """Delete the predictions that a model version made of these tasks."""

    def close(self) -> None:
        """Let go of connections."""


def predictions_of(slot: bytes, version: str) -> list[dict[str, Any]]:
    """The predictions of a slot, all of this model version.

    What one says of its own version is not kept: it would be looked for in vain.
    """
    entry = json.loads(slot)
    found = entry if isinstance(entry, list) else [entry]
    return [
        {**one, "model_version": version}
        for one in found
        if isinstance(one, dict) and "result" in one
    ]
