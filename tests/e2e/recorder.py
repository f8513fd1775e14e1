"""A proxy that stands between Label Studio and a backend and notes what passes."""

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import orjson

PASSED_ON = ("content-type", "authorization", "user-agent")


@dataclass(frozen=True)
class Exchange:
    """One request and the status that the backend answered."""

    method: str
    path: str
    body: Any
    status: int
    answer: Any
    authorization: str | None = None

    @property
    def action(self) -> str | None:
        """The kind of a webhook's event."""
        return self.body.get("action") if isinstance(self.body, dict) else None


@dataclass
class Recorder:
    """Forwards to a backend's URL; ``exchanges`` holds what passed, in order."""

    target: str
    exchanges: list[Exchange] = field(default_factory=list)
    replace_authorization: str | None = None

    def __enter__(self) -> "Recorder":
        self._http = httpx.Client(timeout=110)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._http.close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calls(self, path: str) -> list[Exchange]:
        """What passed for one path."""
        return [exchange for exchange in self.exchanges if exchange.path == path]

    def events(self) -> list[tuple[str | None, int]]:
        """The action and the status of every webhook so far."""
        return [(call.action, call.status) for call in self.calls("/webhook")]

    def forward(
        self, method: str, path: str, headers: dict[str, str], content: bytes
    ) -> httpx.Response:
        """Ask the backend, note the exchange, hand back the answer."""
        passed = {k.title(): v for k, v in headers.items() if k.lower() in PASSED_ON}
        if self.replace_authorization:
            passed["Authorization"] = self.replace_authorization
        url = self.target + path
        answer = self._http.request(method, url, headers=passed, content=content)
        exchange = Exchange(
            method,
            path,
            _json(content),
            answer.status_code,
            _json(answer.content),
            headers.get("Authorization"),
        )
        self.exchanges.append(exchange)
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def _pass(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = dict(self.headers.items())
                answer = recorder.forward(self.command, self.path, headers, content)
                kind = answer.headers.get("content-type", "application/json")
                self.send_response(answer.status_code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = _pass  # noqa: N815 - the names that http.server calls

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        return Handler


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
