"""State in Redis, shared by every process of a backend on any number of machines."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

from redis import Redis
from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError

from lsml_bento.adapters.redis_state.client import LeanRedis, open_client
from lsml_bento.adapters.redis_state.scripts import CHANGE, PAGE, SCAN, SCAN_ALL
from lsml_bento.errors import StateError
from lsml_bento.state.store import Change, Pair, State, Values

CAREFUL = 10
"""Changes that read after a wrong prediction: where processes alternate, every
prediction would be wrong."""

_KEPT = 10_000
"""Longest value kept, in characters: the largest annotations are not read again."""

_PAUSE_S = 0.001
_DICE = random.SystemRandom()
_Answer = TypeVar("_Answer")


class RedisState(State):
    """``State`` on Redis: one hash with the values, one sorted set with their order.

    It connects at the first call and reconnects when Redis dropped the connection, so
    a backend may start before its Redis and outlive a restart of it. Keys and values
    are text that UTF-8 can encode.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with a password or without.
        owner: the backend's name. Several backends can share one Redis.
        wait_s: timeout in seconds for connecting and for each reply.

    Raises:
        StateError: if the URL is invalid.
    """

    _client_class: type[Redis] = Redis

    def __init__(self, url: str, owner: str, *, wait_s: float = 0.5) -> None:
        self.writes = 0
        self._lock = threading.Lock()
        self._wait_s = wait_s
        self._url = url
        self._owner = owner
        self._event_states: list[_EventState] = []
        # The braces make a cluster keep both keys on one node.
        self._values = f"lsml:{{{owner}}}:values"
        self._order = f"lsml:{{{owner}}}:order"
        self._client = open_client(url, wait_s, self._client_class)
        options = self._client.get_connection_kwargs()
        self._password = options.get("password") or ""
        self._where = options.get("path") or "{}:{}/{}".format(
            options.get("host", "localhost"),
            options.get("port", 6379),
            options.get("db", 0),
        )
        self._scan_script = self._client.register_script(SCAN)
        self._scan_all_script = self._client.register_script(SCAN_ALL)
        self._change_script = self._client.register_script(CHANGE)

    def get(self, key: str) -> str | None:
        with self._translated("read"):
            found: str | None = self._client.hget(self._values, key)  # type: ignore[assignment]
        return found

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """Scan in pages of 1,000 keys; each page is one round trip and one snapshot."""
        found: list[Pair] = []
        wanted = sys.maxsize if limit is None else limit
        while (size := min(PAGE, wanted - len(found))) > 0:
            page = self._page(prefix, after, size)
            found += page
            if len(page) < size:
                break
            after = page[-1][0]
        return found

    def change(self, work: Callable[[Change], _Answer], wait_s: float = 2.0) -> _Answer:
        """Run ``work`` optimistically: write only if what it read is unchanged.

        Every key that ``work`` got, or found in a scan, is compared in the script that
        writes. A key added to a scanned range goes unnoticed (a phantom read): a rule
        that depends on such keys must also ``get`` a key that changes with them, as the
        job store's rules do. An error from ``work`` is raised only if what it read was
        still unchanged. Otherwise it may have seen half of another change, and ``work``
        runs again.

        Args:
            work: see ``State.change``.
            wait_s: how long to retry ``work`` while other writers interfere.

        Raises:
            StateError: see ``State.change``. If Redis stopped responding during the
                write, the change may still have been applied.
        """
        deadline = time.monotonic() + wait_s
        for attempt in count():
            if done := self._tried(work, self._begin(deadline)):
                return done[0]
            pause = _DICE.uniform(0, _PAUSE_S * 2 ** min(attempt, 6))
            if time.monotonic() + pause > deadline:
                raise StateError(
                    f"the state in Redis at {self._where} could not be written: other "
                    f"writers interfered {attempt + 1} times in {wait_s} s; try again"
                )
            time.sleep(pause)
        raise AssertionError("count() ended")

    def close(self) -> None:
        """Close the connections of all threads."""
        for state in (self, *self._event_states):
            state._client.connection_pool.disconnect()

    def for_events(self, wait_s: float) -> State:
        """The same state, faster for the one thread that stores events.

        It keeps one connection, waits ``wait_s`` for each reply, and predicts what the
        next change will read (see ``_EventState``).
        """
        state = _EventState(self, wait_s)
        self._event_states.append(state)
        return state

    def _begin(self, deadline: float) -> Change:
        """A change whose reads fail after the deadline, even where each one is slow."""
        # The functions do not refer to the change: a reference cycle would live until
        # the garbage collector runs.
        seen: Values = {}

        def in_time() -> None:
            if time.monotonic() > deadline + self._wait_s:
                raise StateError(
                    f"the state in Redis at {self._where} could not be written: Redis "
                    "responds too slowly; check REDIS_URL and the load of Redis"
                )

        def get(key: str) -> str | None:
            in_time()
            return self.get(key)

        def scan(prefix: str, after: str, limit: int | None) -> list[Pair]:
            in_time()
            found = self.scan(prefix, after, limit)
            for key, value in found:
                seen.setdefault(key, value)
            return found

        def get_all(keys: list[str]) -> list[str | None]:
            in_time()
            with self._translated("read"):
                return self._client.hmget(self._values, keys)  # type: ignore[return-value]

        def scan_all(prefixes: list[str]) -> list[list[Pair] | None]:
            in_time()
            found = self._pages(prefixes)
            for page in found:
                for key, value in page or ():
                    seen.setdefault(key, value)
            return found

        return Change(get, scan, get_all, scan_all, seen)

    def _tried(
        self, work: Callable[[Change], _Answer], change: Change
    ) -> tuple[_Answer] | None:
        """What ``work`` returned, in a tuple; None if what it read has changed."""
        try:
            answer = work(change)
        except StateError:
            raise
        except Exception:
            if self._holds(change):
                raise
            return None
        return (answer,) if self._applied(change) else None

    def _page(self, prefix: str, after: str, size: int) -> list[Pair]:
        first = f"({after}" if after >= prefix else f"[{prefix}"
        with self._translated("read"):
            keys, values = self._scan_script(
                keys=[self._values, self._order], args=[first, _behind(prefix), size]
            )
        return self._paired(keys, values)

    def _pages(self, prefixes: list[str]) -> list[list[Pair] | None]:
        """The keys below each prefix; None where they exceed one page."""
        ranges = [end for p in prefixes for end in (f"[{p}", _behind(p))]
        with self._translated("read"):
            found = self._scan_all_script(
                keys=[self._values, self._order], args=[PAGE, *ranges]
            )
        pages = zip(found[::2], found[1::2], strict=True)
        return [
            None if len(keys) == PAGE else self._paired(keys, values)
            for keys, values in pages
        ]

    def _paired(self, keys: list[str], values: list[str | None]) -> list[Pair]:
        if None in values:
            raise StateError(
                f"Redis at {self._where} lost {self._values} and kept {self._order}: "
                "set its maxmemory-policy to noeviction, and delete that key"
            )
        return list(zip(keys, values, strict=True))  # type: ignore[arg-type]

    def _holds(self, change: Change) -> bool:
        """Whether everything that a change read is still unchanged, in one snapshot."""
        return not change.seen or self._compare_and_write(change.seen, {})

    def _applied(self, change: Change) -> bool:
        if not change.writes:
            return self._holds(change)
        try:
            return self._compare_and_write(change.seen, change.writes)
        finally:
            self._count_write()

    def _count_write(self) -> None:
        with self._lock:
            self.writes += 1

    def _compare_and_write(self, seen: Values, writes: Values) -> bool:
        present, absent = _split(seen)
        puts, deletes = _split(writes)
        counts = [len(present) // 2, len(absent), len(puts) // 2]
        with self._translated("written"):
            done = self._change_script(
                keys=[self._values, self._order],
                args=[*counts, *present, *absent, *puts, *deletes],
            )
        return bool(done)

    @contextmanager
    def _translated(self, done: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RedisError) as error:
            advice = next(
                (text for kind, text in _ADVICE.items() if isinstance(error, kind)),
                "check REDIS_URL, and that Redis is running there",
            )
            problem = str(error) or type(error).__name__
            if self._password:
                problem = problem.replace(self._password, "***")
            # Without the cause: a server without AUTH echoes the password it got.
            raise StateError(
                f"the state in Redis at {self._where} could not be {done}: "
                f"{problem.rstrip('.?')}; {advice}"
            ) from None


class _EventState(RedisState):
    """A ``RedisState`` for one thread: one connection, and predicted reads.

    Consecutive events are mostly about new annotations and join the same waiting job.
    So what an event reads is nearly always what the previous one wrote, or absent. A
    correct prediction saves a round trip. A wrong one is found by the comparison that
    also finds what other writers changed.
    """

    _client_class = LeanRedis

    def __init__(self, state: RedisState, wait_s: float) -> None:
        super().__init__(state._url, state._owner, wait_s=wait_s)
        self._parent = state
        self._left: Values | None = None
        self._careful = 0

    def _tried(
        self, work: Callable[[Change], _Answer], change: Change
    ) -> tuple[_Answer] | None:
        predicted: Values | None = None
        if self._careful:
            self._careful -= 1
        else:
            predicted, self._left = self._left, None
        if predicted is not None:
            change.suppose(predicted)
            self._careful = CAREFUL  # until the prediction proves correct
        if done := super()._tried(work, change):
            if predicted is not None:
                self._careful = 0
            left = {**change.seen, **change.writes}.items()
            self._left = {k: v for k, v in left if v is None or len(v) <= _KEPT}
        return done

    def _count_write(self) -> None:
        super()._count_write()
        self._parent._count_write()


_ADVICE: dict[type[Exception], str] = {
    BusyLoadingError: "wait until Redis has loaded its data, or check REDIS_URL",
    ReadOnlyError: "check REDIS_URL: it must name the primary, not a replica",
}


def _behind(prefix: str) -> bytes:
    """The end of a prefix's range: UTF-8 never contains the byte 0xFF."""
    return b"(" + prefix.encode() + b"\xff"


def _split(entries: Values) -> tuple[list[str], list[str]]:
    """``[key, value, key, value, ...]`` of keys with a value; the keys without one."""
    there: list[str] = []
    gone: list[str] = []
    for key, value in entries.items():
        if value is None:
            gone.append(key)
        else:
            there += (key, value)
    return there, gone
