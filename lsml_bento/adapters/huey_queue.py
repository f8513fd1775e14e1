"""The queue of fits: Huey on SQLite or Redis.

Huey holds the messages and their delays, and its consumer has the worker threads. The
job store holds everything that must not be lost, so Huey's results, locks and
revocations are not used. A message is plain JSON with the id of a job: it can only ask
for a job that the job store holds.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from huey.api import Huey
from huey.consumer import Consumer
from huey.exceptions import RetryTask
from huey.registry import Message
from huey.storage import PriorityRedisStorage, SqliteStorage
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from lsml_bento.errors import QueueError

log = logging.getLogger(__name__)

Fit = Callable[[str], float | None]
"""Carries a job out; returns when its message must come again, if it must."""

_ERRORS = (sqlite3.Error, OSError, RedisError)
"""What a storage raises when it is unavailable."""

_FIT = f"{__name__}.fit"
_LONGEST = 2048
_MOST = 10_000
_FARTHEST_S = 1e7
_LOG_EACH_S = 60.0
_BUSY_S = 1.0
_CONNECT_S = 1.0
_BLOCK_S = 0.5
_ANSWER_S = 3.0  # longer than a read that blocks
_POLL_S = 0.25
_SHUTDOWN_S = 6.0


class HueyQueue:
    """A queue of jobs to fit.

    Args:
        name: of the backend. Other backends' queues in the same Redis are not touched.
        path: the SQLite file, created at the first use.
        redis_url: or the Redis. Nothing connects before the first use.

    Raises:
        QueueError: if ``redis_url`` is not a valid address.
        ValueError: if not exactly one of ``path`` and ``redis_url`` is given.
    """

    def __init__(
        self, *, name: str, path: Path | None = None, redis_url: str | None = None
    ) -> None:
        if (path is None) == (redis_url is None):
            raise ValueError("a queue takes either a path or a redis_url")
        self._path = path
        if path is not None:
            options = _on_sqlite(path)
            self._where = f"the queue in {path}"
            self._advice = "if this persists, delete the file: no job is lost with it"
        else:
            options = _on_redis(redis_url or "")
            self._where = "the queue in Redis"
            self._advice = "check that the Redis of REDIS_URL runs and accepts writes"
        self._lock = threading.Lock()
        self._opened: int | None = None
        # Without utc, Huey's naive local times mean the same moment on every host.
        self._huey = Huey(
            f"lsml-bento.{name}",
            results=False,
            utc=False,
            serializer=_Json(),
            **options,
        )
        self._fit: Fit = _carry_out_nothing
        self._unreadable = _Unreadable(self._huey.name)

        def fit(job_id: str | None) -> None:
            if job_id is None:
                self._unreadable.add()
            elif (due_at := self._fit(job_id)) is not None:
                raise RetryTask(eta=_eta(due_at))

        self._task = self._huey.task()(fit)

    def enqueue(self, job_id: str, due_at: float | None = None) -> None:
        """Have a worker carry out a job.

        A queue of 10,000 messages accepts no more: workers find due jobs without one.

        Args:
            job_id: passed to ``fit``.
            due_at: in seconds since the epoch; now by default. The message arrives up
                to 1.25 s later.

        Raises:
            QueueError: if the storage did not accept it: after 1 s on SQLite, and
                after 6 s on a Redis that accepts connections and does not answer.
        """
        task = self._task.s(job_id)
        try:
            self._prepare()
            if self._huey.pending_count() >= _MOST:
                return
            if due_at is None or due_at <= time.time():
                self._huey.enqueue(task)
            else:
                task.eta = _eta(due_at)
                self._huey.add_schedule(task)
        except _ERRORS as error:
            raise self._failed(f"cannot put job {job_id} on", error) from error

    def waiting(self) -> set[str]:
        """The jobs with a message that waits for a worker and for nothing else.

        Raises:
            QueueError: if the storage is unavailable.
        """
        try:
            self._prepare()
            # Huey would make an object of each message, which takes five times as long.
            found = map(_job_id, self._huey.storage.enqueued_items())
            return {job_id for job_id in found if job_id is not None}
        except _ERRORS as error:
            raise self._failed("cannot read", error) from error

    def consume(self, fit: Fit, workers: int) -> Consumer:
        """A consumer in this process; one at a time.

        Args:
            fit: called with the id of a job in one of the consumer's threads. What it
                raises is logged.
            workers: number of threads.
        """
        self._fit = fit
        _quiet_huey()
        return _Consumer(
            self._huey,
            workers=workers,
            periodic=False,
            max_delay=_POLL_S,
            backoff=1.3,
            shutdown_timeout=_SHUTDOWN_S,
        )

    def close(self) -> None:
        """Close files and connections; the next use opens them again."""
        if self._path is None:
            self._huey.storage.pool.disconnect()
        else:
            with self._lock:
                self._huey.storage.close()

    def _prepare(self) -> None:
        """Open the file at the first use, as a start must not fail.

        And again after an error, or if it was deleted: Huey keeps its connection, which
        would still use the old file.
        """
        if self._path is None:
            return
        with self._lock:
            if self._opened is not None and self._opened == _inode(self._path):
                return
            self._huey.storage.close()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._huey.storage.initialize_schema()
            self._opened = _inode(self._path)

    def _failed(self, failed: str, error: Exception) -> QueueError:
        if "locked" not in str(error):
            self._opened = None
        return QueueError(f"{failed} {self._where} ({error}): {self._advice}")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


class _Consumer(Consumer):  # type: ignore[misc] # untyped
    def _set_signal_handlers(self) -> None:
        """Do nothing: signals belong to the process and its main thread."""


class _RedisStorage(PriorityRedisStorage):  # type: ignore[misc] # untyped
    def convert_ts(self, ts: datetime) -> float:
        """Seconds since the epoch; Huey's own ignores ``fold``, at the end of DST."""
        return ts.timestamp()


class _Json:
    """Writes and reads Huey's messages; Huey's own serializers use pickle."""

    def serialize(self, message: Any) -> bytes:
        return json.dumps({"fit": message.args[0]}).encode()

    def deserialize(self, data: Any) -> Any:
        """A message whose job is None where it cannot be read.

        Huey would log a traceback for what is raised here.
        """
        job_id = _job_id(data)
        return Message(id=str(job_id), name=_FIT, args=(job_id,), kwargs={})


def _job_id(data: Any) -> str | None:
    """The job that a message asks for; None if it cannot be read."""
    if len(data) <= _LONGEST:
        with suppress(ValueError, TypeError, LookupError, RecursionError):
            found = json.loads(data)["fit"]
            return found if isinstance(found, str) else None
    return None


class _Unreadable:
    """Logs that messages were dropped, at most once a minute."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._lock = threading.Lock()
        self._dropped = 0
        self._logged_at = -_LOG_EACH_S

    def add(self) -> None:
        with self._lock:
            self._dropped += 1
            if time.monotonic() - self._logged_at < _LOG_EACH_S:
                return
            self._logged_at = time.monotonic()
            dropped, self._dropped = self._dropped, 0
        log.warning("Unreadable messages dropped: queue=%s n=%d", self._queue, dropped)


def _eta(due_at: float) -> datetime:
    """In local time, as Huey's; a later message is scheduled again when it comes."""
    return datetime.fromtimestamp(min(due_at, time.time() + _FARTHEST_S))  # noqa: DTZ006


def _on_sqlite(path: Path) -> dict[str, Any]:
    return {
        "storage_class": SqliteStorage,
        "filename": str(path),
        "timeout": _BUSY_S,
        "strict_fifo": True,
        "create_tables": False,
    }


def _on_redis(url: str) -> dict[str, Any]:
    try:
        pool = ConnectionPool.from_url(
            url,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_ANSWER_S,
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError:
        # The message may contain a piece of the password.
        raise QueueError(
            "REDIS_URL is not a valid address: write redis://:PASSWORD@HOST:6379/0, "
            "with %-escapes for special characters in the password"
        ) from None
    return {
        "storage_class": _RedisStorage,
        "connection_pool": pool,
        "read_timeout": _BLOCK_S,
        "clean_name": False,  # it would give ``a-b`` and ``ab`` the same name
    }


def _quiet_huey() -> None:
    """Keep Huey's start-up lines and each failed read of an outage out of the log.

    Whoever calls ``waiting`` reports an outage once.
    """
    logger = logging.getLogger("huey")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
    for name in ("Worker", "Scheduler"):
        logging.getLogger(f"huey.consumer.{name}").addFilter(_is_no_outage)


def _is_no_outage(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], _ERRORS))


def _carry_out_nothing(job_id: str) -> None:
    """What a process does that has no consumer."""
