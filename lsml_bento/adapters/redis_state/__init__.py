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

from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError

from lsml_bento.adapters.redis_state.client import open_client
from lsml_bento.adapters.redis_state.guesses import Guesses
from lsml_bento.adapters.redis_state.scripts import CHANGE, PAGE, SCAN, SCAN_ALL
from lsml_bento.errors import StateError
from lsml_bento.state.memory import BufferedChange, Values
from lsml_bento.state.store import Change, Pair, State

_PAUSE_S = 0.001
_DICE = random.SystemRandom()
_Answer = TypeVar("_Answer")


class RedisState(State):
    """``State`` on Redis: one hash with the values, one sorted set with their order.

    Nothing connects before the first call, and what Redis cut is connected anew, so a
    backend may start before its Redis and outlive a restart of it. Keys and values are
    text that UTF-8 can hold.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with a password or without.
        owner: the backend's name. Backends of other names live beside it.
        wait_s: how long to wait for a connection and for each answer.
        is_hasty: whether its changes spare what they can: those of a busy thread.

    Raises:
        StateError: if the URL is none.
    """

    def __init__(
        self, url: str, owner: str, *, wait_s: float = 0.5, is_hasty: bool = False
    ) -> None:
        self.writes = 0
        self._lock = threading.Lock()
        self._wait_s = wait_s
        self._url = url
        self._owner = owner
        self._in_haste: dict[float, RedisState] = {}
        self._is_hasty = is_hasty
        self._guesses = Guesses()
        # In braces, so that a cluster keeps both on one node.
        self._values = f"lsml:{{{owner}}}:values"
        self._order = f"lsml:{{{owner}}}:order"
        self._client = open_client(url, wait_s, is_lean=is_hasty)
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
        """The value of a key, in one round trip."""
        with self._translated("read"):
            found: str | None = self._client.hget(self._values, key)  # type: ignore[assignment]
        return found

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """Keys in order; one round trip for each 1,000, which see each their moment."""
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
        """Do ``work`` on what Redis holds, then write if what it read is still so.

        Every key that ``work`` got, or found in a scan, is compared in the step that
        writes. A key that comes new into what it scanned is not noticed (a phantom):
        a rule that must know of it has to ``get`` a key which then changes, as the
        ledger's do. An error that ``work`` raises counts only if what it read was still
        so then: else it may have seen half of another's change, and runs again.

        One in a hurry guesses what it will read (``Guesses``), which spares a round
        trip: a wrong guess is found out as what another wrote is.

        Args:
            work: as ``State.change`` says.
            wait_s: for how long to run ``work`` again while others come between, and
                to wait for an answer at most.

        Raises:
            StateError: as ``State.change`` says. If Redis went silent while it wrote,
                the change may have been done nevertheless.
        """
        if wait_s < self._wait_s:
            try:
                return self._hurried(wait_s).change(work, wait_s)
            finally:
                with self._lock:
                    self.writes += 1
        deadline = time.monotonic() + wait_s
        for attempt in count():
            if done := self._tried(work, self._begin(deadline)):
                return done[0]
            pause = _DICE.uniform(0, _PAUSE_S * 2 ** min(attempt, 6))
            if time.monotonic() + pause > deadline:
                raise StateError(
                    f"the state in Redis at {self._where} could not be written: other "
                    f"writers came between {attempt + 1} times in {wait_s} s; try again"
                )
            time.sleep(pause)
        raise AssertionError("count() ended")

    def close(self) -> None:
        """Close the connections of all threads."""
        for state in (self, *self._in_haste.values()):
            state._client.connection_pool.disconnect()

    def _hurried(self, wait_s: float) -> RedisState:
        """The same state, over connections that wait no longer for an answer."""
        with self._lock:
            if wait_s not in self._in_haste:
                self._in_haste[wait_s] = RedisState(
                    self._url, self._owner, wait_s=wait_s, is_hasty=True
                )
            return self._in_haste[wait_s]

    def _begin(self, deadline: float) -> BufferedChange:
        """A change whose reads end some time, even where each of them is slow."""
        # The functions do not know the change: a cycle would be left to the collector.
        seen: Values = {}

        def in_time() -> None:
            if time.monotonic() > deadline + self._wait_s:
                raise StateError(
                    f"the state in Redis at {self._where} could not be written: Redis "
                    "answers too slowly; check REDIS_URL and the load of Redis"
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

        return BufferedChange(get, scan, get_all, scan_all, seen)

    def _tried(
        self, work: Callable[[Change], _Answer], change: BufferedChange
    ) -> tuple[_Answer] | None:
        """What ``work`` answered; None if what it read was not so any more."""
        if self._is_hasty and (guess := self._guesses.take()) is not None:
            change.suppose(guess)
        try:
            answer = work(change)
        except StateError:
            raise
        except Exception:
            if self._holds(change):
                raise
            return None
        if not self._applied(change):
            return None
        if self._is_hasty:
            self._guesses.keep(change)
        return (answer,)

    def _page(self, prefix: str, after: str, size: int) -> list[Pair]:
        first = f"({after}" if after >= prefix else f"[{prefix}"
        with self._translated("read"):
            keys, values = self._scan_script(
                keys=[self._values, self._order], args=[first, _behind(prefix), size]
            )
        return self._paired(keys, values)

    def _pages(self, prefixes: list[str]) -> list[list[Pair] | None]:
        """What lies below each prefix; None where that is more than a page."""
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

    def _holds(self, change: BufferedChange) -> bool:
        """Whether what a change read was so, all of it at one moment."""
        return not change.seen or self._compare_and_write(change.seen, {})

    def _applied(self, change: BufferedChange) -> bool:
        if not change.writes:
            return self._holds(change)
        try:
            return self._compare_and_write(change.seen, change.writes)
        finally:
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
                "check REDIS_URL, and that Redis runs there",
            )
            problem = str(error) or type(error).__name__
            if self._password:
                problem = problem.replace(self._password, "***")
            # Without its cause: a server that does not know AUTH repeats what it got.
            raise StateError(
                f"the state in Redis at {self._where} could not be {done}: "
                f"{problem.rstrip('.?')}; {advice}"
            ) from None


_ADVICE: dict[type[Exception], str] = {
    BusyLoadingError: "wait until Redis has read its data, or check REDIS_URL",
    ReadOnlyError: "check REDIS_URL: it must name the primary, not a replica",
}


def _behind(prefix: str) -> bytes:
    """The end of what begins with a prefix: a byte that no UTF-8 holds comes last."""
    return b"(" + prefix.encode() + b"\xff"


def _split(entries: Values) -> tuple[list[str], list[str]]:
    """Key, value, key, value, .. of those with a value, and the keys without one."""
    there: list[str] = []
    gone: list[str] = []
    for key, value in entries.items():
        if value is None:
            gone.append(key)
        else:
            there += (key, value)
    return there, gone
