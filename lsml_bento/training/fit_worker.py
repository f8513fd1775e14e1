"""A worker, which carries out the jobs that Huey's consumer takes from the queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from lsml_bento.contract import Project
from lsml_bento.error_text import describe
from lsml_bento.errors import JobNotFound, LeaseLost, QueueError, StateError
from lsml_bento.jobs.event_writer import Outage
from lsml_bento.jobs.job import JobStatus
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.settings import Settings
from lsml_bento.state.store import State
from lsml_bento.training.child_process import FitProcess
from lsml_bento.training.job_supervisor import JobSupervisor, Publisher

log = logging.getLogger(__name__)

_CHECK_S = 1.0
"""How often expired leases and due jobs without a message are looked for."""

_RETRY_S = 1.0
"""Until the next run of a job whose process could not be started."""

_TIDY_S = 600.0
"""How often old jobs and weights of no version are removed."""

_LEAVE_S = 2.0
"""How long a worker that ends waits for their removal."""


class Queue(Protocol):
    """Where jobs wait; implemented by ``adapters.huey_queue``."""

    def enqueue(self, job_id: str, due_at: float | None = None) -> None:
        """Have a worker carry out a job, now or when it is due.

        Raises:
            QueueError: if the queue is unavailable.
        """

    def waiting(self) -> set[str]:
        """The jobs with a message that waits for a worker.

        Raises:
            QueueError: if the queue is unavailable.
        """

    def consume(self, fit: Callable[[str], float | None], workers: int) -> Any:
        """A ``huey.consumer.Consumer`` with ``workers`` threads."""


class _Slot:
    """One of the fits that run at a time, with its GPU and its child process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: FitProcess | None = None
        self.project = ""
        self.moved_at = time.monotonic()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None


def fit_gpus(settings: Settings) -> list[str]:
    """The GPUs that the fits share out by slot; empty if each fit sees all of them."""
    gpus = [gpu.strip() for gpu in (settings.train_gpus or "").split(",")]
    return gpus if settings.fits > 1 and len(gpus) > 1 else []


class FitWorker:
    """Runs ``settings.fits`` jobs of different projects at a time, until stopped.

    Args:
        name: of this worker, unique among those of the backend.
        state: shared with the other processes.
        queue: where the jobs' messages are.
        publisher: promotes the versions that fits make.
        settings: what the environment decides.
        start: starts the process of a fit, given the number of its slot.
        keeps_process: whether a process is kept for further jobs.
    """

    def __init__(
        self,
        name: str,
        state: State,
        queue: Queue,
        publisher: Publisher,
        settings: Settings,
        start: Callable[[int], FitProcess],
        *,
        keeps_process: bool,
    ) -> None:
        self._name = name
        self._job_store = JobStore(state)
        self._queue = queue
        self._publisher = publisher
        self._settings = settings
        self._start = start
        self._keeps_process = keeps_process
        self._slots = [_Slot(number) for number in range(settings.fits)]
        self._free = list(self._slots)
        self._lock = threading.Lock()
        self._tidy_at = 0.0
        self._tidying = threading.Thread()
        self._state_outage = Outage("Jobs")
        self._queue_outage = Outage("Queue")
        # Unlike an Event's set(), its put() is safe in a signal handler.
        self._stops: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self._moved_at = time.monotonic()

    # The process's main thread

    def stop(self) -> None:
        """Put the running jobs back and end; safe in a signal handler."""
        self._stopping = True
        self._stops.put(None)

    @property
    def is_stopping(self) -> bool:
        """Whether the worker was stopped."""
        return self._stopping

    @property
    def still_s(self) -> float:
        """For how many seconds the main thread, or a fit's thread, has not moved."""
        with self._lock:
            busy = [slot.moved_at for slot in self._slots if slot not in self._free]
        return time.monotonic() - min([self._moved_at, *busy])

    def pause(self, seconds: float) -> None:
        """Wait this long, or until the worker is stopped."""
        self._moved_at = time.monotonic()
        with suppress(Empty):
            self._stops.get(timeout=seconds)

    def work(self) -> None:
        """Carry out jobs until ``stop``."""
        consumer = self._queue.consume(self.fit, self._settings.fits)
        self._check()
        consumer.start()
        try:
            while not self._stopping:
                self.pause(_CHECK_S)
                self._check()
                consumer.check_worker_health()
        finally:
            self._stopping = True
            consumer.stop(graceful=True)  # returns when the jobs have been put back
            for slot in self._slots:
                slot.close()
            if self._tidying.is_alive():
                self._tidying.join(timeout=_LEAVE_S)

    def _check(self) -> None:
        """Enqueue jobs whose worker died or whose message was lost; delete old jobs."""
        try:
            for job in self._job_store.expire():
                reason = job.error or job.note
                log.warning(
                    "Lease expired: %s job=%s status=%s",
                    reason,
                    job.id,
                    job.status.value,
                )
            self._state_outage.ended()
        except StateError as error:
            self._state_outage.began(error)
            return
        self._enqueue_due()
        now = time.monotonic()
        idle = []
        with self._lock:
            for slot in self._free:
                is_idle = now - slot.moved_at > self._settings.fit_idle_s
                if slot.process is not None and is_idle:
                    idle.append(slot.process)
                    slot.process = None
        for process in idle:
            process.kill()  # without the lock, as it may take seconds
        if now > self._tidy_at and not self._tidying.is_alive():
            self._tidy_at = now + _TIDY_S
            # In a thread of its own, as a remote model store may take minutes.
            self._tidying = threading.Thread(target=self._tidy, daemon=True)
            self._tidying.start()

    def _tidy(self) -> None:
        try:
            self._publisher.tidy()
        except Exception:
            log.exception("Old jobs and weights not deleted")

    def _enqueue_due(self, project: Project | None = None) -> None:
        """Give each due job, or that of one project, a message if it has none."""
        try:
            waiting = self._queue.waiting()
            for job in self._job_store.due(project):
                if job.id not in waiting:
                    self._queue.enqueue(job.id)
            self._queue_outage.ended()
        except QueueError as error:
            self._queue_outage.began(error)
        except StateError as error:
            self._state_outage.began(error)

    # Huey's threads

    def fit(self, job_id: str) -> float | None:
        """Carry out a job, or the one of its project that is due before it.

        A message whose job has ended, or whose project has a running job, is dropped:
        the end of a run enqueues the next job of its project.

        Returns:
            When the job is due, in seconds since the epoch, if that is later than now.
        """
        if self._stopping:
            return None  # the next worker enqueues the job
        try:
            job = self._job_store.find(job_id)
            if job.status is not JobStatus.QUEUED or job.due_at is None:
                return None
            if job.due_at > time.time():
                return job.due_at
            for due in self._job_store.due(job.of):
                lease = self._job_store.lease(self._name, due.id)
                if lease is not None:
                    self._carry_out(lease)
                    if not self._stopping:
                        self._enqueue_due(job.of)
        except JobNotFound:
            return None
        except StateError as error:
            self._state_outage.began(error)
        return None

    def _carry_out(self, lease: Lease) -> None:
        slot = self._take_slot(lease.job.project)
        is_reusable = False
        try:
            is_reusable = self._supervise(lease, slot)
        except (LeaseLost, JobNotFound) as error:
            log.warning("Run ended: %s job=%s", error, lease.job.id)
        except StateError:
            raise  # the lease expires, and the job runs again
        except Exception as error:
            log.exception("Fit aborted: job=%s", lease.job.id)
            self._crash(lease, f"an unexpected error: {describe(error)}")
        finally:
            if not (is_reusable and self._keeps_process):
                slot.close()
            with self._lock:
                slot.moved_at = time.monotonic()
                self._free.append(slot)

    def _supervise(self, lease: Lease, slot: _Slot) -> bool:
        """Run a job in the process of a slot; whether it can run another job."""
        try:
            process = self._process_of(slot)
        except OSError as error:
            time.sleep(_RETRY_S)  # under the lease, so that no later job overtakes it
            self._crash(lease, f"the process of fit cannot be started: {error}")
            return False
        return JobSupervisor(
            lease,
            process,
            self._job_store,
            self._publisher,
            self._settings.fit_timeout_s,
            lambda: self._is_stopping(slot),
        ).run()

    def _take_slot(self, project: str) -> _Slot:
        """A free slot: with a process kept for the project, or the idlest GPU."""
        gpus = max(1, len(fit_gpus(self._settings)))
        with self._lock:
            busy = [s.number % gpus for s in self._slots if s not in self._free]
            slot = min(
                self._free,
                key=lambda s: (
                    s.process is None or s.project != project,
                    busy.count(s.number % gpus),
                    s.number,
                ),
            )
            self._free.remove(slot)
            slot.project = project
            slot.moved_at = time.monotonic()
        return slot

    def _process_of(self, slot: _Slot) -> FitProcess:
        if slot.process is not None and not slot.process.is_alive:
            slot.close()
        if slot.process is None:
            slot.process = self._start(slot.number)
        return slot.process

    def _is_stopping(self, slot: _Slot) -> bool:
        """Asked by each supervisor several times a second."""
        slot.moved_at = time.monotonic()
        return self._stopping

    def _crash(self, lease: Lease, reason: str) -> None:
        try:
            job = self._job_store.crash(lease, reason)
        except (LeaseLost, JobNotFound, StateError) as error:
            log.warning("Job not queued again: %s job=%s", error, lease.job.id)
        else:
            log.error(
                "Fit ended: %s job=%s project=%s status=%s",
                reason,
                job.id,
                job.project,
                job.status.value,
            )
