"""Waking workers through Huey, on SQLite or Redis.

Of Huey the queue, the schedule and the consumer's threads are used. What it knows of
results, retries, locks and revoking is not: the ledger holds what is true of a job, and
a message is no more than its id. Messages are signed JSON; nothing is ever unpickled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from lsml_bento.adapters.huey_queue.consumer import HueyConsumer, Wakes
from lsml_bento.adapters.huey_queue.messages import TASK, JsonSerializer
from lsml_bento.adapters.huey_queue.storages import ERRORS, on_redis, on_sqlite
from lsml_bento.errors import QueueError
from lsml_bento.jobs.waker import Outage

log = logging.getLogger(__name__)

Run = Callable[[str], None]


class HueyQueue:
    """A queue of wakes, one per job that waits.

    Args:
        name: of the backend; others' queues in the same Redis are not touched.
        secret: as ``secret_of`` returns it.
        path: the SQLite file, made at the first use.
        redis_url: or the Redis; nothing connects before the first use.

    Raises:
        QueueError: if ``redis_url`` is not one.
        ValueError: if there is no secret, or not one of ``path`` and ``redis_url``.
    """

    def __init__(
        self,
        *,
        name: str,
        secret: bytes,
        path: Path | None = None,
        redis_url: str | None = None,
    ) -> None:
        if not secret or (path is None) == (redis_url is None):
            raise ValueError("a queue takes a secret, and a path or a redis_url")
        queue = f"lsml-bento.{name}"
        if path is not None:
            options = on_sqlite(path)
            self._where = f"the queue in {path}"
            self._advice = "if it stays so, delete the file: the ledger knows all of it"
        else:
            options = on_redis(redis_url or "")
            self._where = "the queue in Redis"
            self._advice = "see whether the Redis of REDIS_URL runs and takes writes"
        self._run: Run = _nothing
        self._huey = Wakes(
            queue,
            results=False,
            serializer=JsonSerializer(secret, queue),
            outage=Outage(self._where),
            **options,
        )

        def fit(job_id: str) -> None:
            try:
                self._run(job_id)
            except Exception:
                log.exception("the run that job %s woke failed", job_id)

        # Huey names a task by its function's module, and a queue outlives that.
        fit.__module__, task_name = TASK.split(".")
        self._task = self._huey.task(name=task_name)(fit)

    def wake(self, job_id: str, delay_s: float = 0.0) -> None:
        """Wake a worker for a job.

        Any wake makes a worker look for all that is due, so a job whose wake waits gets
        no second one, and a full queue none at all. A later wake of the same job moves
        one that is scheduled.

        Args:
            job_id: what ``run`` gets.
            delay_s: from now; it comes up to 0.75 s later.

        Raises:
            QueueError: if the storage did not take it: within 1 s on SQLite, and within
                6 s on a Redis that accepts connections and does not answer.
        """
        task = self._task.s(job_id, id=job_id)
        try:
            if delay_s <= 0:
                self._huey.enqueue(task)
                return
            due = datetime.now(timezone.utc) + timedelta(seconds=delay_s)
            message = self._huey.serialize_task(task)
            self._huey.storage.add_to_schedule(message, due)
        except ERRORS as error:
            raise self._error(f"job {job_id} could not be put on", error) from error

    def waiting(self) -> int:
        """Messages on the queue, scheduled ones included.

        Raises:
            QueueError: if the storage does not answer.
        """
        try:
            count = self._huey.pending_count() + self._huey.scheduled_count()
        except ERRORS as error:
            raise self._error("nothing could be read from", error) from error
        return int(count)

    def consume(self, run: Run) -> HueyConsumer:
        """A consumer in this process; one at a time.

        Args:
            run: called with the id of a job, in the consumer's thread, one call at a
                time. It is to look for everything that is due, not for that job only.
                What it raises is logged.
        """
        self._run = run
        _quieten()
        return HueyConsumer(self._huey)

    def close(self) -> None:
        """Let go of files and connections; the next use opens them again."""
        self._huey.storage.close()

    def _error(self, failed: str, error: Exception) -> QueueError:
        return QueueError(f"{failed} {self._where} ({error}): {self._advice}")


def _quieten() -> None:
    """Keep what Huey says at each start out of the log, unless it is wanted."""
    logger = logging.getLogger("huey")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)


def _nothing(job_id: str) -> None:
    """What a process that consumes nothing does."""
