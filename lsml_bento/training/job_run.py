"""What ``fit`` can use of its job: tasks to learn from, reports and weights."""

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
"""Called with ``progress``, ``metrics``, ``source`` and ``note`` of a run."""


class Tasks(Protocol):
    """Label Studio's API, implemented by ``adapters.label_studio_api``."""

    def annotated(self, project_id: str) -> Iterator[Task]:
        """The project's annotated tasks, page by page.

        Raises:
            TrainingError: if Label Studio cannot be read.
        """


@dataclass
class FitContext:
    """What the runs of one process share.

    Attributes:
        backend: its name.
        state: shared with the other processes.
        weights: where those of versions go.
        tasks: Label Studio's API; None to learn from stored annotations.
        report: called with the progress of a run.
        should_stop: whether the run should stop.
    """

    backend: str
    state: State
    weights: Weights
    tasks: Tasks | None
    report: Report
    should_stop: bool = False


class JobRun:
    """What ``fit`` can use of its job; implements ``base_class.Run``.

    Args:
        job: the job.
        state: captures what ``fit`` sets.
        context: shared by the runs of this process.

    Attributes:
        saved: the weights that ``fit`` wrote, once they are in the model store.
        metrics: of these weights.
        sample: one of the tasks that ``fit`` saw.
    """

    def __init__(self, job: Job, state: OverlayState, context: FitContext) -> None:
        self.job = job
        self.state = state
        self.saved: Saved | None = None
        self.metrics: dict[str, float | None] = {}
        self.sample: Task | None = None
        self._context = context
        self._written: tuple[Path, dict[str, float | None]] | None = None
        self._stack = ExitStack()

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def events(self) -> list[TrainingEvent]:
        """The events of the job, in order."""
        return JobStore(self._context.state).events(self.job.id)

    @property
    def should_stop(self) -> bool:
        """Whether the job was cancelled or ran out of time."""
        return self._context.should_stop

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None:
        """Report the progress of the job."""
        self._context.report({"progress": progress, "metrics": dict(metrics)})

    def annotated_tasks(self) -> Iterator[Task]:
        """Tasks from Label Studio if credentials are set, else from the stored ones."""
        project = self.job.of
        tasks = self._context.tasks
        source = "journal" if tasks is None else "Label Studio"
        self._context.report({"source": source})
        log.info("Reading tasks: %s job=%s project=%s", source, self.job.id, project)
        journal = AnnotationStore(self._context.state)
        found = (
            journal.annotated_tasks(project)
            if tasks is None
            else tasks.annotated(project.id)
        )
        counted = 0
        for task in found:
            counted += len(task["annotations"])
            if self.sample is None:
                self.sample = deepcopy(task)  # the caller may change its own
            yield task
        if tasks is None:
            self._compare(project, counted, journal.total(project))

    def _compare(self, project: Project, counted: int, total: int | None) -> None:
        """Warn if Label Studio has annotations that no webhook reported."""
        if total is None or counted >= total:
            return
        note = (
            f"the journal holds {counted} of the project's {total} annotations: set "
            "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to learn from all of them"
        )
        log.warning(
            "Annotations missing: %s job=%s project=%s", note, self.job.id, project
        )
        self._context.report({"note": note})

    @contextmanager
    def save_weights(self, metrics: Mapping[str, float | None]) -> Iterator[Path]:
        """A directory whose files become the version's weights when ``fit`` returns."""
        with ExitStack() as stack:
            directory = stack.enter_context(self._context.weights.writing())
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
        """Move what the last block wrote to the model store, after ``fit``."""
        if self._written is None:
            return
        directory, self.metrics = self._written
        context, project = self._context, self.job.of
        moment = time.strftime("%Y%m%dt%H%M%S", time.gmtime())
        self.saved = context.weights.keep(
            directory,
            store_name(context.backend, project),
            f"{moment}-{secrets.token_hex(3)}",
            {
                "backend": context.backend,
                "project": str(project),
                "job": self.job.id,
            },
            {
                "metrics": self.metrics,
                "parent": Versions(context.state).pointer(project).version,
                "label_config": context.state.read(project).get("label_config"),
            },
        )
        self._stack.close()

    def forget(self) -> None:
        """Delete what was written."""
        self._stack.close()
        self._written = None
        saved, self.saved = self.saved, None
        if saved is not None:
            try:
                self._context.weights.delete(saved.tag)
            except WeightsError as error:
                log.warning("Weights not deleted: %s job=%s", error, self.job.id)
