"""What ``fit`` reaches of its job: tasks to learn from, reports, and its weights."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lsml_bento.contract import Project, Task
from lsml_bento.errors import WeightsError
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.training_policy import TrainingEvent
from lsml_bento.state.store import State
from lsml_bento.training.overlay_state import OverlayState
from lsml_bento.versions.registry import Versions
from lsml_bento.versions.weights import Saved, Weights, store_name

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
"""Takes ``progress``, ``metrics``, ``source`` and ``note`` of a run."""


class Tasks(Protocol):
    """Label Studio's API; filled by ``adapters.label_studio_api``."""

    def annotated(self, project_id: str) -> Iterator[Task]:
        """The project's annotated tasks, paged.

        Raises:
            TrainingError: if Label Studio can not be read.
        """


@dataclass
class Workbench:
    """What the runs of one process share.

    Attributes:
        backend: its name.
        state: shared with the other processes.
        weights: where those of versions go.
        tasks: Label Studio's API; None to learn from the journal.
        report: is told how far a run is.
        should_stop: whether the run is to end.
    """

    backend: str
    state: State
    weights: Weights
    tasks: Tasks | None
    report: Report
    should_stop: bool = False


class JobRun:
    """What ``fit`` reaches of its job; fills ``training.Run``.

    Args:
        job: the job.
        state: what ``fit`` sets is captured in it.
        bench: what the process has.

    Attributes:
        saved: the weights that ``fit`` wrote, once they are kept.
        metrics: of these weights.
        sample: one of the tasks that ``fit`` saw.
    """

    def __init__(self, job: Job, state: OverlayState, bench: Workbench) -> None:
        self.job = job
        self.state = state
        self.saved: Saved | None = None
        self.metrics: dict[str, float | None] = {}
        self.sample: Task | None = None
        self._bench = bench
        self._written: tuple[Path, dict[str, float | None]] | None = None
        self._stack = ExitStack()

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def events(self) -> list[TrainingEvent]:
        """What the job gathered, in order."""
        return JobStore(self._bench.state).events(self.job.id)

    @property
    def should_stop(self) -> bool:
        """Whether the job was cancelled or ran out of time."""
        return self._bench.should_stop

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None:
        """Show how far the job is."""
        self._bench.report({"progress": progress, "metrics": dict(metrics)})

    def annotated_tasks(self) -> Iterator[Task]:
        """From Label Studio where its API may be read, else from the journal."""
        project = self.job.of
        tasks = self._bench.tasks
        source = "journal" if tasks is None else "Label Studio"
        self._bench.report({"source": source})
        log.info("job=%s project=%s learns from %s", self.job.id, project, source)
        journal = AnnotationStore(self._bench.state)
        found = (
            journal.annotated_tasks(project)
            if tasks is None
            else tasks.annotated(project.id)
        )
        counted = 0
        for task in found:
            counted += len(task["annotations"])
            if self.sample is None:
                self.sample = deepcopy(task)  # the caller may edit its own
            yield task
        if tasks is None:
            self._compare(project, counted, journal.total(project))

    def _compare(self, project: Project, counted: int, total: int | None) -> None:
        """Say so where Label Studio has annotations that its webhooks did not bring."""
        if total is None or counted >= total:
            return
        note = (
            f"the journal holds {counted} of the project's {total} annotations: set "
            "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to learn from all of them"
        )
        log.warning("job=%s project=%s %s", self.job.id, project, note)
        self._bench.report({"note": note})

    @contextmanager
    def save_weights(self, metrics: Mapping[str, float | None]) -> Iterator[Path]:
        """A directory that becomes the version's weights when ``fit`` has returned."""
        with ExitStack() as stack:
            directory = stack.enter_context(self._bench.weights.writing())
            yield directory
            if not any(path.is_file() for path in directory.rglob("*")):
                raise WeightsError(
                    "the block of save_weights() wrote no file: write the weights into "
                    "the directory that it gives"
                )
            self.forget()
            self._written = directory, dict(metrics)
            self._stack = stack.pop_all()

    def keep(self) -> None:
        """Store what the last block wrote, now that ``fit`` has returned."""
        if self._written is None:
            return
        directory, self.metrics = self._written
        bench, project = self._bench, self.job.of
        moment = time.strftime("%Y%m%dt%H%M%S", time.gmtime())
        self.saved = bench.weights.keep(
            directory,
            store_name(bench.backend, project),
            f"{moment}-{secrets.token_hex(3)}",
            {
                "backend": bench.backend,
                "project": str(project),
                "job": self.job.id,
            },
            {
                "metrics": self.metrics,
                "parent": Versions(bench.state).pointer(project).version,
                "label_config": bench.state.read(project).get("label_config"),
            },
        )
        self._stack.close()

    def forget(self) -> None:
        """Remove what was written: nothing half-done stays."""
        self._stack.close()
        self._written = None
        saved, self.saved = self.saved, None
        if saved is not None:
            try:
                self._bench.weights.delete(saved.tag)
            except WeightsError as error:
                log.warning("job=%s %s", self.job.id, error)
