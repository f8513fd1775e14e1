"""A ``fit`` in the process of a test."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lsml_bento.contract import Task
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.training_policy import START_TRAINING, TrainingEvent


class LocalRun:
    """A ``fit`` in this process, with tasks at hand: for tests of a model.

    Args:
        tasks: what ``annotated_tasks`` gives.
        directory: where weights are written, below it one directory a version.
        events: what ``self.events`` lists.

    Attributes:
        reports: what was reported, in order.
        saved: the weights' directories with their metrics, in order.
        should_stop: set it to see a ``fit`` stop.
    """

    job_id = "local"

    def __init__(
        self,
        tasks: Iterable[Task],
        directory: Path,
        events: Iterable[TrainingEvent] = (),
    ) -> None:
        self.should_stop = False
        self.reports: list[dict[str, Any]] = []
        self.saved: list[tuple[Path, dict[str, float | None]]] = []
        self.events = list(events)
        self._tasks = list(tasks)
        self._directory = directory

    def annotated_tasks(self) -> Iterator[Task]:
        """The tasks that it was given."""
        return iter(self._tasks)

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None:
        """Keep what was reported."""
        self.reports.append({"progress": progress, **metrics})

    @contextmanager
    def save_weights(self, metrics: Mapping[str, float | None]) -> Iterator[Path]:
        """A new directory, kept in ``saved`` if the block ends well."""
        path = self._directory / f"version-{len(self.saved) + 1}"
        path.mkdir(parents=True)
        try:
            yield path
        except BaseException:
            shutil.rmtree(path)
            raise
        self.saved.append((path, dict(metrics)))


class _CancelledRun(LocalRun):
    """A job that is cancelled while a report is made."""

    def __init__(self, tasks: Iterable[Task], directory: Path, stop_after: int) -> None:
        super().__init__(tasks, directory)
        self._stop_after = stop_after

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None:
        """Keep what was reported; the last one is when it is cancelled."""
        super().report(progress, metrics)
        self.should_stop = len(self.reports) >= self._stop_after


def fit(
    model: LabelStudioMLBase,
    tasks: Iterable[Task],
    directory: Path,
    event: str = START_TRAINING,
    data: dict[str, Any] | None = None,
    *,
    stop_after: int | None = None,
) -> LocalRun:
    """Call a model's ``fit`` here, as a job would, and say what it did.

    Args:
        model: an object of the class.
        tasks: what ``self.annotated_tasks()`` gives.
        directory: where ``self.save_weights()`` writes; ``load`` it to try the result.
        event: the action that ``fit`` gets.
        data: the event's body without its action.
        stop_after: ``self.should_stop`` after so many calls of ``self.report``, as in a
            job that was cancelled; never by default.

    Returns:
        The run: its ``reports``, and what it ``saved``.
    """
    run = (
        LocalRun(tasks, directory)
        if stop_after is None
        else _CancelledRun(tasks, directory, stop_after)
    )
    model._lsml = replace(model._lsml, run=run)
    model.fit(event, data or {}, job_id=run.job_id)
    return run
