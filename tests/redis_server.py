"""A redis-server of our own: on a free port, with its data in a test's directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.e2e.processes import free_port


class RedisServerError(Exception):
    """A redis-server did not start; the message holds its log."""


class RedisServer:
    """A process ``redis-server``, from ``with`` to the end of it.

    Args:
        directory: for its data and its log.
        options: of its command line, beside those that every test wants.

    Attributes:
        port: its port, the same after a restart.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.options = options
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "redis-server was not started"
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start it, again with the data that it had.

        Args:
            wait: until it answers ``PING``; else it may still be reading its data.

        Raises:
            RedisServerError: if there is none on this machine, or it does not start.
        """
        command = shutil.which("redis-server")
        if command is None:
            raise RedisServerError(
                "redis-server is missing; install it with: make setup, or "
                "apt-get install -y redis-server"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(command, "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--dir", str(self.directory), "--daemonize", "no"),
                    *("--appendonly", "yes", "--save", ""),
                    *self.options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until(listens_only=not wait)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once, as a machine that loses its power does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Leave its connections open and answer nothing any more."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def _log(self) -> Path:
        return self.directory / "redis.log"

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(10)

    def _wait_until(self, *, listens_only: bool) -> None:
        deadline = time.monotonic() + 20
        once = Retry(NoBackoff(), 0)
        with redis.Redis(port=self.port, socket_timeout=2, retry=once) as client:
            while time.monotonic() < deadline and self._process is not None:
                if self._process.poll() is not None:
                    raise RedisServerError(
                        f"redis-server ended at start\n{self._log.read_text()}"
                    )
                try:
                    client.ping()
                except redis.BusyLoadingError:
                    if listens_only:
                        return
                except redis.AuthenticationError:
                    return
                except redis.RedisError:
                    pass
                else:
                    return
                time.sleep(0.02)
        raise RedisServerError(
            f"redis-server gave no PONG in 20 s\n{self._log.read_text()}"
        )
