"""A job: one queued training of a project, and what became of it."""

from __future__ import annotations

import secrets
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict

from lsml_bento.contract import Project, iso_time, parse_project
from lsml_bento.model.training_policy import TrainingPolicy

LEASE_S = 6.0
"""A lease expires after so many seconds without a heartbeat."""

MAX_ATTEMPTS = 3
"""A job fails when this many runs died with their process."""

ASKED_WAIT_S = 2.0
"""``START_TRAINING`` arrives before the annotation that caused it."""


class JobStatus(str, Enum):
    """A job starts as ``QUEUED`` and ends in one of the last three states."""

    QUEUED = "queued"
    """It waits for more annotations, for a pause in annotating, or for a worker."""
    RUNNING = "running"
    """A worker holds its lease."""
    SUCCEEDED = "succeeded"
    """``fit`` returned, and its version, if any, was promoted."""
    FAILED = "failed"
    """``error`` holds the reason."""
    CANCELLED = "cancelled"
    """A person cancelled it."""

    @property
    def is_end(self) -> bool:
        """Whether the job has ended."""
        return self not in {JobStatus.QUEUED, JobStatus.RUNNING}


class Job(BaseModel):
    """One job; times are seconds since the epoch.

    Attributes:
        project: as text, ``"1.1795426489"``.
        event: the action passed to ``fit``.
        attempts: number of runs started.
        progress: 0 to 1, or None before ``fit`` reported it.
        version: the model version that it created.
        error: why it failed, in one sentence.
        note: a remark on a job that did not fail.
        due_at: when it may run; None while there are too few annotations.
        slot: the key under which further events find the job to merge into; ``""``
            for the job that gathers a project's events.
        new_annotations: number of distinct annotations among its events.
        events: number of its events.
        asked_at: when ``START_TRAINING`` arrived.
        ready_at: when the minimum number of annotations was reached.
        token: of the run that holds the lease; no other run may write.
        lease_until: when the lease expires.
        cancel_requested: whether its run should stop.
        worker: the worker that runs it.
        source: where its annotations come from: ``journal`` or ``Label Studio``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    project: str
    event: str
    created_at: float
    status: JobStatus = JobStatus.QUEUED
    attempts: int = 0
    progress: float | None = None
    metrics: dict[str, float | None] = {}
    version: str | None = None
    error: str | None = None
    traceback: str | None = None
    note: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    due_at: float | None = None
    slot: str | None = None
    new_annotations: int = 0
    events: int = 0
    asked_at: float | None = None
    ready_at: float | None = None
    token: str | None = None
    lease_until: float = 0.0
    cancel_requested: bool = False
    worker: str | None = None
    source: str | None = None

    def with_(self, **changes: Any) -> Job:
        """A copy with other values."""
        return self.model_copy(update=changes)

    @property
    def of(self) -> Project:
        """The project, parsed."""
        return parse_project(self.project)

    def public(self) -> dict[str, Any]:
        """The fields shown in a list."""
        return {
            "id": self.id,
            "project": self.project,
            "event": self.event,
            "status": self.status.value,
            "attempts": self.attempts,
            "progress": self.progress,
            "metrics": self.metrics,
            "version": self.version,
            "error": self.error,
            "created_at": iso_time(self.created_at),
            "started_at": iso_time(self.started_at),
            "finished_at": iso_time(self.finished_at),
        }

    def details(self) -> dict[str, Any]:
        """The fields shown for a single job."""
        return {
            **self.public(),
            "traceback": self.traceback,
            "note": self.note,
            "source": self.source,
            "worker": self.worker,
            "due_at": iso_time(self.due_at),
            "new_annotations": self.new_annotations,
            "events": self.events,
            "cancel_requested": self.cancel_requested,
        }


def new_id(milliseconds: int) -> str:
    """An id that sorts by its creation time, in milliseconds since the epoch."""
    return f"{milliseconds:012x}{secrets.token_hex(4)}"


def due_at(job: Job, policy: TrainingPolicy, now: float) -> float | None:
    """When a job that gathers events may run, if an event arrives now."""
    moments = []
    if job.asked_at is not None:
        moments.append(job.asked_at + ASKED_WAIT_S)
    if job.ready_at is not None:
        moments.append(min(now + policy.quiet_s, job.ready_at + policy.max_wait_s))
    return min(moments, default=None)
