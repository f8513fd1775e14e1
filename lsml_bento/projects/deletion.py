"""Deletes a project's values, annotations, jobs, versions and weights.

It proceeds in steps. After each one the state is valid for all other processes, and a
second attempt can finish the deletion: the project's own entry is deleted last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from lsml_bento.contract import Project
from lsml_bento.errors import StillRunning
from lsml_bento.jobs.job import LEASE_S, Job, JobStatus
from lsml_bento.jobs.job_store import JobStore, forget
from lsml_bento.state.store import SEPARATOR, Change, State, below, identify, key_of
from lsml_bento.versions.registry import Versions, move
from lsml_bento.versions.weights import Weights, store_name

KEYS = 500
"""Maximum number of keys that one change deletes; webhooks wait for it."""

STOP_S = LEASE_S + 9.0
"""Seconds to wait until a running job has stopped, or its lease has expired."""

_POLL_S = 0.2
_PREFIXES = ("journal", "annotation", "value", "base-value", "version")
_KEYS = (
    "total-annotations",
    "project-updated",
    "last-job",
    "running",
    "pointer",
    "project",
)


class StoredCounts(NamedTuple):
    """What is stored for a project.

    Attributes:
        annotations: number of stored annotations.
        tasks: number of stored tasks.
        jobs: number of jobs of any status.
        versions: number of versions without the base version.
        values: number of values that the models set.
        weights: size of the versions' files in bytes.
    """

    annotations: int
    tasks: int
    jobs: int
    versions: int
    values: int
    weights: int


def count_stored(state: State, project: Project) -> StoredCounts:
    """Count what is stored for a project.

    Raises:
        StateError: if the state did not respond.
    """
    entries = tasks = 0
    for key, value in state.each(below("journal", *identify(project))):
        if not value.endswith(SEPARATOR):  # an entry that marks a deletion
            entries += 1
            tasks += key.endswith(SEPARATOR)
    versions = Versions(state).all(project)
    files = {v.tag: sum(size for size, _ in v.manifest.values()) for v in versions}
    return StoredCounts(
        annotations=entries - tasks,
        tasks=tasks,
        jobs=len(JobStore(state).jobs(str(project))),
        versions=len(versions),
        values=len(state.read(project)),
        weights=sum(size for tag, size in files.items() if tag),
    )


def forget_project(
    state: State, weights: Weights, backend: str, project: Project
) -> None:
    """Cancel a project's jobs, then delete everything that is stored for it.

    A server that serves the project returns to the base version within a second. That,
    and later requests of Label Studio, make the project known again.

    Raises:
        StillRunning: if a running job does not stop.
        StateError: if the state could not be changed.
        WeightsError: if the model store is not writable. Then versions whose weights
            could not be deleted stay registered.
    """
    _stop(JobStore(state), project)
    state.change(partial(move, project=project, version=None))
    known = Versions(state).all(project)
    left = weights.tags(store_name(backend, project))
    for tag in sorted({*left, *(v.tag for v in known if v.tag)}):
        weights.delete(tag)
    _forget_jobs(state, project)
    identity = identify(project)
    for name in _PREFIXES:
        _erase(state, below(name, *identity))

    def work(change: Change) -> None:
        for name in _KEYS:
            change.delete(key_of(name, *identity))

    state.change(work)


def _stop(job_store: JobStore, project: Project) -> None:
    """Cancel all jobs, and wait until none is running."""
    deadline = time.monotonic() + STOP_S
    while True:
        job_store.expire()
        jobs = [job for job in job_store.jobs(str(project)) if not job.status.is_end]
        for job in jobs:
            job_store.cancel(job.id)
        running = [job for job in jobs if job.status is JobStatus.RUNNING]
        if not running:
            return
        if time.monotonic() > deadline:
            raise StillRunning(
                f"job {running[0].id} of project {project} is running on "
                f"{running[0].worker} and does not stop: stop that worker and try again"
            )
        time.sleep(_POLL_S)


def _forget_jobs(state: State, project: Project) -> None:
    jobs = JobStore(state).jobs(str(project))
    for job in jobs:
        if job.events > KEYS:
            _erase(state, below("job-event", job.id))
    for batch in _batches(jobs):
        state.change(partial(_forget_ended, jobs=batch))


def _batches(jobs: list[Job]) -> Iterator[list[Job]]:
    """Jobs in groups that have about ``KEYS`` keys together."""
    batch: list[Job] = []
    keys = 0
    for job in jobs:
        keys += 3 + (job.events if job.events <= KEYS else 0)
        if batch and keys > KEYS:
            yield batch
            batch, keys = [], 0
        batch.append(job)
    if batch:
        yield batch


def _forget_ended(change: Change, jobs: list[Job]) -> None:
    for job in jobs:
        found = change.get(key_of("job", job.id))
        # A job that was queued again in the meantime must stay complete.
        if found is not None and Job.model_validate_json(found).status.is_end:
            forget(change, job.id)


def _erase(state: State, prefix: str) -> None:
    while state.change(partial(_erase_some, prefix=prefix)):
        pass


def _erase_some(change: Change, prefix: str) -> bool:
    """Delete up to ``KEYS`` keys; return whether there may be more."""
    found = change.scan(prefix, limit=KEYS)
    for key, _ in found:
        change.delete(key)
    return len(found) == KEYS
