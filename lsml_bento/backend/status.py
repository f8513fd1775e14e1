"""Health, status and metrics of this process and its projects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lsml_bento.contract import Project
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.prediction.batcher import Batcher
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.projects.overview import known_versions, project_summaries
from lsml_bento.state.store import State

_LAST_ERRORS = 1_000
"""Projects whose last error is kept."""


@dataclass(eq=False)
class Status:
    """Answers health, status and metrics."""

    model_class: str
    batcher: Batcher
    pool: ModelPool
    state: State
    state_threads: CallThreads
    _last_errors: dict[Project, str] = field(default_factory=dict, init=False)

    def health(self) -> dict[str, str]:
        """Report that the process runs, without waiting for the model."""
        return {"status": "UP", "model_class": self.model_class}

    def note_error(self, project: Project, error: BaseException) -> None:
        """Keep the last error of a project."""
        self._last_errors.pop(project, None)
        self._last_errors[project] = str(error)
        if len(self._last_errors) > _LAST_ERRORS:
            del self._last_errors[next(iter(self._last_errors))]

    async def overview(self) -> dict[str, Any]:
        """Versions and last errors by project, and the number of waiting tasks."""
        errors = dict(self._last_errors)
        projects = await self.state_threads.run(project_summaries, self.state, errors)
        return {
            "model_class": self.model_class,
            "max_batch_size": self.batcher.limit,
            "waiting": {lane.value: n for lane, n in self.batcher.waiting().items()},
            "projects": projects,
        }

    async def versions(self) -> list[str]:
        """Every known model version of all projects."""
        return await self.state_threads.run(known_versions, self.state)

    async def job_figures(self) -> dict[str, Any]:
        """Jobs by status, the age of the oldest queued one, and fit durations."""
        return await self.state_threads.run(JobStore(self.state).figures)

    async def active_versions(self) -> dict[str, str]:
        """The version that really serves in this process, by project."""
        return await self.state_threads.run(self._active_versions)

    def _active_versions(self) -> dict[str, str]:
        return {
            str(project): "base"
            if version is None or self.pool.has_stand_in(project)
            else version
            for project, version in self.pool.versions().items()
        }
