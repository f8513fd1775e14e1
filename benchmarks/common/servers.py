"""Server processes: started, awaited, measured and always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from benchmarks import NER, REPOSITORY
from tests.e2e.processes import free_port, healthy

BENTOML_SERVE = (
    *(str(Path(sys.executable).with_name("bentoml")), "serve"),
    *("--host", "127.0.0.1", "--port", "{port}"),
)
SERVICE = (*BENTOML_SERVE, "benchmarks.common.service:svc")

_GRACE_S = 10


class ServerFailedError(Exception):
    """A server did not start."""


def torch_threads(count: int) -> dict[str, str]:
    """The environment that gives a process so many threads for torch and BLAS."""
    return {
        "BENCH_TORCH_THREADS": str(count),
        "OMP_NUM_THREADS": str(count),
        "MKL_NUM_THREADS": str(count),
        "OPENBLAS_NUM_THREADS": str(count),
    }


def own_home(home: str | Path) -> dict[str, str]:
    """The environment of a process whose state and models are in that directory."""
    path = filter(None, (str(REPOSITORY), str(NER), os.environ.get("PYTHONPATH")))
    return {
        "LSML_HOME": f"{home}/lsml",
        "BENTOML_HOME": f"{home}/bentoml",
        "BENTOML_DO_NOT_TRACK": "true",
        "PYTHONPATH": os.pathsep.join(path),
    }


@dataclass(frozen=True)
class Server:
    """A running server with all its processes."""

    process: psutil.Process
    port: int
    started_s: float
    home: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> dict[int, float]:
        """Resident memory of each process in MiB, by pid."""
        found: dict[int, float] = {}
        for member in _tree(self.process):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[member.pid] = member.memory_info().rss / 2**20
        return found

    def serving_pid(self) -> int:
        """The process that listens to clients, the youngest if there are several."""
        listening = [m.pid for m in _tree(self.process) if _listens(m, self.port)]
        return max(listening) if listening else self.process.pid

    def metric(self, name: str, **labels: str) -> list[Sample]:
        """The samples on /metrics with that name and those labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as page:
            text = page.read().decode()
        return [
            sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]


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
    """Send SIGTERM, and 10 s later SIGKILL, to the process and its children."""
    try:
        members = _tree(psutil.Process(process.pid))
    except psutil.NoSuchProcess:
        members = []
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    # It has its own session (start_new_session), so the group holds nothing else.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in members:
        # psutil compares start times too, so a reused pid is never killed.
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
    """Start a server with an empty home, wait until it is healthy, end it at last.

    Args:
        command: `{port}` in it is replaced.
        env: added to this process's environment; `{port}` is replaced.
        health: the path that answers 200 once the server is healthy.
        limit_s: how long that may take.

    Raises:
        ServerFailedError: if it does not start; the message ends with its log.
    """
    with tempfile.TemporaryDirectory(
        prefix="lsml-bench-", ignore_cleanup_errors=True
    ) as directory:
        home, port = Path(directory), free_port()
        filled = [part.format(port=port) for part in command]
        added = {key: value.format(port=port) for key, value in env.items()}
        log = home / "log"
        started = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                filled,
                cwd=REPOSITORY,
                env=os.environ | own_home(directory) | added,
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
