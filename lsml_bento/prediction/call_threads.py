"""Threads that call user code, for a loop that must not wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")
_Call = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class CallThreads:
    """A few threads, each with one call at a time.

    What a thread pool of the standard library adds, futures of its own and a process
    that waits for its threads, costs a tenth of a millisecond a call where caches are
    cold, and keeps a server with a stuck ``predict`` from ending.

    Args:
        threads: calls at a time.
        name: of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self, function: Callable[..., _Answer], *arguments: Any
    ) -> asyncio.Future[_Answer]:
        """Call a function in a thread, after the calls that came before."""
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._calls.put((future, function, arguments))
        return future

    def close(self) -> None:
        """Let the threads end after their calls; one that is stuck is left alone."""
        for _ in self._threads:
            self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function, arguments = call
            answer: Any = None
            failure: BaseException | None = None
            try:
                answer = function(*arguments)
            except BaseException as error:  # noqa: BLE001 - whoever awaits gets it
                failure = error
            hand_over(future, answer, failure)
            del call, future, function, arguments, answer, failure


def hand_over(
    future: asyncio.Future[_Answer], answer: _Answer, failure: BaseException | None
) -> None:
    """Answer from another thread what a loop waits for, or did."""
    # The loop may be closed when a call ends that was stuck.
    with suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(_deliver, future, answer, failure)


def _deliver(
    future: asyncio.Future[Any], answer: Any, failure: BaseException | None
) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(answer)
    else:
        future.set_exception(failure)
