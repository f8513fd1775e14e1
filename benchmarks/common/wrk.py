"""Load from programs outside Python: wrk for many requests, curl for a single POST."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).with_name("wrk.lua")
_TOOLS = {"wrk": "apt-get install -y wrk", "curl": "apt-get install -y curl"}


@dataclass(frozen=True)
class Load:
    """What wrk measured: latencies in ms, infinite if no request was answered."""

    requests: int
    seconds: float
    p50: float
    p99: float
    max: float
    failed: int

    @property
    def per_second(self) -> float:
        """Successful requests per second."""
        return max(0, self.requests - self.failed) / self.seconds


class MissingToolError(RuntimeError):
    """A program is not on PATH; the message has the command that installs it."""


def require_tools() -> None:
    """Check that wrk and curl are installed.

    Raises:
        MissingToolError: if one is not on PATH.
    """
    for tool, command in _TOOLS.items():
        if shutil.which(tool) is None:
            raise MissingToolError(f"{tool} is missing. Install it with: {command}")


class Stream:
    """Closed-loop clients that run in the background until `finish`."""

    def __init__(
        self,
        url: str,
        bodies: Sequence[bytes],
        *,
        clients: int,
        seconds: float,
        pause_ms: int = 0,
    ) -> None:
        self._file = tempfile.NamedTemporaryFile(suffix=".jsonl")  # noqa: SIM115
        self._file.write(b"\n".join(bodies) + b"\n")
        self._file.flush()
        source = self._file.name if bodies else "-"
        # wrk accepts only whole seconds.
        duration = f"-d{max(1, round(seconds))}s"
        command = ["wrk", "-t1", f"-c{clients}", duration, "--timeout", "60s"]
        command += ["-s", str(_SCRIPT), url, "--", source, str(pause_ms)]
        self._limit_s = seconds + 30
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def running(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> Load:
        """Wait for wrk to end and return what it measured.

        Raises:
            RuntimeError: if wrk printed no numbers.
        """
        output, _ = self._process.communicate(timeout=self._limit_s)
        self.stop()
        for line in output.splitlines():
            if line.startswith("BENCH "):
                numbers: dict[str, Any] = json.loads(line.removeprefix("BENCH "))
                if not numbers["requests"]:
                    numbers |= {"p50": math.inf, "p99": math.inf, "max": math.inf}
                return Load(**numbers)
        raise RuntimeError(f"wrk printed no numbers: {output.strip()[-400:]}")

    def stop(self) -> None:
        """Kill wrk if it is still running."""
        if self.running():
            self._process.kill()
            self._process.wait()
        self._file.close()


@contextmanager
def stream(
    url: str,
    bodies: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    pause_ms: int = 0,
) -> Iterator[Stream]:
    """A Stream that ends with the block at the latest."""
    made = Stream(url, bodies, clients=clients, seconds=seconds, pause_ms=pause_ms)
    try:
        yield made
    finally:
        made.stop()


def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    pause_ms: int = 0,
) -> Load:
    """Run closed-loop clients for that long; without bodies they send GETs."""
    with stream(
        url, bodies, clients=clients, seconds=seconds, pause_ms=pause_ms
    ) as running:
        return running.finish()


def post_once(url: str, body: bytes) -> tuple[float, bytes]:
    """POST with curl and return the seconds it took and the answer.

    Raises:
        RuntimeError: if the status is not 200.
    """
    with tempfile.TemporaryDirectory() as directory:
        sent, got = Path(directory, "sent"), Path(directory, "got")
        sent.write_bytes(body)
        command = ["curl", "-sS", "-m", "300", "-H", "Expect:", "-o", str(got)]
        command += ["-H", "Content-Type: application/json"]
        command += ["-w", "%{http_code} %{time_total}"]
        command += ["--data-binary", f"@{sent}", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        status, _, seconds = done.stdout.partition(" ")
        if status != "200":
            shown = got.read_bytes()[:200] if got.exists() else b""
            raise RuntimeError(f"POST {url}: {status} {done.stderr} {shown!r}")
        return float(seconds), got.read_bytes()


def median_post(url: str, body: bytes, times: int) -> tuple[float, bytes]:
    """POST several times and return the median seconds and the last answer."""
    took, answer = [], b""
    for _ in range(times):
        seconds, answer = post_once(url, body)
        took.append(seconds)
    return statistics.median(took), answer
