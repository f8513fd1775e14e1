"""The connections to a Redis."""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lsml_bento.errors import StateError


def open_client(url: str, wait_s: float) -> Redis:
    """A client that never sends a command twice: one that was cut may have been done.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        wait_s: how long to wait for a connection and for each answer.

    Raises:
        StateError: if the URL is none.
    """
    try:
        client = Redis.from_url(
            url,
            decode_responses=True,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=wait_s,
            socket_timeout=wait_s,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError):
        # Without its cause, which repeats parts of the URL.
        raise StateError(
            "REDIS_URL is not the URL of a Redis: check REDIS_URL; it is written "
            "redis://:password@host:6379/0, rediss:// with TLS, or unix:///path"
        ) from None
    return client
