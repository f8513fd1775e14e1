"""The store of jobs: a job has one status and at most one run, and it ends.

Each method is one change of the state. A run holds its job by a token. Once its lease
has expired and another run has taken the job, its writes are refused.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from lsml_bento.contract import Project
from lsml_bento.errors import LeaseLost
from lsml_bento.jobs.events import Event
from lsml_bento.jobs.job import (
    LEASE_S,
    MAX_ATTEMPTS,
    Job,
    JobStatus,
    gather,
    job_of,
    parsed_job,
    put_job,
    queue,
    readable,
    readable_job,
    unqueue,
    waiting,
)
from lsml_bento.model.training_policy import TrainingEvent, TrainingRules
from lsml_bento.state.store import SEPARATOR, Change, State, below, identify, key_of

log = logging.getLogger(__name__)

_PARTS = ("job-data", "job-log")
_LISTS = ("job-event", "job-seen")

# Names of the metrics about jobs, the same in servers and workers

JOBS = ("lsml_jobs", "Jobs in the job store")
"""Labelled by status."""

OLDEST_QUEUED = (
    "lsml_oldest_queued_seconds",
    "Seconds that the oldest due job has waited",
)
FIT_SECONDS = ("lsml_fit_seconds_sum", "Total duration of all fits in seconds")
FITS = ("lsml_fit_seconds_count", "Fits that have ended")

Now = Callable[[], float]


class Lease(NamedTuple):
    """A job, and the token that allows writing to it."""

    job: Job
    token: str


class JobStore:
    """Jobs in the state.

    Args:
        state: shared by all processes of the backend.
        now: returns the time in seconds since the epoch.
    """

    def __init__(self, state: State, now: Now = time.time) -> None:
        self._state = state
        self._now = now

    # Reading

    def find(self, job_id: str) -> Job:
        """Find a job.

        Raises:
            JobNotFound: if there is none of that id.
        """
        return parsed_job(job_id, self._state.get(key_of("job", job_id)))

    def jobs(
        self,
        project: str | None = None,
        status: JobStatus | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """List jobs, the newest first.

        Args:
            project: its id, or its id and ``created_at``; any by default.
            status: any by default.
            limit: return at most this many.
        """
        return list(self.each_job(project, status, limit))

    def each_job(
        self,
        project: str | None = None,
        status: JobStatus | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """As ``jobs``, one at a time, which spares memory where there are thousands."""
        stored = list(self._state.each(below("job")))
        found = (
            job
            for job in _readable(reversed(stored))
            if project in (None, job.project, job.project.partition(".")[0])
            and status in (None, job.status)
        )
        return islice(found, limit)

    def data(self, job_id: str) -> dict[str, Any]:
        """The ``data`` of ``fit``: the newest event's body without its action."""
        found = self._state.get(key_of("job-data", job_id))
        data: dict[str, Any] = json.loads(found) if found else {}
        return data

    def events(self, job_id: str) -> list[TrainingEvent]:
        """The events of a job, in order."""
        return [
            TrainingEvent(*json.loads(value))
            for _, value in self._state.each(below("job-event", job_id))
        ]

    def log_tail(self, job_id: str) -> list[str]:
        """The last lines of the run's output."""
        found = self._state.get(key_of("job-log", job_id))
        lines: list[str] = json.loads(found) if found else []
        return lines

    def _all(self) -> Iterator[Job]:
        return _readable(self._state.each(below("job")))

    # Queuing

    def enqueue(self, event: Event, rules: TrainingRules) -> Job | None:
        """Create a job for an event, or merge the event into the queued one."""
        ids = [annotation["id"] for annotation in event.annotations]
        ids += event.deleted_annotations
        found = self._state.change(lambda c: gather(c, event, ids, rules, self._now()))
        return None if found is None else found.job

    # Running

    def due(self, project: Project | None = None) -> list[Job]:
        """The jobs that may begin now, the one that became due first first.

        At most one of each project, and none of a project with a running job.

        Args:
            project: with its ``created_at``; all by default.
        """
        prefix = below("queue", *(() if project is None else identify(project)))
        found = _due(self._state, self._now(), prefix)
        return sorted(found, key=lambda job: (job.due_at, job.id))

    def lease(self, worker: str, job_id: str | None = None) -> Lease | None:
        """Take a job to run it.

        Args:
            worker: whoever runs it.
            job_id: the job; by default, the first that is due.

        Returns:
            None if the job is not the first of its project that is due, or if its
            project has a running one.
        """

        def work(change: Change) -> Lease | None:
            now = self._now()
            prefix = below("queue")
            if job_id is not None:
                job = _queued(change, job_id)
                if job is None:
                    return None
                prefix = below("queue", *identify(job.of))
            due = [job for job in _due(change, now, prefix) if job_id in (None, job.id)]
            if not due:
                return None
            job = min(due, key=lambda job: (job.due_at, job.id))
            token = secrets.token_hex(8)
            unqueue(change, job)
            job = job.with_(
                status=JobStatus.RUNNING,
                attempts=job.attempts + 1,
                progress=None,
                started_at=now,
                token=token,
                lease_until=now + LEASE_S,
                worker=worker,
            )
            change.put(key_of("running", *identify(job.of)), job.id)
            put_job(change, job)
            return Lease(job, token)

        if not self._state.scan(below("queue"), limit=1):
            return None  # a read costs less than a change
        return self._state.change(work)

    def renew(
        self,
        lease: Lease,
        *,
        progress: float | None = None,
        metrics: Mapping[str, float | None] | None = None,
        source: str | None = None,
        note: str | None = None,
        log_tail: list[str] | None = None,
    ) -> bool:
        """Renew the lease and store the run's progress.

        Returns:
            Whether the job was cancelled, so that the run should stop.

        Raises:
            LeaseLost: if the run no longer holds the job.
        """

        def work(change: Change) -> bool:
            job = self._held(change, lease)
            if log_tail is not None:
                change.put(key_of("job-log", job.id), json.dumps(log_tail))
            put_job(
                change,
                job.with_(
                    lease_until=self._now() + LEASE_S,
                    progress=job.progress if progress is None else progress,
                    metrics={**job.metrics, **(metrics or {})},
                    source=source or job.source,
                    note=note or job.note,
                ),
            )
            return job.cancel_requested

        return self._state.change(work)

    def succeed(
        self,
        lease: Lease,
        version: str | None,
        metrics: Mapping[str, float | None],
        note: str | None = None,
        also: Callable[[Change], str | None] | None = None,
    ) -> Job:
        """End a run successfully, or as cancelled if that was requested.

        Args:
            lease: of the run.
            version: the model version that it created.
            metrics: of the version.
            note: a remark for the job.
            also: called in the same change to promote the version. It may return a
                remark for the job.

        Raises:
            LeaseLost: if the run no longer holds the job.
        """

        def work(change: Change) -> Job:
            job = self._held(change, lease)
            if job.cancel_requested:
                return self._end(change, job.with_(status=JobStatus.CANCELLED))
            said = also(change) if also is not None else None
            return self._end(
                change,
                job.with_(
                    status=JobStatus.SUCCEEDED,
                    progress=1.0,
                    version=version,
                    metrics={**job.metrics, **metrics},
                    error=None,
                    traceback=None,
                    note=said or note or job.note,
                ),
            )

        return self._state.change(work)

    def fail(self, lease: Lease, error: str, traceback: str | None = None) -> Job:
        """End a run that raised, or as cancelled if that was requested.

        Raises:
            LeaseLost: if the run no longer holds the job.
        """

        def work(change: Change) -> Job:
            job = self._held(change, lease)
            failed = {"status": JobStatus.FAILED, "error": _storable(error)}
            if job.cancel_requested:
                failed = {"status": JobStatus.CANCELLED}
            trace = None if traceback is None else _storable(traceback)
            return self._end(change, job.with_(traceback=trace, **failed))

        return self._state.change(work)

    def crash(self, lease: Lease, reason: str) -> Job:
        """Queue a job again whose process died; the third time, it fails.

        Raises:
            LeaseLost: if the run no longer holds the job.
        """
        said = _storable(reason)
        return self._state.change(
            lambda change: self._lost(change, self._held(change, lease), said)
        )

    def put_back(self, lease: Lease) -> Job:
        """Queue a job again whose worker stops; the run does not count.

        Raises:
            LeaseLost: if the run no longer holds the job.
        """

        def work(change: Change) -> Job:
            job = self._held(change, lease)
            if job.cancel_requested:
                return self._end(change, job.with_(status=JobStatus.CANCELLED))
            return self._requeue(change, job.with_(attempts=job.attempts - 1))

        return self._state.change(work)

    def expire(self) -> list[Job]:
        """Queue jobs again whose lease has expired, or end them."""

        def work(change: Change) -> list[Job]:
            expired = []
            for key, job_id in change.scan(below("running")):
                job = readable_job(change, job_id)
                if job is None or job.status is not JobStatus.RUNNING:
                    change.delete(key)  # or no job of the project would run again
                elif job.lease_until < self._now():
                    reason = f"the worker {job.worker} stopped renewing its lease"
                    expired.append(self._lost(change, job, reason))
            return expired

        if not self._state.scan(below("running"), limit=1):
            return []
        return self._state.change(work)

    def _lost(self, change: Change, job: Job, reason: str) -> Job:
        if job.cancel_requested:
            return self._end(change, job.with_(status=JobStatus.CANCELLED))
        if job.attempts < MAX_ATTEMPTS:
            return self._requeue(change, job.with_(note=f"run again: {reason}"))
        error = (
            f"the run ended without a result {job.attempts} times (last: {reason}): "
            "check the kernel's log for out-of-memory messages, and the worker's log"
        )
        return self._end(change, job.with_(status=JobStatus.FAILED, error=error))

    def _requeue(self, change: Change, job: Job) -> Job:
        change.delete(key_of("running", *identify(job.of)))
        taken = job.merge_key is not None and (
            change.get(key_of("slot", *identify(job.of), job.merge_key)) is not None
        )
        job = job.with_(
            status=JobStatus.QUEUED,
            token=None,
            worker=None,
            due_at=self._now(),
            merge_key=None if taken else job.merge_key,
        )
        queue(change, job)
        return job

    def _end(self, change: Change, job: Job) -> Job:
        now = self._now()
        running = key_of("running", *identify(job.of))
        if change.get(running) == job.id:
            change.delete(running)
            spent = max(0.0, now - (job.started_at or now))
            _add(change, "fit-seconds", spent)
            _add(change, "fit-runs", 1)
        job = job.with_(finished_at=now, token=None)
        put_job(change, job)
        for key, _ in change.scan(below("job-seen", job.id)):
            change.delete(key)
        return job

    def _held(self, change: Change, lease: Lease) -> Job:
        job = job_of(change, lease.job.id)
        if job.status is not JobStatus.RUNNING or job.token != lease.token:
            raise LeaseLost(
                f"lease lost: job {job.id} is now {job.status.value}; result discarded"
            )
        return job

    def set_version_error(self, job_id: str, error: str | None) -> None:
        """Store on a job why its version is not served; None if it is served.

        Raises:
            JobNotFound: if there is none of that id.
        """
        said = None if error is None else _storable(error)
        self._state.change(
            lambda change: put_job(change, job_of(change, job_id).with_(error=said))
        )

    # What people ask

    def cancel(self, job_id: str) -> Job:
        """Cancel a queued job, or ask a running one to stop; ended jobs are unchanged.

        Raises:
            JobNotFound: if there is none of that id.
        """

        def work(change: Change) -> Job:
            job = job_of(change, job_id)
            if job.status is JobStatus.QUEUED:
                unqueue(change, job)
                return self._end(change, job.with_(status=JobStatus.CANCELLED))
            if job.status is JobStatus.RUNNING:
                job = job.with_(cancel_requested=True)
                put_job(change, job)
            return job

        return self._state.change(work)

    def retry(self, job_id: str) -> Job:
        """Queue a job again that failed or was cancelled.

        Returns:
            The job that runs next. If the project has a queued job already, that one,
            due now.

        Raises:
            JobNotFound: if there is none of that id.
        """

        def work(change: Change) -> Job:
            job = job_of(change, job_id)
            if job.status not in {JobStatus.FAILED, JobStatus.CANCELLED}:
                return job
            if job.merge_key is not None:
                other = waiting(change, job.of, job.merge_key)
                if other is not None:
                    now = self._now()
                    other = other.with_(due_at=now, asked_at=now)
                    queue(change, other)
                    return other
            again = {
                "status": JobStatus.QUEUED,
                "attempts": 0,
                "progress": None,
                "metrics": {},
                "error": None,
                "traceback": None,
                "note": None,
                "started_at": None,
                "finished_at": None,
                "cancel_requested": False,
                "due_at": self._now(),
                "asked_at": self._now(),  # or it would wait for enough annotations
            }
            job = job.with_(**again)
            queue(change, job)
            return job

        return self._state.change(work)

    def prune(self, keep: int) -> int:
        """Delete the oldest jobs that have ended.

        Args:
            keep: how many to keep.

        Returns:
            How many were deleted.
        """
        ended = [job.id for job in self._all() if job.status.is_end]
        old = ended[: max(0, len(ended) - keep)]
        return sum(self._state.change(partial(_forget_ended, job_id=j)) for j in old)

    def figures(self) -> dict[str, Any]:
        """Figures for monitoring.

        Returns:
            ``jobs``: number by status; ``oldest_queued_s``: seconds that the job that
            became due first has waited; ``fit_seconds``, ``fits``: of all runs.
        """
        counted = dict.fromkeys(JobStatus, 0)
        waits = [0.0]
        for job in self._all():
            counted[job.status] += 1
            if job.status is JobStatus.QUEUED and job.due_at is not None:
                waits.append(self._now() - job.due_at)
        seconds, runs = self.totals()
        return {
            "jobs": {status.value: number for status, number in counted.items()},
            "oldest_queued_s": max(waits),
            "fit_seconds": seconds,
            "fits": runs,
        }

    def totals(self) -> tuple[float, int]:
        """The total duration of all runs in seconds, and their number."""
        seconds = self._state.get(key_of("total", "fit-seconds"))
        runs = self._state.get(key_of("total", "fit-runs"))
        return float(seconds or 0), int(float(runs or 0))


def forget(change: Change, job_id: str) -> None:
    """Delete a job that ended, with its data, log and events."""
    change.delete(key_of("job", job_id))
    for part in _PARTS:
        change.delete(key_of(part, job_id))
    for part in _LISTS:
        for key, _ in change.scan(below(part, job_id)):
            change.delete(key)


def _forget_ended(change: Change, job_id: str) -> bool:
    """Delete a job unless it was queued again; whether it was deleted."""
    found = change.get(key_of("job", job_id))
    if found is None or not parsed_job(job_id, found).status.is_end:
        return False
    forget(change, job_id)
    return True


def _storable(text: str) -> str:
    """Text with lone surrogates escaped, which file names may contain."""
    return text.encode("utf-8", "backslashreplace").decode()


def _add(change: Change, name: str, amount: float) -> None:
    key = key_of("total", name)
    change.put(key, str(float(change.get(key) or 0) + amount))


def _due(reader: State | Change, now: float, prefix: str) -> Iterator[Job]:
    """The first due job of each project that has none running.

    Args:
        reader: a state, or a change of it.
        now: in seconds since the epoch.
        prefix: of the keys of the queue, or of one project's part of it.
    """
    after = ""
    while found := reader.scan(prefix, after, 1):
        _, id_, created_at, job_id = found[0][0].split(SEPARATOR)
        is_busy = reader.get(key_of("running", id_, created_at)) is not None
        job = None if is_busy else _queued(reader, job_id)
        is_due = job is not None and job.due_at is not None and job.due_at <= now
        if job is not None and is_due:
            yield job
        if is_busy or is_due:
            # Skip the rest of the project, which may have thousands of queued jobs.
            after = below("queue", id_, created_at) + "\U0010ffff"
        else:
            after = found[0][0]


def _queued(reader: State | Change, job_id: str) -> Job | None:
    """A job, if it is queued."""
    job = readable_job(reader, job_id)
    return job if job is not None and job.status is JobStatus.QUEUED else None


def _readable(stored: Iterable[tuple[str, str]]) -> Iterator[Job]:
    """The jobs of keys and values, without those whose record is damaged."""
    for key, value in stored:
        job = readable(key.rpartition(SEPARATOR)[2], value)
        if job is not None:
            yield job
