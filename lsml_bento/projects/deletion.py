"""Forgetting a project: its values, annotations, jobs and versions, with their weights.

It goes in steps that each leave a state which the other processes can live with, and
that a second try finishes: what names the project is deleted last.
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
from lsml_bento.versions.registry import Versions
from lsml_bento.versions.version import move
from lsml_bento.versions.weights import Weights, store_name

KEYS = 500
"""Keys that one change deletes at most, so that webhooks need not wait for it."""

STOP_S = LEASE_S + 9.0
"""How long a run may take to stop, or its silence to be noticed."""

_LOOK_S = 0.2
_ALL_OF = ("journal", "annotation", "value", "base-value", "version")
_ONE_OF = (
    "total-annotations",
    "project-updated",
    "last-job",
    "running",
    "pointer",
    "project",
)


class Holdings(NamedTuple):
    """What is kept for a project.

    Attributes:
        annotations: in the journal.
        tasks: likewise.
        jobs: of any status.
        versions: without the base.
        values: that the models set.
        weights: bytes of the versions' files.
    """

    annotations: int
    tasks: int
    jobs: int
    versions: int
    values: int
    weights: int


def holdings(state: State, project: Project) -> Holdings:
    """What there is to forget.

    Raises:
        StateError: if the state did not answer.
    """
    entries = tasks = 0
    for key, value in state.each(below("journal", *identify(project))):
        if not value.endswith(SEPARATOR):  # or it is gone
            entries += 1
            tasks += key.endswith(SEPARATOR)
    versions = Versions(state).all(project)
    files = {v.tag: sum(size for size, _ in v.manifest.values()) for v in versions}
    return Holdings(
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
    """Delete all that is kept for a project; its jobs are cancelled before.

    A server that serves the project goes back to the base within a second. That, and
    what Label Studio sends afterwards, makes the project known again.

    Args:
        state: shared by all processes of the backend.
        weights: where those of versions are.
        backend: its name.
        project: with its ``created_at``.

    Raises:
        StillRunning: if a run does not stop.
        StateError: if the state could not be changed.
        WeightsError: if the model store can not be written. Then nothing that could
            not be deleted is forgotten.
    """
    _stop(JobStore(state), project)
    state.change(partial(move, project=project, version=None))
    known = Versions(state).all(project)
    left = weights.tags(store_name(backend, project))
    for tag in sorted({*left, *(v.tag for v in known if v.tag)}):
        weights.delete(tag)
    _forget_jobs(state, project)
    identity = identify(project)
    for name in _ALL_OF:
        _erase(state, below(name, *identity))

    def work(change: Change) -> None:
        for name in _ONE_OF:
            change.delete(key_of(name, *identity))

    state.change(work)


def _stop(job_store: JobStore, project: Project) -> None:
    """Cancel what waits, and wait for what runs."""
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
                f"job {running[0].id} of project {project} runs on {running[0].worker} "
                "and does not stop: end that worker, then try again"
            )
        time.sleep(_LOOK_S)


def _forget_jobs(state: State, project: Project) -> None:
    jobs = JobStore(state).jobs(str(project))
    for job in jobs:
        if job.events > KEYS:
            _erase(state, below("job-event", job.id))
    for batch in _batches(jobs):
        state.change(partial(_forget_ended, jobs=batch))


def _batches(jobs: list[Job]) -> Iterator[list[Job]]:
    """Jobs that have some ``KEYS`` keys together."""
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
        # One that was queued again meanwhile must stay whole, or workers trip over it.
        if found is not None and Job.model_validate_json(found).status.is_end:
            forget(change, job.id)


def _erase(state: State, prefix: str) -> None:
    while state.change(partial(_erase_some, prefix=prefix)):
        pass


def _erase_some(change: Change, prefix: str) -> bool:
    """Whether there may be more."""
    found = change.scan(prefix, limit=KEYS)
    for key, _ in found:
        change.delete(key)
    return len(found) == KEYS
