"""Promoting the versions that runs create, and deleting what is no longer needed."""

from __future__ import annotations

import logging
from functools import partial

from lsml_bento.contract import Project
from lsml_bento.errors import JobNotFound, LeaseLost, StateError, WeightsError
from lsml_bento.jobs.job import Job, JobStatus
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.settings import Settings
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Versions
from lsml_bento.versions.version import Version, promote
from lsml_bento.versions.weights import Weights, parse_tag, store_name

log = logging.getLogger(__name__)

_ABANDONED_S = 600.0
"""Weights of no version are deleted at this age, in seconds."""


class Publisher:
    """Promotes versions, and deletes old jobs and weights.

    Args:
        backend: its name.
        state: shared with the other processes.
        weights: the model store.
        settings: how many versions and jobs to keep.
        abandoned_s: weights of no version are deleted at this age.
    """

    def __init__(
        self,
        backend: str,
        state: State,
        weights: Weights,
        settings: Settings,
        *,
        abandoned_s: float = _ABANDONED_S,
    ) -> None:
        self._backend = backend
        self._state = state
        self._job_store = JobStore(state)
        self._versions = Versions(state)
        self._weights = weights
        self._settings = settings
        self._abandoned_s = abandoned_s

    def publish(self, lease: Lease, version: Version | None) -> Job:
        """End a job successfully and promote the version that it created.

        Raises:
            LeaseLost: if the run does not hold the job any more.
            JobNotFound: if its project was deleted meanwhile.
            StateError: if the state is unavailable. The caller may retry.
        """
        if version is None:
            return self._job_store.succeed(lease, None, {})
        try:
            job = self._job_store.succeed(
                lease,
                version.version,
                version.metrics,
                also=partial(promote, project=lease.job.of, version=version),
            )
        except (LeaseLost, JobNotFound):
            self.drop(version, lease.job)
            raise
        if job.status is JobStatus.CANCELLED:
            self.drop(version, job)
        else:
            self._retire(job)
        return job

    def drop(self, version: Version, job: Job) -> None:
        """Delete the weights of a version, unless another version uses them."""
        try:
            if version.tag and version.tag not in self._versions.tags():
                self._weights.delete(version.tag)
        except (StateError, WeightsError) as error:
            log.warning("Weights not deleted: %s job=%s", error, job.id)

    def _retire(self, job: Job) -> None:
        try:
            for old in self._versions.retire(job.of, self._settings.keep_versions):
                if old.tag:
                    self._weights.delete(old.tag)
                    log.info("Version retired: %s project=%s", old.version, job.project)
        except (StateError, WeightsError) as error:
            log.warning("Old versions not retired: %s job=%s", error, job.id)

    def tidy(self) -> None:
        """Delete old jobs, and weights that killed runs left in the store."""
        try:
            self._job_store.prune(self._settings.keep_jobs)
            projects = set(self._state.projects()) - _in_training(self._state)
            names = [store_name(self._backend, project) for project in projects]
            known = self._versions.tags()
            for left in self._weights.sweep(names, known, self._abandoned_s):
                log.info("Weights deleted: %s was left by a run that died", left)
        except (StateError, WeightsError) as error:
            log.warning("Old jobs and weights not deleted: %s", error)


def sweep(state: State, weights: Weights, abandoned_s: float = _ABANDONED_S) -> None:
    """Delete the weights of retired versions from a server's own model store.

    A worker retires versions and deletes them from its own store only.

    Args:
        state: shared with the other processes.
        weights: those of the store.
        abandoned_s: weights of no version are deleted at this age.
    """
    versions = Versions(state)
    try:
        projects = versions.pointers().keys() - _in_training(state)
        served = [version.tag for one in projects for version in versions.all(one)]
        names = {parse_tag(tag)[0] for tag in served if tag}
        for left in weights.sweep(names, versions.tags(), abandoned_s):
            log.info("Weights deleted: no version uses %s", left)
    except (StateError, WeightsError) as error:
        log.warning("Weights of retired versions not deleted: %s", error)


def _in_training(state: State) -> set[Project]:
    """The projects with a running job, which may be testing its weights."""
    return {job.of for job in JobStore(state).jobs(status=JobStatus.RUNNING)}
