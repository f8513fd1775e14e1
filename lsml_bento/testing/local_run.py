"""Runs ``fit`` in the process of a test."""

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
    """A run of ``fit`` in this process, with given tasks.

    Args:
        tasks: returned by ``annotated_tasks``.
        directory: where weights are written, one subdirectory per version.
        events: returned by ``self.events``.
        stop_after: number of reports after which ``should_stop`` becomes true.

    Attributes:
        reports: all reports, in order.
        saved: the weights' directories with their metrics, in order.
        should_stop: set it to test that ``fit`` stops.
    """

    job_id = "local"

    def __init__(
        self,
        tasks: Iterable[Task],
        directory: Path,
        events: Iterable[TrainingEvent] = (),
        *,
        stop_after: int | None = None,
    ) -> None:
        self.should_stop = False
        self.reports: list[dict[str, Any]] = []
        self.saved: list[tuple[Path, dict[str, float | None]]] = []
        self.events = list(events)
        self._tasks = list(tasks)
        self._directory = directory
        self._stop_after = stop_after

    def annotated_tasks(self) -> Iterator[Task]:
        return iter(self._tasks)

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None:
        self.reports.append({"progress": progress, **metrics})
        if self._stop_after is not None:
            self.should_stop = len(self.reports) >= self._stop_after

    @contextmanager
    def save_weights(self, metrics: Mapping[str, float | None]) -> Iterator[Path]:
        """A new directory, added to ``saved`` unless the block raises."""
        path = self._directory / f"version-{len(self.saved) + 1}"
        path.mkdir(parents=True)
        try:
            yield path
        except BaseException:
            shutil.rmtree(path)
            raise
        self.saved.append((path, dict(metrics)))


def fit(
    model: LabelStudioMLBase,
    tasks: Iterable[Task],
    directory: Path,
    event: str = START_TRAINING,
    data: dict[str, Any] | None = None,
    *,
    stop_after: int | None = None,
) -> LocalRun:
    """Call a model's ``fit`` in this process, as a job would.

    Args:
        model: an object of the class.
        tasks: returned by ``self.annotated_tasks()``.
        directory: where ``self.save_weights()`` writes.
        event: the action that ``fit`` gets.
        data: the event's body without its action.
        stop_after: number of calls of ``self.report`` after which ``self.should_stop``
            becomes true, as in a cancelled job; never by default.

    Returns:
        The run, with its ``reports`` and the weights that it ``saved``.
    """
    run = LocalRun(tasks, directory, stop_after=stop_after)
    model._lsml = replace(model._lsml, run=run)
    model.fit(event, data or {}, job_id=run.job_id)
    return run
