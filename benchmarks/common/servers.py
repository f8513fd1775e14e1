"""Server processes: started alone, waited for, measured, and always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.common.tasks import REPOSITORY
from tests.e2e.processes import free_port, healthy

_GRACE_S = 10


class ServerFailedError(Exception):
    """A server did not come up."""


@dataclass(frozen=True)
class Server:
    """A running server and the processes that it is made of."""

    process: psutil.Process
    port: int
    started_s: float
    home: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> dict[int, float]:
        """Resident MiB of each process, by pid."""
        found: dict[int, float] = {}
        for member in _tree(self.process):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[member.pid] = member.memory_info().rss / 2**20
        return found

    def serving_pid(self) -> int:
        """The process that listens to clients, the youngest where several share it."""
        listening = [m.pid for m in _tree(self.process) if _listens(m, self.port)]
        return max(listening) if listening else self.process.pid


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        sockets = process.net_connections(kind="inet")
    except psutil.Error:
        return False
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)


def _wait_healthy(
    process: subprocess.Popen[bytes], port: int, path: str, limit_s: float
) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServerFailedError(f"exited with {process.returncode}")
        if healthy(port, path):
            return
        time.sleep(0.02)
    raise ServerFailedError(f"{path} did not answer 200 within {limit_s:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and after a grace SIGKILL, to the process and all that it started."""
    try:
        members = _tree(psutil.Process(process.pid))
    except psutil.NoSuchProcess:
        members = []
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    # Its session is its own (start_new_session), so the group holds nothing else.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in members:
        # psutil compares start times too: a pid that was given away is left alone.
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(members, timeout=5)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:])


@contextmanager
def serve(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    health: str,
    limit_s: float = 60,
) -> Iterator[Server]:
    """Start a server, wait for its health, and end it after the block.

    Args:
        command: `{port}` in it is replaced.
        env: Added to this process's own; `{port}` and `{home}` are replaced.
        health: The path that answers 200 once it serves.
        limit_s: How long that may take.

    Raises:
        ServerFailedError: if it does not come up; the message ends with its log.
    """
    with tempfile.TemporaryDirectory(
        prefix="lsml-bench-", ignore_cleanup_errors=True
    ) as directory:
        home, port = Path(directory), free_port()
        places = {"port": str(port), "home": directory}
        filled = [part.format(**places) for part in command]
        added = {key: value.format(**places) for key, value in env.items()}
        log = home / "log"
        started = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                filled,
                cwd=REPOSITORY,
                env=os.environ | added,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_healthy(process, port, health, limit_s)
            took = time.monotonic() - started
            yield Server(psutil.Process(process.pid), port, took, home)
        except ServerFailedError as error:
            raise ServerFailedError(f"{filled}: {error}\n{_tail(log)}") from error
        finally:
            _end(process)
