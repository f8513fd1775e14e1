"""CPU time of a trivial request in one process, with and without BentoML's spans.

`python -m benchmarks.serving.cpu` uses no sockets and no load generator, so its numbers
vary less than requests per second. docs/architecture.md quotes them.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import REPOSITORY
from benchmarks.common.models import TARGETS
from benchmarks.common.servers import own_home
from benchmarks.common.tasks import body

CLIENTS = 64
REQUESTS = 47
ROUNDS = 5
_BODY = body("trivial", range(1, 2))
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(_BODY)).encode()),
]


async def _request(app: Any) -> None:
    messages = [{"type": "http.request", "body": _BODY, "more_body": False}]
    statuses: list[int] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Future()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "headers": _HEADERS,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    assert statuses == [200], statuses


async def _client(app: Any) -> None:
    for _ in range(REQUESTS):
        await _request(app)


async def measure(app: Any) -> float:
    """Microseconds of CPU per request, the best of five rounds."""
    best = float("inf")
    async with app.router.lifespan_context(app):
        await _client(app)
        for _ in range(ROUNDS):
            began = time.process_time()
            await asyncio.gather(*(_client(app) for _ in range(CLIENTS)))
            best = min(best, time.process_time() - began)
    return 1e6 * best / (CLIENTS * REQUESTS)


def _measure_here() -> None:
    import uvloop  # noqa: PLC0415 - only in the measured process

    from benchmarks.common.service import svc  # noqa: PLC0415

    print(f"{uvloop.run(measure(svc.to_asgi())):.0f}")


def _measure_apart(tracing: str) -> str:
    with tempfile.TemporaryDirectory() as home:
        environ = {
            **os.environ,
            **own_home(home),
            "BENCH_TARGET": TARGETS["trivial"],
            "BENCH_NAME": "bench-trivial",
            "LSML_TRACING": tracing,
            "LOG_LEVEL": "ERROR",
        }
        command = [sys.executable, "-m", "benchmarks.serving.cpu", "here"]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environ, capture_output=True, check=True
        )
    return done.stdout.decode().split()[-1]


if __name__ == "__main__":
    if sys.argv[1:] == ["here"]:
        _measure_here()
    else:
        print("Microseconds of CPU per trivial request, 64 concurrent:")
        print(f"  without spans: {_measure_apart('0')}")
        print(f"  with spans (LSML_TRACING=1): {_measure_apart('1')}")
