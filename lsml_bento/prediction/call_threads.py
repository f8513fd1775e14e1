"""Threads that run blocking calls for an event loop."""

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

    The standard library's thread pool makes a second future per call, which costs
    0.1 ms where caches are cold. It also waits for its threads at exit, so a server
    with a stuck ``predict`` would never end.

    Args:
        threads: maximum number of concurrent calls.
        name: prefix of the threads' names.
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
        """Call a function in a thread, after the calls before it."""
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._calls.put((future, function, arguments))
        return future

    def close(self) -> None:
        """End the threads after their calls; a stuck one is not waited for."""
        for _ in self._threads:
            self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function, arguments = call
            answer: Any = None
            failure: BaseException | None = None
            try:
                answer = function(*arguments)
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                failure = error
            answer_from_thread(future, answer, failure)
            del call, future, function, arguments, answer, failure


def answer_from_thread(
    future: asyncio.Future[_Answer], answer: _Answer, failure: BaseException | None
) -> None:
    """Resolve a future of a loop that runs in another thread."""
    # The loop may be closed when a call that was stuck returns.
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
