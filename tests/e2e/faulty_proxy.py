"""A proxy before Label Studio that fails as networks and servers do."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import httpx

Fault = Callable[["Exchange"], None]


@dataclass
class Exchange:
    """One request on its way."""

    handler: BaseHTTPRequestHandler
    upstream: httpx.Client
    body: bytes

    def carry_out(self) -> httpx.Response:
        """What Label Studio answers; the client is not told yet."""
        kept = ("authorization", "content-type", "accept")
        headers = {k: v for k, v in self.handler.headers.items() if k.lower() in kept}
        method, path = self.handler.command, self.handler.path
        return self.upstream.request(method, path, content=self.body, headers=headers)

    def answer(self, status: int, body: bytes) -> None:
        """Tell the client something."""
        with suppress(OSError):  # it may be gone
            self.handler.send_response(status)
            self.handler.send_header("Content-Type", "application/json")
            self.handler.send_header("Content-Length", str(len(body)))
            self.handler.end_headers()
            self.handler.wfile.write(body)

    def cut(self) -> None:
        """Close the connection without a word."""
        self.handler.close_connection = True
        with suppress(OSError):
            self.handler.connection.shutdown(socket.SHUT_RDWR)


def passes(exchange: Exchange) -> None:
    """No fault at all."""
    response = exchange.carry_out()
    exchange.answer(response.status_code, response.content)


def answers(status: int, *, carried_out: bool = False) -> Fault:
    """A page of its own in place of Label Studio's answer."""

    def fault(exchange: Exchange) -> None:
        if carried_out:
            exchange.carry_out()
        exchange.answer(status, b"<html>")

    return fault


def hangs(seconds: float, then: Fault) -> Fault:
    """Nothing for a while."""

    def fault(exchange: Exchange) -> None:
        time.sleep(seconds)
        then(exchange)

    return fault


def cuts(*, carried_out: bool) -> Fault:
    """A connection that is lost, before or after Label Studio did what was asked."""

    def fault(exchange: Exchange) -> None:
        if carried_out:
            exchange.carry_out()
        exchange.cut()

    return fault


@dataclass
class FaultyProxy:
    """Forwards to a URL; the faults come first, each for one request of its kind.

    Attributes:
        reads: faults of GET.
        writes: faults of predictions that are imported.
        always: the fault of every request after those.
        seen: method and path of each request.
    """

    url_behind: str
    reads: list[Fault] = field(default_factory=list)
    writes: list[Fault] = field(default_factory=list)
    always: Fault = passes
    seen: list[tuple[str, str]] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def __enter__(self) -> FaultyProxy:
        proxy = self
        upstream = httpx.Client(base_url=self.url_behind, timeout=60, trust_env=False)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                exchange = Exchange(self, upstream, self.rfile.read(size))
                proxy._fault_of(self.command, self.path)(exchange)

            # The names that http.server calls.
            do_GET = do_POST = do_DELETE = _forward  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._upstream = upstream
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        serve = self._server.serve_forever
        Thread(target=serve, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._upstream.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _fault_of(self, method: str, path: str) -> Fault:
        with self._lock:
            self.seen.append((method, path.partition("?")[0]))
            if method == "GET" and self.reads:
                return self.reads.pop(0)
            if path.endswith("/import/predictions") and self.writes:
                return self.writes.pop(0)
            return self.always
