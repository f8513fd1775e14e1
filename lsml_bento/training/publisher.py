"""What a run made becomes the version that serves; what nobody needs any more goes."""

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
"""Weights that no version has, and no run may be trying, are removed at this age."""


class Publisher:
    """Promotes versions, and tidies up.

    Args:
        backend: its name.
        state: shared with the other processes.
        weights: where those of versions are.
        settings: how much is kept.
        abandoned_s: weights that no version has are removed at this age.
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
        """End a job well, with the version that it made.

        Raises:
            LeaseLost: if the run does not hold the job any more.
            JobNotFound: if its project was forgotten meanwhile.
            StateError: if the state did not take it: to be tried again.
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
        """Remove weights that nobody will serve, unless they are another version's."""
        try:
            if version.tag and version.tag not in self._versions.tags():
                self._weights.delete(version.tag)
        except (StateError, WeightsError) as error:
            log.warning("job=%s %s", job.id, error)

    def _retire(self, job: Job) -> None:
        try:
            for old in self._versions.retire(job.of, self._settings.keep_versions):
                if old.tag:
                    self._weights.delete(old.tag)
                    log.info("project=%s version %s retired", job.project, old.version)
        except (StateError, WeightsError) as error:
            log.warning("job=%s old versions stay for now: %s", job.id, error)

    def tidy(self) -> None:
        """Remove old jobs, and what killed runs left in the store."""
        try:
            self._job_store.prune(self._settings.keep_jobs)
            projects = set(self._state.projects()) - _in_training(self._state)
            names = [store_name(self._backend, project) for project in projects]
            known = self._versions.tags()
            for left in self._weights.sweep(names, known, self._abandoned_s):
                log.info("%s was removed: a run that died had left it", left)
        except (StateError, WeightsError) as error:
            log.warning("nothing is tidied for now: %s", error)


def sweep(state: State, weights: Weights, abandoned_s: float = _ABANDONED_S) -> None:
    """Remove from a model store what is left of versions that were retired.

    A server with a store of its own pulls into it; who retires versions is a worker,
    which removes them from its own store.

    Args:
        state: shared with the other processes.
        weights: those of the store.
        abandoned_s: weights that no version has are removed at this age.
    """
    versions = Versions(state)
    try:
        projects = versions.pointers().keys() - _in_training(state)
        served = [version.tag for one in projects for version in versions.all(one)]
        names = {parse_tag(tag)[0] for tag in served if tag}
        for left in weights.sweep(names, versions.tags(), abandoned_s):
            log.info("%s was removed: no version has it any more", left)
    except (StateError, WeightsError) as error:
        log.warning("weights of retired versions stay for now: %s", error)


def _in_training(state: State) -> set[Project]:
    """The projects whose runs may be trying weights, for as long as they take."""
    return {job.of for job in JobStore(state).jobs(status=JobStatus.RUNNING)}
