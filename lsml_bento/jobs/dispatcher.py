"""Putting jobs on the queue from a thread, so that no request waits for the queue.

A message may be lost: the job store knows which jobs are due, and workers enqueue those
that have no message.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import SimpleQueue
from typing import Protocol

from lsml_bento.errors import LsmlError, QueueError
from lsml_bento.jobs.job import Job

log = logging.getLogger(__name__)

_WAITING_MOST = 1000
"""Jobs that may wait for the queue to return; a worker enqueues any further ones."""

_RETRY_S = 1.0


class Enqueue(Protocol):
    """Puts a job on a queue, as ``HueyQueue.enqueue``."""

    def __call__(self, job_id: str, due_at: float | None = None) -> None:
        """Enqueue a job, now or when it is due.

        Raises:
            QueueError: if the queue is unavailable.
        """


class Outage:
    """Logs once that something is unavailable, and once that it is available again.

    Args:
        name: of what may be unavailable, as the subject of a sentence.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_on = False
        self._lock = threading.Lock()

    def began(self, error: LsmlError) -> None:
        """Report a failure."""
        with self._lock:
            is_first, self._is_on = not self._is_on, True
        if is_first:
            log.warning(
                "%s unavailable, retrying: training waits, no job is lost: %s",
                self._name,
                error,
            )

    def ended(self) -> None:
        """Report a success."""
        if not self._is_on:
            return  # nearly always, and without a lock
        with self._lock:
            was_on, self._is_on = self._is_on, False
        if was_on:
            log.warning("%s available again", self._name)


class Dispatcher:
    """Enqueues jobs one after the other, and retries until the queue accepts them.

    Args:
        enqueue: puts a job on the queue.
        retry_s: pause after a failure.
    """

    def __init__(self, enqueue: Enqueue, retry_s: float = _RETRY_S) -> None:
        self._enqueue = enqueue
        self._retry_s = retry_s
        self._waiting: SimpleQueue[Job] = SimpleQueue()
        self._outage = Outage("Queue")
        threading.Thread(target=self._work, name="dispatcher", daemon=True).start()

    def dispatch(self, job: Job) -> None:
        """Have a job enqueued; returns at once and never fails."""
        if self._waiting.qsize() < _WAITING_MOST:
            self._waiting.put(job)

    def _work(self) -> None:
        while True:
            job = self._waiting.get()
            while not self._is_sent(job):
                time.sleep(self._retry_s)

    def _is_sent(self, job: Job) -> bool:
        try:
            self._enqueue(job.id, job.due_at)
        except QueueError as error:
            self._outage.began(error)
            return False
        except Exception:
            log.exception("Message not sent: job=%s project=%s", job.id, job.project)
        else:
            self._outage.ended()
        return True
