"""An event loop whose clock jumps to the next timer when nothing else is left to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class NothingLeft(RuntimeError):
    """Somebody waits for something that can no longer come: no timer is set."""


class _NoWaiting(selectors.SelectSelector):
    """Turns the time that a loop would sleep into time that has passed."""

    now = 0.0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft(
                f"after {self.now:g} s all tasks wait and no timer is set"
            )
        self.now += timeout
        return []


class FakeClockLoop(asyncio.SelectorEventLoop):
    """An event loop on which hours take no time; threads and sockets do not work."""

    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on the fake clock; an error that nobody caught is raised."""
    loop = FakeClockLoop()
    uncaught: list[BaseException] = []

    def note(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        uncaught.append(context.get("exception") or RuntimeError(context["message"]))

    loop.set_exception_handler(note)
    try:
        answer = loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_cancel_others())
        loop.close()
    if uncaught:
        raise uncaught[0]
    return answer


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
