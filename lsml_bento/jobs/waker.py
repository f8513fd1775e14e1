"""Waking workers without waiting for the queue that does it.

A wake may be lost, late or one too many: the ledger says what is due, and workers look
into it by themselves, only later.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from lsml_bento.errors import QueueError

log = logging.getLogger(__name__)

PENDING_MOST = 1000
"""Jobs whose wake may wait for the queue; more than these need no wake of their own."""


class Send(Protocol):
    """Puts a wake on a queue, as ``HueyQueue.wake``."""

    def __call__(self, job_id: str, delay_s: float = 0.0) -> None:
        """Wake a worker now or later.

        Raises:
            QueueError: if the queue does not answer.
        """


class Outage:
    """Says once that something is away, and once that it is back.

    Args:
        name: of what is away, the subject of a sentence.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._parts: set[str] = set()
        self._lock = threading.Lock()

    def began(self, error: Exception, part: str = "", trace: bool = False) -> None:
        """Something failed.

        Args:
            error: how.
            part: what failed; it is all back once every part is.
            trace: whether the log gets the traceback.
        """
        with self._lock:
            first = not self._parts
            self._parts.add(part)
        if first:
            log.warning(
                "%s does not answer and is tried again until it does; training waits "
                "a little longer, nothing is lost: %s",
                self._name,
                error,
                exc_info=error if trace else None,
            )

    def ended(self, part: str = "") -> None:
        """Something worked."""
        if part not in self._parts:
            return  # as nearly always, and without a lock
        with self._lock:
            self._parts.discard(part)
            last = not self._parts
        if last:
            log.warning("%s answers again", self._name)


class Waker:
    """Sends wakes from a thread of its own, so that no request waits for the queue.

    Of several wakes of one job that have not been sent, the last one counts. What could
    not be sent is sent when the queue is back.

    Args:
        send: wakes a worker.
        pause_s: between two rounds of sending, in which wakes gather.
        retry_s: from a failed round to the next.
    """

    def __init__(
        self, send: Send, *, pause_s: float = 0.1, retry_s: float = 1.0
    ) -> None:
        self._send = send
        self._pause_s = pause_s
        self._retry_s = retry_s
        self._pending: dict[str, float] = {}
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._closing = threading.Event()
        self._outage = Outage("the queue that wakes workers")
        self._thread = threading.Thread(target=self._work, name="waker", daemon=True)
        self._thread.start()

    def wake(self, job_id: str, delay_s: float = 0.0) -> None:
        """Have a worker woken; returns at once and never fails.

        Args:
            job_id: the job.
            delay_s: from now.
        """
        due = time.monotonic() + delay_s
        with self._lock:
            if job_id in self._pending or len(self._pending) < PENDING_MOST:
                self._pending[job_id] = due
        self._asked.set()

    def close(self, timeout_s: float = 1.0) -> bool:
        """Send what is pending, once, and end.

        Args:
            timeout_s: how long to wait for that. A thread that is still stuck in the
                queue then is left alone: it does not keep the process.

        Returns:
            Whether the thread ended.
        """
        self._closing.set()
        self._asked.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._asked.wait()
            self._asked.clear()
            if self._flush():
                self._closing.wait(self._pause_s)
            else:
                self._closing.wait(self._retry_s)
                self._asked.set()
        if self._pending:
            self._flush()

    def _flush(self) -> bool:
        """Send what is pending; False if the queue does not answer."""
        with self._lock:
            batch, self._pending = self._pending, {}
        for job_id in list(batch):
            try:
                self._send(job_id, max(0.0, batch[job_id] - time.monotonic()))
            except QueueError as error:
                self._outage.began(error)
                with self._lock:
                    self._pending = {**batch, **self._pending}
                return False
            except Exception:
                log.exception("the wake of job %r could not be sent", job_id)
            else:
                self._outage.ended()
            del batch[job_id]
        return True
