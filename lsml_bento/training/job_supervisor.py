"""Supervising one run of a job, from the lease to the promoted version."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lsml_bento.contract import Project
from lsml_bento.errors import JobNotFound, LeaseLost, StateError, WeightsError
from lsml_bento.jobs.job import Job, JobStatus
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.settings import Settings
from lsml_bento.state.store import State
from lsml_bento.training.child_process import FitProcess, Message
from lsml_bento.versions.registry import Version, Versions, promote
from lsml_bento.versions.weights import Weights, parse_tag, store_name

log = logging.getLogger(__name__)

_RENEW_S = 1.0
_TRY_AGAIN_S = 0.5

GRACE_S = 5.0
"""Seconds that a ``fit`` has to stop before it is killed."""

_ABANDONED_S = 600.0
"""Weights of no version are deleted at this age, in seconds."""


class JobSupervisor:
    """Sends a job to a process, renews its lease and ends the job.

    Args:
        lease: of the job.
        process: runs ``fit``.
        job_store: where the job is.
        publisher: promotes the version that the run created.
        timeout_s: a ``fit`` that takes longer fails.
        is_stopping: returns whether the worker was stopped.
        grace_s: seconds that a ``fit`` has to stop before it is killed.
    """

    def __init__(
        self,
        lease: Lease,
        process: FitProcess,
        job_store: JobStore,
        publisher: Publisher,
        timeout_s: float,
        is_stopping: Callable[[], bool],
        grace_s: float = GRACE_S,
    ) -> None:
        self._lease = lease
        self._job = lease.job
        self._process = process
        self._job_store = job_store
        self._publisher = publisher
        self._timeout_s = timeout_s
        self._is_stopping = is_stopping
        self._grace_s = grace_s
        self._shown: list[str] = []
        self._reported: dict[str, Any] = {"metrics": {}}
        self._renewed_at = 0.0
        self._kill_at: float | None = None
        self._deadline = time.monotonic() + timeout_s
        self._is_late = False

    def run(self) -> bool:
        """Run the job to its end.

        Returns:
            Whether the process can run another job.

        Raises:
            LeaseLost: if another run has taken the job.
        """
        self._log(
            "Fit started", f"attempt={self._job.attempts} pid={self._process.pid}"
        )
        self._process.send(self._job)
        while True:
            message = self._process.receive(timeout_s=0.2)
            if self._is_stopping():
                return self._put_back(message or {})
            if message is None and not self._process.is_alive:
                return self._died()
            if message is not None and "report" in message:
                self._take(message["report"])
            elif message is not None:
                return self._ended(message)
            if time.monotonic() - self._renewed_at >= _RENEW_S:
                self._renew()
            self._hurry()

    # While it runs

    def _take(self, report: dict[str, Any]) -> None:
        metrics = {**self._reported["metrics"], **(report.pop("metrics", None) or {})}
        news = {key: value for key, value in report.items() if value is not None}
        self._reported = {**self._reported, **news, "metrics": metrics}

    def _renew(self) -> None:
        log_tail = self._process.log_tail
        try:
            is_cancelled = self._job_store.renew(
                self._lease,
                log_tail=None if log_tail == self._shown else log_tail,
                **self._reported,
            )
        except StateError as error:
            log.warning("Lease not renewed: %s job=%s", error, self._job.id)
            return
        self._renewed_at = time.monotonic()
        self._shown = log_tail
        if is_cancelled:
            self._ask_to_stop()

    def _hurry(self) -> None:
        """Kill a run that was asked to stop and has not."""
        now = time.monotonic()
        if now > self._deadline and not self._is_late:
            self._is_late = True
            self._ask_to_stop()
        if self._kill_at is not None and now > self._kill_at:
            self._process.kill()

    def _ask_to_stop(self) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace_s
            self._process.ask_to_stop()

    # How it ends

    def _ended(self, message: Message) -> bool:
        self._process.await_log(timeout_s=1)
        try:
            self._renew()
        except (LeaseLost, JobNotFound):
            self._drop(message)
            raise
        if self._is_late:
            self._drop(message)
            self._fail("")
        elif "done" in message:
            self._succeed(message["done"])
        elif message.get("again") and self._kill_at is None:
            self._lose(str(message.get("failed")))
        else:
            self._fail(str(message.get("failed")), message.get("traceback"))
        # A stopped run that failed may have left something running: kill all of it.
        return self._kill_at is None or "failed" not in message

    def _succeed(self, made: dict[str, Any] | None) -> None:
        version = None if made is None else Version.model_validate(made)
        job = self._written(lambda: self._publisher.publish(self._lease, version))
        note = f" note={job.note!r}" if job.note else ""
        self._log(f"Fit {job.status.value}", f"version={job.version!r}{note}")

    def _fail(self, error: str, traceback: str | None = None) -> None:
        if self._is_late:
            error = f"fit took longer than {self._timeout_s:g} s (LSML_FIT_TIMEOUT_S)"
        job = self._written(lambda: self._job_store.fail(self._lease, error, traceback))
        shown = traceback if job.error else None
        event = f"Fit {job.status.value}: {job.error or 'on request'}"
        self._log(event, traceback=shown)

    def _died(self) -> bool:
        reason = self._process.cause_of_death()
        self._process.await_log(timeout_s=1)
        self._renew()
        if self._kill_at is not None:
            self._fail("it was stopped")
        else:
            self._lose(reason)
        return False

    def _lose(self, reason: str) -> None:
        job = self._written(lambda: self._job_store.crash(self._lease, reason))
        self._log(f"Fit lost: {reason}", f"status={job.status.value}")

    def _put_back(self, message: Message) -> bool:
        self._process.kill()
        self._drop(message)
        self._written(lambda: self._job_store.put_back(self._lease))
        self._log("Job put back: the worker is stopping")
        return False

    def _drop(self, message: Message) -> None:
        """Delete the weights of a version that will not be served."""
        if message.get("done") is not None:
            self._publisher.drop(Version.model_validate(message["done"]), self._job)

    def _written(self, write: Callable[[], Job]) -> Job:
        """Write to the job, and retry until the state is available."""
        while True:
            try:
                return write()
            except StateError as error:
                log.warning("Job not written, retrying: %s job=%s", error, self._job.id)
                if self._is_stopping():
                    raise LeaseLost(
                        f"job {self._job.id} could not be written, and the worker ends"
                    ) from error
                time.sleep(_TRY_AGAIN_S)

    def _log(self, event: str, details: str = "", traceback: str | None = None) -> None:
        about = self._job.id, self._job.project, f" {details}" if details else ""
        extra = {"traceback": traceback}
        log.info("%s job=%s project=%s%s", event, *about, extra=extra)


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

    A worker retires versions and deletes them from its own store only. Weights of no
    version are deleted when they are ``abandoned_s`` old.
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
