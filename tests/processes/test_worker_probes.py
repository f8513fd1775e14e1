"""What a worker answers to probes and to Prometheus."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lsml_bento.errors import SettingsError, StateError
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.processes.worker_probes import Health
from lsml_bento.state.memory import MemoryState
from lsml_bento.training.fit_worker import FitWorker
from tests.fits import Home, eventually, speaker

HOLD = """
import time
time.sleep(60)
"""


class Absent(MemoryState):
    """A state that can be taken away."""

    is_away = False

    def get(self, key: str) -> str | None:
        if self.is_away:
            raise StateError("the state cannot be read: it is away")
        return super().get(key)

    def scan(self, *arguments: Any, **options: Any) -> list[tuple[str, str]]:
        if self.is_away:
            raise StateError("the state cannot be read: it is away")
        return super().scan(*arguments, **options)


class Worker:
    """A worker with its probes, whose main loop runs once it is started."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.fits = FitWorker(
            "test",
            home.state,
            home.queue,
            home.publisher,
            home.settings,
            lambda _: speaker(HOLD),
            keeps_process=False,
        )
        self.health = Health(0, self.fits, JobStore(home.state), still_s=3)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.health.port}")
        self.thread = threading.Thread(target=self.fits.work)

    def get(self, path: str) -> tuple[int, Any]:
        answer = self.http.get(path)
        return answer.status_code, answer.json()

    def metrics(self) -> dict[str, float]:
        """Every sample of ``/metrics``, labels behind its name."""
        answer = self.http.get("/metrics")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/plain; version=")
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def close(self) -> None:
        self.fits.stop()
        if self.thread.is_alive():
            self.thread.join(10)
        self.http.close()
        self.health.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(Home(tmp_path, Absent()))
    yield made
    made.close()


def test_a_worker_is_ready_that_stands_by_or_trains(worker: Worker) -> None:
    assert worker.get("/livez") == (200, {"status": "stands by"})
    assert worker.get("/readyz") == (200, {"status": "stands by"})
    assert worker.metrics()["lsml_worker_trains"] == 0

    worker.health.show_training()

    assert worker.get("/livez?probe=1") == (200, {"status": "trains"})
    assert worker.get("/readyz") == (200, {"status": "trains"})
    assert worker.metrics()["lsml_worker_trains"] == 1


def test_prometheus_gets_the_job_stores_figures(worker: Worker) -> None:
    worker.home.enqueue()
    lease = worker.home.lease()
    worker.home.job_store.fail(lease, "no")
    seconds, fits = worker.home.job_store.totals()

    measured = worker.metrics()

    assert measured["lsml_jobs failed"] == 1
    assert measured["lsml_jobs running"] == 0
    assert measured["lsml_oldest_queued_seconds"] >= 0
    assert measured["lsml_fit_seconds_sum"] == pytest.approx(seconds)
    assert measured["lsml_fit_seconds_count"] == fits == 1


def test_a_worker_that_cannot_read_the_state_is_alive_but_not_ready(
    worker: Worker,
) -> None:
    assert isinstance(worker.home.state, Absent)
    worker.home.state.is_away = True
    away = {"error": "the state cannot be read: it is away"}

    assert worker.get("/livez")[0] == 200
    assert worker.get("/readyz") == (503, away)
    assert worker.get("/metrics") == (503, away)

    worker.home.state.is_away = False
    assert worker.get("/readyz")[0] == 200


def test_a_loop_that_stands_still_is_seen_and_one_in_a_long_fit_moves(
    worker: Worker,
) -> None:
    time.sleep(3.1)
    assert worker.get("/livez") == (503, {"error": "nothing moved for 3 s"})

    job = worker.home.enqueue()
    worker.thread.start()
    eventually(lambda: worker.home.job(job).status.value == "running", "the run")
    time.sleep(3.5)

    assert worker.get("/livez")[0] == 200
    assert worker.metrics()["lsml_jobs running"] == 1


def test_a_worker_that_ends_is_not_ready(worker: Worker) -> None:
    worker.fits.stop()

    assert worker.get("/livez")[0] == 200
    assert worker.get("/readyz") == (503, {"error": "the worker ends"})


def test_an_unknown_path_is_404_and_a_client_that_disconnects_does_no_harm(
    worker: Worker,
) -> None:
    with socket.create_connection(("127.0.0.1", worker.health.port)) as client:
        client.sendall(b"GET /met")

    nothing = {"error": "/predict: no such path"}
    assert worker.get("/predict") == (404, nothing)


def test_a_port_in_use_is_reported_in_one_sentence(worker: Worker) -> None:
    with pytest.raises(SettingsError) as refused:
        Health(worker.health.port, worker.fits, JobStore(MemoryState()))

    assert str(refused.value) == (
        f"--health-port {worker.health.port} cannot be listened on (Address already "
        "in use): name a port that no other process has"
    )
    assert json.loads(worker.http.get("/livez").text)
