"""A load generator in its own process that records every request and its answer.

wrk reports only totals and has no fixed rate. In an open loop, latency counts from the
moment at which a request was due, so a late generator counts against the server; how
late it was is recorded too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import REPOSITORY

_LEAD_S = 0.3
_LIMIT_S = 30.0
_PID = re.compile(rb'"text":\["(\d+)"\]')


@dataclass(frozen=True)
class Plan:
    """What the clients do.

    Attributes:
        bodies: a file with one body per line.
        rate: requests per second, each body once; 0 for a closed loop.
        fresh: open a new connection for each request, as Label Studio does.
        clients: clients of the closed loop, which run until stdin closes.
        processes: serving processes over which clients are spread evenly.
    """

    port: int
    path: str
    bodies: str
    rate: float = 0.0
    fresh: bool = False
    clients: int = 0
    processes: int = 1


@dataclass(frozen=True)
class Answer:
    """One request; times are from `time.monotonic()`.

    Attributes:
        due: when it should have been sent.
        status: 0 if the connection failed.
    """

    due: float
    sent: float
    done: float
    status: int
    text: str

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def ms(self) -> float:
        return 1000 * (self.done - self.due)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; NaN without values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def lateness(answers: Sequence[Answer]) -> dict[str, float]:
    """How late the generator sent requests, in milliseconds."""
    late = [1000 * (answer.sent - answer.due) for answer in answers]
    return {
        "generator late p99 ms": percentile(late, 0.99),
        "generator late max ms": max(late, default=math.nan),
    }


class Clients:
    """Starts the process and collects its answers."""

    def __init__(self, bodies: Sequence[bytes], port: int, path: str, **plan: Any):
        self._file = tempfile.NamedTemporaryFile(suffix=".jsonl")  # noqa: SIM115
        self._file.write(b"\n".join(bodies))
        self._file.flush()
        made = Plan(port, path, self._file.name, **plan)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.learning.clients",
                json.dumps(asdict(made)),
            ],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.stop()
            raise RuntimeError("The clients did not start")

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def finish(self, limit_s: float = 120) -> list[Answer]:
        """End a closed loop, or wait for the answer to the last body.

        Raises:
            RuntimeError: if the process failed.
        """
        output, _ = self._process.communicate(timeout=limit_s)
        if self._process.returncode:
            raise RuntimeError(f"The clients exited with {self._process.returncode}")
        return [Answer(*json.loads(line)) for line in output.splitlines()]

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._file.close()


def _whole(got: bytes) -> tuple[int, bytes] | None:
    """Status and body of an answer; None while it is incomplete."""
    head, found, body = got.partition(b"\r\n\r\n")
    declared = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    if not found or declared is None or len(body) < int(declared[1]):
        return None
    return int(head[9:12]), body


@dataclass
class _Asked:
    """A request without an answer yet."""

    due: float
    sent: float
    got: bytes = b""

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self.sent > _LIMIT_S


class _Connection(asyncio.Protocol):
    """A connection of the closed loop, for one request at a time."""

    def __init__(self) -> None:
        self._got = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._got.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._answer is not None and not self._answer.done():
            answer = _whole(bytes(self._got))
            if answer is not None:
                self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"closed: {exc}"))

    def close(self) -> None:
        self._transport.close()


class _Loop:
    """The clients, inside the process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = [
            self._request(body) for body in Path(plan.bodies).read_bytes().split(b"\n")
        ]
        self._idle: list[socket.socket] = []
        self._count: Counter[bytes] = Counter()
        self._over = asyncio.Event()
        self.answers: list[Answer] = []

    def _request(self, body: bytes) -> bytes:
        head = (
            f"POST {self._plan.path} HTTP/1.1\r\nHost: 127.0.0.1:{self._plan.port}\r\n"
            "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(
            _Connection, "127.0.0.1", self._plan.port
        )
        return made

    # The open loop uses plain sockets. asyncio needs a millisecond of CPU for each
    # connection that it opens, which the server would lose.

    def open(self) -> None:
        begin = time.monotonic() + _LEAD_S
        due = deque(
            (begin + number / self._plan.rate, request)
            for number, request in enumerate(self._requests)
        )
        asked: dict[socket.socket, _Asked] = {}
        while due or asked:
            left = due[0][0] - time.monotonic() if due else _LIMIT_S
            # select() is precise to 50 microseconds, epoll rounds up to a millisecond.
            ready, _, _ = select.select(asked, [], [], max(0.0, left))
            for connection in ready:
                if self._has_answered(connection, asked[connection]):
                    del asked[connection]
            while due and due[0][0] <= time.monotonic():
                moment, request = due.popleft()
                sent = time.monotonic()
                opened = self._ask(request)
                if opened is None:
                    self._note(moment, sent, 0, b"")
                else:
                    asked[opened] = _Asked(moment, sent)
            for silent in [one for one in asked if asked[one].is_late]:
                self._note(asked[silent].due, asked[silent].sent, 0, b"")
                silent.close()
                del asked[silent]

    def _ask(self, request: bytes) -> socket.socket | None:
        with suppress(OSError):
            connection = self._free() or socket.create_connection(
                ("127.0.0.1", self._plan.port), _LIMIT_S
            )
            connection.sendall(request)
            return connection
        return None

    def _has_answered(self, connection: socket.socket, asked: _Asked) -> bool:
        """Whether the answer is complete or the connection has ended."""
        data = b""
        with suppress(OSError):
            data = connection.recv(65_536)
        asked.got += data
        answer = _whole(asked.got)
        if data and answer is None:
            return False
        status, body = answer or (0, b"")
        self._note(asked.due, asked.sent, status, body)
        if self._plan.fresh or not status:
            connection.close()
        else:
            self._idle.append(connection)
        return True

    def _free(self) -> socket.socket | None:
        while self._idle:
            connection = self._idle.pop()
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.close()  # the server has closed it
        return None

    def _note(self, due: float, sent: float, status: int, body: bytes) -> None:
        text = body.decode(errors="replace")
        self.answers.append(Answer(due, sent, time.monotonic(), status, text))

    # Closed loop

    async def closed(self) -> None:
        loop = asyncio.get_running_loop()

        def watch() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(self._over.set)

        threading.Thread(target=watch, daemon=True).start()
        numbers = range(self._plan.clients)
        await asyncio.gather(*(self._client(number) for number in numbers))

    async def _client(self, number: int) -> None:
        connection = await self._evenly(number)
        turn = number
        while not self._over.is_set():
            sent, status, body = time.monotonic(), 0, b""
            try:
                request = self._requests[turn % len(self._requests)]
                status, body = await asyncio.wait_for(connection.ask(request), _LIMIT_S)
            except (OSError, asyncio.TimeoutError):
                connection = await self._connect()
            self._note(sent, sent, status, body)
            turn += self._plan.clients

    async def _evenly(self, number: int) -> _Connection:
        """Connect to a serving process that does not have its share of clients yet."""
        share = math.ceil(self._plan.clients / self._plan.processes)
        for _ in range(500):
            connection = await self._connect()
            _, body = await connection.ask(self._requests[number])
            found = _PID.search(body)
            pid = found[1] if found else b""
            if self._count[pid] < share:
                self._count[pid] += 1
                return connection
            connection.close()
        raise RuntimeError(f"No process for client {number}: {dict(self._count)}")


def main(plan: Plan) -> None:
    """Carry out the plan, then print the answers, one per line."""
    made = _Loop(plan)
    print("ready", flush=True)
    gc.collect()
    gc.disable()
    if plan.rate:
        made.open()
    else:
        asyncio.run(made.closed())
    for answer in made.answers:
        print(json.dumps(list(asdict(answer).values())))


if __name__ == "__main__":
    main(Plan(**json.loads(sys.argv[1])))
