"""What Label Studio and people ask about training."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lsml_bento.contract import Project
from lsml_bento.errors import BadRequest, StateError
from lsml_bento.jobs.event_writer import EventWriter, Receipt
from lsml_bento.jobs.events import Event
from lsml_bento.jobs.job import Job, JobStatus
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.training_policy import START_TRAINING, TrainingRules
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.projects.overview import (
    RULES,
    known_project,
    list_versions,
    stored_rules,
)
from lsml_bento.state.store import State
from lsml_bento.training.job_supervisor import sweep
from lsml_bento.versions.registry import Versions
from lsml_bento.versions.weights import Weights

log = logging.getLogger(__name__)


class KnownRules:
    """When the class learns, as far as it is known before the class is imported.

    Args:
        source: where the user's class comes from.
        state: keeps the rules between starts.
    """

    def __init__(self, source: ModelSource, state: State) -> None:
        self._source = source
        self._state = state
        self._stored: TrainingRules | None = None

    def current(self) -> TrainingRules:
        """The rules of the class, else those that were stored, else the default."""
        if (known := self._source.rules) is not None:
            return known
        if self._stored is None:
            with suppress(StateError):
                self._stored = stored_rules(self._state)
        return self._stored or TrainingRules(each_event=self._source.is_drop_in)

    @property
    def trains(self) -> bool | None:
        """Whether the class has a ``fit``; None while it is not imported."""
        known = self._source.rules
        return None if known is None else known.trains

    def store(self) -> None:
        """Store the rules of the imported class, for the next start.

        Raises:
            StateError: if the state could not be written.
        """
        known = self._source.rules
        if known is None:
            return
        text = known.to_json()
        if self._state.get(RULES) != text:
            self._state.change(lambda change: change.put(RULES, text))


@dataclass(eq=False)
class Training:
    """Answers for events, jobs and versions; all raise ``NotFound`` for unknown ones.

    Attributes:
        events: stores events.
        state: shared with the other processes.
        threads: read and write the state.
        weights: where the versions' weights are; None where there are no versions.
        enqueue: gets jobs that are due or will be; returns at once.
        measure_event: gets the seconds that an event took, where they are measured.
    """

    events: EventWriter
    state: State
    threads: CallThreads
    weights: Weights | None
    enqueue: Callable[[Job], None]
    measure_event: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        self._job_store = JobStore(self.state)
        self._versions = Versions(self.state)

    # Events

    async def event(self, event: Event) -> Receipt:
        """Store something that happened in Label Studio.

        Raises:
            StateError: if it could not be stored.
        """
        start = time.monotonic()
        loop, is_stored = asyncio.get_running_loop(), asyncio.Event()
        stored = self.events.take(event)
        # asyncio.wrap_future() takes 60 microseconds more where caches are cold.
        stored.add_done_callback(lambda _: loop.call_soon_threadsafe(is_stored.set))
        await is_stored.wait()
        receipt = stored.result()
        if self.measure_event is not None:
            self.measure_event(time.monotonic() - start)
        if event.action == START_TRAINING and receipt.job is None:
            log.info(
                "No job made: START_TRAINING project=%s: %s",
                event.project,
                receipt.status,
            )
        return receipt

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
        found = await self.threads.run(self._job_store.jobs, project, wanted, limit)
        return [job.public() for job in found]

    async def job(self, job_id: str) -> dict[str, Any]:
        """The details of a job, with its log."""

        def read() -> dict[str, Any]:
            job = self._job_store.find(job_id)
            return {**job.details(), "log": self._job_store.log_tail(job_id)}

        return await self.threads.run(read)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        return (await self.threads.run(self._job_store.cancel, job_id)).public()

    async def retry(self, job_id: str) -> dict[str, Any]:
        """Queue a job that failed or was cancelled again."""
        job = await self.threads.run(self._job_store.retry, job_id)
        self.enqueue(job)
        return job.public()

    async def is_training(self, project: Project) -> bool:
        """Whether a job of a project, or of any, runs or waits for its turn."""
        name = project.id or None
        jobs = await self.threads.run(self._job_store.jobs, name)
        return any(not job.status.is_end and job.due_at is not None for job in jobs)

    # Versions

    async def versions(self, project: str) -> list[dict[str, Any]]:
        """A project's versions, the newest first, the base last."""
        return await self.threads.run(
            lambda: list_versions(self.state, known_project(self.state, project))
        )

    async def activate(
        self, project: str, version: str, *, pin: bool
    ) -> list[dict[str, Any]]:
        """Let a version serve; returns the project's versions after it."""

        def work() -> list[dict[str, Any]]:
            known = known_project(self.state, project)
            self._versions.activate(known, version, pin=pin)
            log.info("Version activated: project=%s version=%s", known, version)
            return list_versions(self.state, known)

        return await self.threads.run(work)

    async def sweep(self) -> None:
        """Remove weights of deleted versions from the model store."""
        if self.weights is not None:
            await self.threads.run(sweep, self.state, self.weights)
