"""Server processes of the end-to-end tests: started, watched and ended by pid.

Every process of a server carries a mark in its environment, which children inherit:
whatever a server leaves behind is found by it, in whichever session or group it is.
"""

import http.client
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
MARK = "LSML_E2E_SERVER"
TAIL_LINES = 60


class ServerError(AssertionError):
    """A server that did not start, or did not end, as it should."""


_PORTS = range(15_000, 32_000)
"""Below those that systems give to outgoing connections: nobody gets one by chance."""

_RESERVED: list[socket.socket] = []
_DICE = random.SystemRandom()


def free_port() -> int:
    """A TCP port that nothing listens on, on IPv4 and IPv6 loopback.

    No other test process gets it until this one ends: a UDP socket that holds the same
    number is the reservation.
    """
    while True:
        port = _DICE.choice(_PORTS)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(("127.0.0.1", port))
        except OSError:
            udp.close()
            continue
        _RESERVED.append(udp)
        if _is_free(port) and _is_free_on_ipv6(port):
            return port


def free_port_near(port: int) -> int:
    """That port, or the next one that nothing listens on; any one for 0."""
    if not port:
        return free_port()
    while not _is_free(port):
        port += 1
    return port


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET) as four:
        # Connections that a server left to expire do not keep its port.
        four.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            four.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _is_free_on_ipv6(port: int) -> bool:
    try:
        with socket.socket(socket.AF_INET6) as six:
            six.bind(("::1", port))
    except OSError as error:
        return error.errno not in {98, 48}  # in use; no IPv6 at all is free enough
    return True


def healthy(port: int, path: str = "/health") -> bool:
    """Whether GET path answers 200 now.

    By http.client: httpx makes a TLS context for each client, 50 ms of work a poll.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass
class Server:
    """A process tree with a log file and a URL that answers ``/health``.

    With ``own_session`` a terminal's Ctrl-C and hang-up do not reach it.
    """

    name: str
    command: Sequence[str]
    port: int
    log_file: Path
    environ: Mapping[str, str]
    cwd: Path = ROOT
    stop_signal: int = signal.SIGTERM
    own_session: bool = False
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    def start(self, timeout_s: float = 60) -> None:
        """Start the process and wait until it answers on its own port."""
        self.launch()
        self.wait_until_healthy(timeout_s)

    def launch(self) -> None:
        """Start the process and do not wait for it."""
        STARTED.append(self)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        environ = {**self.environ, MARK: self.mark, "PYTHONUNBUFFERED": "1"}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                list(self.command),
                cwd=self.cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=self.own_session,
            )

    def wait_until_healthy(self, timeout_s: float = 60) -> None:
        """Wait until the server answers on its own port; it is killed if it does not.

        Raises:
            ServerError: if it does not in time, or ends.
        """
        try:
            self._wait_until_healthy(timeout_s)
        except BaseException:
            self.kill()
            raise

    def _wait_until_healthy(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running():
                raise ServerError(f"{self.name} ended at start\n{self.tail()}")
            if healthy(self.port) and self.listens():
                return
            time.sleep(0.05)
        problem = f"{self.name} gave no /health in {timeout_s} s"
        raise ServerError(f"{problem}\n{self.tail()}")

    def is_running(self) -> bool:
        """True if the process that was started has not ended."""
        return self.process is not None and self.process.poll() is None

    def listens(self) -> bool:
        """True if a process of this very server listens on its port."""
        for process in self.tree():
            with suppress(psutil.Error):
                for connection in process.net_connections(kind="tcp"):
                    listening = connection.status == psutil.CONN_LISTEN
                    if listening and connection.laddr[1] == self.port:
                        return True
        return False

    def tree(self) -> list[psutil.Process]:
        """All living processes that carry this server's mark."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                return process.environ().get(MARK) == self.mark
        return False

    def signal(self) -> None:
        """Ask the server to end, as a terminal or an init system does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, self.stop_signal)

    def wait(self, timeout_s: float = 20) -> int:
        """Wait for the end of the whole tree.

        Raises:
            ServerError: if a process outlives the time; what is left is killed first.
        """
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        while (left := self.tree()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            names = [f"{process.pid} {_command_of(process)}" for process in left]
            self.kill()
            raise ServerError(f"{self.name} left processes: {names}\n{self.tail()}")
        return self.process.wait()

    def stop(self, timeout_s: float = 20) -> None:
        """End the server and make sure that nothing of it is left."""
        if self.process is not None:
            self.signal()
            self.wait(timeout_s)

    def kill(self) -> None:
        """Kill every process of the tree, by pid, and see them gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        while left := self.tree():
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            time.sleep(0.02)

    def log(self) -> str:
        """Everything that the server wrote so far."""
        return self.log_file.read_text(errors="replace")

    def tail(self) -> str:
        """The last lines of the log, under the path of the whole."""
        lines = self.log().splitlines()[-TAIL_LINES:]
        return "\n".join([f"--- {self.log_file}", *lines])

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


STARTED: list[Server] = []
"""Servers in the order of their start; conftest shows their logs on a failure."""


def _command_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:120]
    return "?"


def eventually(
    condition: Callable[[], bool], what: Callable[[], str], timeout_s: float = 10
) -> None:
    """Wait until the condition holds; ``what`` says what was seen instead."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what()}"
        time.sleep(0.05)
