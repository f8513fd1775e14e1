"""What Label Studio and people ask about training, free of HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lsml_bento.contract import Project, Task
from lsml_bento.errors import BadRequest, StateError
from lsml_bento.jobs.event_writer import EventWriter, Receipt
from lsml_bento.jobs.events import Event
from lsml_bento.jobs.job import Job, JobStatus
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.training_policy import START_TRAINING, TrainingRules
from lsml_bento.prediction.call_threads import CallThreads, hand_over
from lsml_bento.projects.overview import (
    RULES,
    known_project,
    list_versions,
    stored_rules,
)
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Versions

log = logging.getLogger(__name__)

Wake = Callable[[Job], None]
"""Is told of a job that waits; returns at once."""


class Learning:
    """Events, jobs and versions, as one serving process answers for them.

    Args:
        source: where the user's class comes from.
        state: shared with the other processes.
        wake: is told of jobs that wait.
        inbox: where events wait that the state does not take; None to refuse them.
        took: is told how many seconds an event took.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        wake: Wake,
        inbox: Path | None,
        took: Callable[[float], None],
    ) -> None:
        self._source = source
        self._state = state
        self._wake = wake
        self._took = took
        self._job_store = JobStore(state)
        self._versions = Versions(state)
        self._reading = CallThreads(2, "jobs")
        self._rules: TrainingRules | None = None
        self._intake = EventWriter(state, self.rules, wake, inbox)

    def close(self) -> None:
        """Store the events that came, then let go."""
        self._intake.close()
        self._reading.close()

    # When the class learns

    def rules(self) -> TrainingRules:
        """When the class learns, as far as it is known before it is imported."""
        if (known := self._source.rules) is not None:
            return known
        if self._rules is None:
            with suppress(StateError):
                self._rules = stored_rules(self._state)
        return self._rules or TrainingRules(each_event=self._source.is_drop_in)

    @property
    def trains(self) -> bool | None:
        """Whether the class has a ``fit``; None while it is not imported."""
        known = self._source.rules
        return None if known is None else known.trains

    def remember_rules(self) -> None:
        """Keep what the imported class says, for the next start.

        Raises:
            StateError: if the state could not be written.
        """
        known = self._source.rules
        if known is None:
            return
        text = known.to_json()
        if self._state.get(RULES) != text:
            self._state.change(lambda change: change.put(RULES, text))

    # Events

    async def event(self, event: Event) -> Receipt:
        """Take note of something that happened in Label Studio.

        Raises:
            StateError: if it could be stored nowhere.
        """
        start = time.monotonic()
        waiting: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._intake.take(event).add_done_callback(partial(_hand_over, waiting))
        receipt = await waiting
        self._took(time.monotonic() - start)
        if event.action == START_TRAINING and receipt.job is None:
            log.info(
                "START_TRAINING project=%s makes no job: %s", event.project, receipt
            )
        return receipt

    def observe(self, project: Project, tasks: list[Task]) -> None:
        """Note the annotations inside the tasks of a ``/predict``."""
        annotated = [task for task in tasks if task.get("annotations")]
        if annotated:
            self._intake.observe(project, annotated)

    # Jobs

    async def jobs(
        self, project: str | None, status: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Jobs as clients see them, the newest first.

        Raises:
            BadRequest: if there is no such status.
        """
        try:
            wanted = JobStatus(status) if status else None
        except ValueError:
            known = ", ".join(s.value for s in JobStatus)
            raise BadRequest(f"status is one of: {known}") from None
        found = await self._reading.run(self._job_store.jobs, project, wanted, limit)
        return [job.public() for job in found]

    async def job(self, job_id: str) -> dict[str, Any]:
        """All that is known of a job.

        Raises:
            JobNotFound: if there is none of that id.
        """

        def read() -> dict[str, Any]:
            job = self._job_store.find(job_id)
            return {**job.details(), "log": self._job_store.log_tail(job_id)}

        return await self._reading.run(read)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job.

        Raises:
            JobNotFound: if there is none of that id.
        """
        return (await self._reading.run(self._job_store.cancel, job_id)).public()

    async def retry(self, job_id: str) -> dict[str, Any]:
        """Queue a job again that failed or was cancelled.

        Raises:
            JobNotFound: if there is none of that id.
        """
        job = await self._reading.run(self._job_store.retry, job_id)
        self._wake(job)
        return job.public()

    async def is_training(self, project: Project) -> bool:
        """Whether a job of a project, or of any, runs or waits for its turn."""
        name = project.id or None
        jobs = await self._reading.run(self._job_store.jobs, name)
        return any(not job.status.is_end and job.due_at is not None for job in jobs)

    # Versions

    async def versions(self, project: str) -> list[dict[str, Any]]:
        """A project's versions, the newest first, the base last.

        Raises:
            NotFound: if there is no such project.
        """
        return await self._reading.run(
            lambda: self._list_versions(self._known(project))
        )

    async def activate(
        self, project: str, version: str, *, pin: bool
    ) -> list[dict[str, Any]]:
        """Let a version serve.

        Returns:
            The project's versions after it.

        Raises:
            NotFound: if there is no such project or version.
        """

        def work() -> list[dict[str, Any]]:
            known = self._known(project)
            self._versions.activate(known, version, pin=pin)
            log.info("version %s activated for project=%s", version, known)
            return self._list_versions(known)

        return await self._reading.run(work)

    def _list_versions(self, project: Project) -> list[dict[str, Any]]:
        return list_versions(self._state, project)

    def _known(self, name: str) -> Project:
        return known_project(self._state, name)

    # What monitors ask

    def figures(self) -> dict[str, Any]:
        """Jobs by status, the age of the oldest queued one, and what fits took."""
        return self._job_store.figures()


# asyncio.wrap_future() takes 60 microseconds more where caches are cold, and cancels
# what the thread is about to answer, if the client hangs up.


def _hand_over(waiting: asyncio.Future[Any], stored: Future[Receipt]) -> None:
    failure = stored.exception()
    hand_over(waiting, None if failure else stored.result(), failure)
