"""A worker's desk: takes a job when one is due, one at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from lsml_bento.errors import JobNotFound, LeaseLost, StateError
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.settings import Settings
from lsml_bento.state.store import State
from lsml_bento.training.child_process import FitProcess
from lsml_bento.training.job_supervisor import JobSupervisor
from lsml_bento.training.publisher import Publisher

log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""How often the ledger is looked at, woken or not."""

_TIDY_S = 600.0
"""How often old jobs go, and weights that no record knows."""


class Desk:
    """Carries out jobs until it is told to stop.

    Args:
        name: of this worker, unique among those of the backend.
        state: shared with the other processes.
        publisher: promotes what runs made.
        settings: what the environment decides.
        start: makes a process for fits.
        keeps_process: whether one process serves several jobs.
    """

    def __init__(
        self,
        name: str,
        state: State,
        publisher: Publisher,
        settings: Settings,
        start: Callable[[], FitProcess],
        *,
        keeps_process: bool,
    ) -> None:
        self._name = name
        self._job_store = JobStore(state)
        self._publisher = publisher
        self._settings = settings
        self._start = start
        self._keeps_process = keeps_process
        self._process: FitProcess | None = None
        self._idle_since = 0.0
        self._tidied_at: float | None = None
        # Unlike an Event's, its put() may come out of a signal handler at any moment.
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self._is_away = False
        self._moved_at = time.monotonic()

    def wake(self) -> None:
        """Look for jobs that are due, now."""
        self._calls.put(None)

    def stop(self) -> None:
        """Put the running job back, and end; safe in a signal handler."""
        self._stopping = True
        self._calls.put(None)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopping

    @property
    def still_s(self) -> float:
        """For how many seconds nothing has moved here, in a run neither."""
        return time.monotonic() - self._moved_at

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than to the next call."""
        self._moved_at = time.monotonic()
        with suppress(Empty):
            self._calls.get(timeout=seconds)
            while True:
                self._calls.get_nowait()

    def work(self) -> None:
        """Carry out jobs until ``stop``."""
        try:
            while not self._stopping:
                lease = self._next()
                if lease is not None:
                    self._carry_out(lease)
                else:
                    self._rest()
                    self.pause(_LOOK_S)
        finally:
            self._let_go()

    def _next(self) -> Lease | None:
        """A job that is due, with those of workers that died among them."""
        try:
            for job in self._job_store.expire():
                why = job.error or job.note
                log.warning("job=%s %s: %s", job.id, job.status.value, why)
            lease = self._job_store.lease(self._name)
        except StateError as error:
            if not self._is_away:
                log.error("jobs can not be read, and are tried for again: %s", error)
            self._is_away = True
            return None
        self._is_away = False
        return lease

    def _carry_out(self, lease: Lease) -> None:
        is_well = False
        try:
            process = self._free_process()
            watch = JobSupervisor(
                lease,
                process,
                self._job_store,
                self._publisher,
                self._settings.fit_timeout_s,
                self._is_told_to_stop,
            )
            is_well = watch.see_through()
        except (LeaseLost, JobNotFound) as error:
            log.warning("%s", error)
        except OSError as error:
            self._give_back(lease, f"the process of fit could not be started: {error}")
        finally:
            if not (is_well and self._keeps_process):
                self._let_go()
            self._idle_since = time.monotonic()

    def _is_told_to_stop(self) -> bool:
        """Asked by a run, several times a second."""
        self._moved_at = time.monotonic()
        return self._stopping

    def _give_back(self, lease: Lease, reason: str) -> None:
        try:
            job = self._job_store.crash(lease, reason)
            log.error("job=%s %s: %s", job.id, job.status.value, reason)
        except (LeaseLost, JobNotFound, StateError) as error:
            log.warning("%s", error)
        self.pause(_LOOK_S)

    def _free_process(self) -> FitProcess:
        if self._process is not None and not self._process.is_alive:
            self._let_go()
        if self._process is None:
            self._process = self._start()
        return self._process

    def _let_go(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _rest(self) -> None:
        now = time.monotonic()
        if now - self._idle_since > self._settings.fit_idle_s:
            self._let_go()
        if self._tidied_at is None or now - self._tidied_at > _TIDY_S:
            self._tidied_at = now
            self._publisher.tidy()
