"""A worker's health checks and metrics over HTTP."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lsml_bento.contract import ROUTING_ERRORS
from lsml_bento.errors import SettingsError, StateError
from lsml_bento.jobs.job_store import FIT_SECONDS, FITS, JOBS, OLDEST_QUEUED, JobStore
from lsml_bento.training.fit_worker import FitWorker

log = logging.getLogger(__name__)

STILL_S = 60.0
"""A worker hangs if a thread has not moved for so long; each moves every second."""

_CLIENT_S = 5.0


class Health:
    """Serves a worker's ``/livez``, ``/readyz`` and ``/metrics`` from a thread.

    ``/livez`` is 200 while the worker's main loop and the threads of its fits move,
    even if the state is unavailable, which a restart would not change. ``/readyz`` is
    200 while the worker trains or stands by and can read the state. Otherwise both are
    503 with the reason.

    Args:
        port: to listen on, on all addresses; 0 for a free one.
        worker: what it reports on.
        job_store: of the worker's jobs.
        still_s: the worker hangs if a thread has not moved for so many seconds.

    Raises:
        SettingsError: if the port is not available.
    """

    def __init__(
        self,
        port: int,
        worker: FitWorker,
        job_store: JobStore,
        still_s: float = STILL_S,
    ) -> None:
        self._worker = worker
        self._still_s = still_s
        self._job_store = job_store
        self._trains = False
        self._registry = CollectorRegistry()
        self._registry.register(_Figures(self))
        try:
            self._server = _Server(("0.0.0.0", port), self)  # noqa: S104 - for probes
        except OSError as error:
            raise SettingsError(
                f"--health-port {port} cannot be listened on ({error.strerror}): name "
                "a port that no other process has"
            ) from error
        self.port = int(self._server.server_address[1])
        thread = threading.Thread(
            target=self._server.serve_forever, name="health", daemon=True
        )
        thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def show_training(self) -> None:
        """Report from now on that this worker trains instead of standing by."""
        self._trains = True

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a path."""
        try:
            if path == "/metrics":
                return (
                    HTTPStatus.OK,
                    CONTENT_TYPE_LATEST,
                    generate_latest(self._registry),
                )
            if path in {"/livez", "/readyz"}:
                fault = self._fault() if path == "/livez" else self._hindrance()
                return _status(fault, "trains" if self._trains else "stands by")
        except StateError as error:
            return _status(str(error), "")
        body = {"error": f"{path}: {ROUTING_ERRORS[404]}"}
        return HTTPStatus.NOT_FOUND, "application/json", json.dumps(body).encode()

    def _fault(self) -> str | None:
        still_s = self._worker.still_s
        return None if still_s < self._still_s else f"nothing moved for {still_s:.0f} s"

    def _hindrance(self) -> str | None:
        if self._worker.is_stopping:
            return "the worker ends"
        self._job_store.totals()
        return self._fault()

    def measure(self) -> tuple[dict[str, Any], bool]:
        """The job store's figures, and whether this worker trains.

        Raises:
            StateError: if they cannot be read.
        """
        return self._job_store.figures(), self._trains


class _Figures(Collector):
    """Reads the job store at each scrape."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # or they would be read at registration

    def collect(self) -> Iterator[GaugeMetricFamily]:
        figures, trains = self._health.measure()
        jobs = GaugeMetricFamily(*JOBS, labels=["status"])
        for status, number in figures["jobs"].items():
            jobs.add_metric([status], number)
        yield jobs
        yield GaugeMetricFamily(*OLDEST_QUEUED, value=figures["oldest_queued_s"])
        yield GaugeMetricFamily(*FIT_SECONDS, value=figures["fit_seconds"])
        yield GaugeMetricFamily(*FITS, value=figures["fits"])
        yield GaugeMetricFamily(
            "lsml_worker_trains",
            "1 if the worker trains, 0 if it stands by",
            value=int(trains),
        )


def _status(fault: str | None, well: str) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.OK if fault is None else HTTPStatus.SERVICE_UNAVAILABLE
    body = {"status": well} if fault is None else {"error": fault}
    return status, "application/json", json.dumps(body).encode()


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], health: Health) -> None:
        self.health = health
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking DNS for this machine's name, which may be slow."""
        TCPServer.server_bind(self)
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log at DEBUG: clients that disconnect are no errors of the worker."""
        log.debug("%s was not answered: %s", client_address, sys.exc_info()[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_S

    def do_GET(self) -> None:
        status, content_type, body = self.server.health.answer(
            self.path.partition("?")[0]
        )
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: probes come every few seconds."""
