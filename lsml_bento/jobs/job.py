"""A job: one queued training of a project, what became of it, and its events.

Events become one job per project, or one each. The functions work inside a change, so
that what they write becomes visible together.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lsml_bento.contract import Project, iso_time, parse_project
from lsml_bento.errors import JobNotFound
from lsml_bento.jobs.events import Event
from lsml_bento.model.training_policy import (
    START_TRAINING,
    TrainingPolicy,
    TrainingRules,
)
from lsml_bento.state.store import Change, State, identify, key_of, know

log = logging.getLogger(__name__)

LEASE_S = 6.0
"""A lease that is not renewed expires after so many seconds."""

MAX_ATTEMPTS = 3
"""A job fails when this many runs died with their process."""

_NEVER = 1e11
"""Dates after the year 5000 are of no use, and those after 9999 cannot be shown."""

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
        merge_key: under which further events find the job to merge into; ``""`` for the
            job that gathers a project's events. Stored as ``slot``.
        new_annotations: number of distinct annotations among its events.
        events: number of its events.
        asked_at: when ``START_TRAINING`` arrived.
        ready_at: when the minimum number of annotations was reached.
        token: of the run that holds the lease; no other run may write.
        lease_until: when the lease expires.
        cancel_requested: whether its run should stop.
        worker: the worker that runs it.
        source: of its annotations: ``annotation store`` or ``Label Studio``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

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
    merge_key: str | None = Field(
        default=None, validation_alias="slot", serialization_alias="slot"
    )
    new_annotations: int = 0
    events: int = 0
    asked_at: float | None = None
    ready_at: float | None = None
    token: str | None = None
    lease_until: float = 0.0
    cancel_requested: bool = False
    worker: str | None = None
    source: str | None = None

    @field_validator("source")
    @classmethod
    def _renamed(cls, source: str | None) -> str | None:
        """Read the name under which older versions stored the annotation store."""
        return "annotation store" if source == "journal" else source

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


class Gathered(NamedTuple):
    """The queued job that an event belongs to.

    Attributes:
        job: the job.
        is_due_sooner: whether it became due, or due earlier, by the event. The message
            of a job that became due later reschedules itself.
    """

    job: Job
    is_due_sooner: bool


def gather(
    change: Change,
    event: Event,
    annotations: list[Any],
    rules: TrainingRules,
    now: float,
) -> Gathered | None:
    """Create a job for an event, or merge the event into the queued one.

    Args:
        change: the change that it belongs to.
        event: of a project with its ``created_at``.
        annotations: ids of those that the event changed.
        rules: of the class.
        now: in seconds since the epoch.
    """
    if not rules.wants(event.action):
        return None
    know(change, event.project)
    if not rules.each_event:
        return _merge(change, event, annotations, rules, now)
    # A class that asks for the plural action gets the event whole.
    is_plural = event.action in rules.actions
    gathered = None
    for single in [event] if is_plural else event.single():
        if not single.is_about_annotations or not set(annotations).isdisjoint(
            _ids(single)
        ):
            gathered = _append(change, single, now)
    return gathered


def keys_to_merge(
    events: Iterable[Event], jobs: Mapping[Project, str]
) -> Iterator[str]:
    """The keys that merging events reads, given the queued job of each project."""
    for event in events:
        yield _gathering_key(event.project)
        if (job := jobs.get(event.project)) is not None:
            yield key_of("job", job)
            yield from (key_of("job-seen", job, str(one)) for one in _ids(event))


def fetch_gathering(change: Change, events: Sequence[Event]) -> None:
    """Read ahead what merging events into their projects' queued jobs reads."""
    projects = {event.project for event in events}
    jobs = {
        p: job for p in projects if (job := change.get(_gathering_key(p))) is not None
    }
    change.fetch(keys_to_merge(events, jobs))


def _gathering_key(project: Project) -> str:
    return key_of("slot", *identify(project), "")


def _merge(
    change: Change,
    event: Event,
    annotations: list[Any],
    rules: TrainingRules,
    now: float,
) -> Gathered:
    """Merge an event into the project's queued job, or create the job."""
    found = waiting(change, event.project, "")
    job = found or _new(change, event, "", now)
    asked = event.action == START_TRAINING
    counts = job.event != START_TRAINING or asked
    if counts:
        _put_data(change, job.id, event)
    new = _note(change, job, event.action, annotations)
    total = job.new_annotations + (0 if asked else new)
    ready = total >= rules.policy.min_new_annotations
    job = job.with_(
        event=event.action if counts else job.event,
        events=job.events + max(1, len(annotations)),
        new_annotations=total,
        asked_at=(job.asked_at or now) if asked else job.asked_at,
        ready_at=(job.ready_at or now) if ready else None,
    )
    job = job.with_(due_at=due_at(job, rules.policy, now))
    if found is None:
        queue(change, job)
    else:
        put_job(change, job)
    before = None if found is None else found.due_at
    is_due_sooner = job.due_at is not None and (before is None or job.due_at < before)
    return Gathered(job, is_due_sooner)


def _note(change: Change, job: Job, action: str, annotations: list[Any]) -> int:
    """Store what ``self.events`` lists; return how many annotations are new."""
    new = 0
    change.fetch(key_of("job-seen", job.id, str(one)) for one in annotations)
    for place, annotation in enumerate(annotations or [None]):
        entry = key_of("job-event", job.id, f"{job.events + place:08d}")
        change.put(entry, orjson.dumps([action, annotation]).decode())
        seen = key_of("job-seen", job.id, str(annotation))
        if annotation is None:
            new += 1
        elif change.get(seen) is None:
            change.put(seen, "")
            new += 1
    return new


def _append(change: Change, event: Event, now: float) -> Gathered:
    """Create a job for an event, or replace the data of a queued update."""
    annotation = next(iter(_ids(event)), None)
    is_update = annotation is not None and event.action == "ANNOTATION_UPDATED"
    merge_key = f"updated {annotation}" if is_update else None
    found = None
    if merge_key is not None:
        found = waiting(change, event.project, merge_key)
    job = found
    if job is None:
        job = _new(change, event, merge_key, now)
        job = job.with_(due_at=job.created_at, events=1, new_annotations=1)
    _put_data(change, job.id, event)
    first = key_of("job-event", job.id, f"{0:08d}")
    change.put(first, orjson.dumps([event.action, annotation]).decode())
    queue(change, job)
    return Gathered(job, is_due_sooner=found is None)


def _new(change: Change, event: Event, merge_key: str | None, now: float) -> Job:
    # Keeps the order of events in one millisecond, and when a clock is set back.
    last = key_of("last-job", *identify(event.project))
    milliseconds = max(int(now * 1000), int(change.get(last) or 0) + 1)
    change.put(last, str(milliseconds))
    return Job(
        id=new_id(milliseconds),
        project=str(event.project),
        event=event.action,
        created_at=now,
        merge_key=merge_key,
    )


def waiting(change: Change, project: Project, merge_key: str) -> Job | None:
    """The queued job that events with a merge key merge into, if there is one."""
    job_id = change.get(key_of("slot", *identify(project), merge_key))
    return None if job_id is None else readable_job(change, job_id)


def queue(change: Change, job: Job) -> None:
    """Store a queued job where ``lease`` and later events find it."""
    put_job(change, job)
    identity = identify(job.of)
    change.put(key_of("queue", *identity, job.id), "")
    if job.merge_key is not None:
        change.put(key_of("slot", *identity, job.merge_key), job.id)


def unqueue(change: Change, job: Job) -> None:
    """Take a job out of the queue; the caller stores the job."""
    identity = identify(job.of)
    change.delete(key_of("queue", *identity, job.id))
    if job.merge_key is not None:
        key = key_of("slot", *identity, job.merge_key)
        if change.get(key) == job.id:
            change.delete(key)


def _ids(event: Event) -> list[Any]:
    return [a["id"] for a in event.annotations] or list(event.deleted_annotations)


def put_job(change: Change, job: Job) -> None:
    """Store a job."""
    change.put(key_of("job", job.id), job.model_dump_json(by_alias=True))


def _put_data(change: Change, job_id: str, event: Event) -> None:
    change.put(key_of("job-data", job_id), orjson.dumps(event.data).decode())


def job_of(change: Change, job_id: str) -> Job:
    """A job.

    Raises:
        JobNotFound: if there is none of that id.
    """
    return parsed_job(job_id, change.get(key_of("job", job_id)))


def parsed_job(job_id: str, found: str | None) -> Job:
    """A job as it was stored.

    Raises:
        JobNotFound: if nothing was, or if the record is damaged.
    """
    if found is None:
        raise JobNotFound(
            f"there is no job {job_id[:100]!r}: `lsml-bento jobs list` shows them"
        )
    try:
        return Job.model_validate_json(found)
    except ValidationError:
        raise JobNotFound(
            f"the record of job {job_id[:100]!r} is damaged: it cannot run"
        ) from None


def readable_job(reader: State | Change, job_id: str) -> Job | None:
    """A job; None if there is none, or if its record is damaged, which is logged."""
    found = reader.get(key_of("job", job_id))
    return None if found is None else readable(job_id, found)


def readable(job_id: str, found: str) -> Job | None:
    """A job as it was stored; None if the record is damaged, which is logged."""
    try:
        return parsed_job(job_id, found)
    except JobNotFound:
        _log_damaged(job_id)
        return None


@lru_cache(maxsize=1000)
def _log_damaged(job_id: str) -> None:
    """Log a job once in a process, not each time that jobs are read."""
    log.error("Job skipped: its record is damaged job=%s", job_id)


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
    return min((moment for moment in moments if moment < _NEVER), default=None)
