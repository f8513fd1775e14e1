"""Ctrl-C and SIGTERM: the first lets a run end in order, the second at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

_TAKEN = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """The wish that a run ends.

    Attributes:
        signal: that asked for it; None as long as none did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._came = asyncio.Event()
        self._stops: list[Callable[[], object]] = []
        self._is_installed = False

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Call something at the first signal that comes in this block, or came before.

        Before the first such block, signals end the process.
        """
        self._install()
        self._stops.append(stop)
        try:
            if self.signal is not None:
                stop()
            yield
        finally:
            self._stops.remove(stop)

    async def wait(self, seconds: float) -> bool:
        """Wait for a time, or for a signal; whether one came."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._came.wait(), seconds)
        return self._came.is_set()

    def _install(self) -> None:
        if self._is_installed:
            return
        self._is_installed = True
        loop = asyncio.get_running_loop()
        for number in _TAKEN:
            with suppress(NotImplementedError):  # on Windows
                loop.add_signal_handler(number, self._come, number)

    def _come(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        for taken in _TAKEN:
            loop.remove_signal_handler(taken)
            signal.signal(taken, signal.SIG_DFL)
        self.signal = number
        self._came.set()
        click.echo("Writing what was predicted; once more ends at once.", err=True)
        for stop in self._stops:
            stop()
