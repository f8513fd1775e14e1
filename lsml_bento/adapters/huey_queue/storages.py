"""Where wakes wait: Huey's storages, but with one message per job.

Huey has no types, so that what is built on it derives from Any.
"""

from __future__ import annotations

import sqlite3
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from huey.storage import PriorityRedisStorage, SqliteStorage
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from lsml_bento.errors import QueueError

ERRORS = (sqlite3.Error, OSError, RedisError)
"""What a storage raises when it does not answer."""

WAITING_MOST = 100
"""Messages on a queue, beyond which one more would wake nobody."""

_BUSY_S = 1.0
_CONNECT_S = 1.0
_BLOCK_S = 0.5
_ANSWER_S = 3.0  # longer than a read that blocks


def on_sqlite(path: Path) -> dict[str, Any]:
    """What makes a Huey use a file."""
    return {
        "storage_class": _Sqlite,
        "filename": str(path),
        "timeout": _BUSY_S,
        "strict_fifo": True,
        "create_tables": False,  # with the first connection, as a start must not fail
    }


def on_redis(url: str) -> dict[str, Any]:
    """What makes a Huey use a Redis.

    Raises:
        QueueError: if the URL is not one.
    """
    try:
        pool = ConnectionPool.from_url(
            url,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_ANSWER_S,
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError:
        # What it says may hold a piece of the password.
        raise QueueError(
            "REDIS_URL can not be understood: write redis://:PASSWORD@HOST:6379/0, "
            "with %-escapes for what is special in the password"
        ) from None
    return {
        "storage_class": _Redis,
        "connection_pool": pool,
        "read_timeout": _BLOCK_S,
        "clean_name": False,  # it would make one name of ``a-b`` and ``ab``
    }


class _Sqlite(SqliteStorage):  # type: ignore[misc] # untyped
    def _create_connection(self) -> sqlite3.Connection:
        Path(self.filename).parent.mkdir(parents=True, exist_ok=True)
        connection: sqlite3.Connection = super()._create_connection()
        try:
            for statement in self.ddl:
                connection.execute(statement)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        insert = (
            "insert into task (queue, data, priority) select ?, ?, 0 "
            "where not exists (select 1 from task where queue = ? and data = ?) "
            "and (select count(*) from task where queue = ?) < ?"
        )
        row = (self.name, data)
        self.sql(insert, (*row, *row, self.name, WAITING_MOST), commit=True)

    def add_to_schedule(self, data: bytes, ts: datetime) -> None:
        with self.db(commit=True) as cursor:
            cursor.execute(
                "delete from schedule where queue = ? and data = ?", (self.name, data)
            )
            cursor.execute(
                "insert into schedule (queue, data, timestamp) values (?, ?, ?)",
                (self.name, data, ts.timestamp()),
            )


class _Redis(PriorityRedisStorage):  # type: ignore[misc] # untyped
    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        if self.queue_size() < WAITING_MOST:
            # Huey's own 8 bytes here make each member another one.
            member = bytes(8) + data
            self.conn.zadd(self.queue_key, {member: time.time()}, nx=True)

    def convert_ts(self, ts: datetime) -> float:
        return ts.timestamp()

    def close(self) -> None:
        self.pool.disconnect()
