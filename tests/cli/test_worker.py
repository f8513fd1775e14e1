"""``lsml-bento worker``: trains, stands by, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest

from lsml_bento.jobs.job import JobStatus
from lsml_bento.jobs.job_store import JobStore
from tests.cli.commands import refused, run, write
from tests.cli.place import LEARNER, ONE, TWO, Place, Running
from tests.e2e.processes import free_port

RUNNING = JobStatus.RUNNING


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "backend")
    made.connect()
    return made


def status(place: Place, job: str) -> JobStatus:
    with place.state() as state:
        return JobStore(state).find(job).status


def eventually(is_so: Callable[[], bool], timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def tree(worker: Running) -> list[psutil.Process]:
    """The worker's process and all that it started."""
    found = psutil.Process(worker.process.pid)
    return [found, *found.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[str]:
    """What still runs of processes, by its title."""
    return [" ".join(p.cmdline()) for p in processes if p.is_running()]


def test_a_job_is_trained_and_the_worker_ends_with_nothing_left(place: Place) -> None:
    with place.running("worker", ".", "--log-level", "info") as worker:
        worker.await_line("backend=learner")
        done = place.run("train", "1", "--wait", timeout_s=90)
        started = tree(worker)
        assert worker.end(signal.SIGTERM) == 0

    assert done.returncode == 0, done.stdout + done.stderr + worker.log
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "learns from START_TRAINING 1" in lines
    [version, base] = place.json("versions", "list")["versions"]
    assert lines[-1].startswith(
        f"job {version['job']} succeeded: {version['version']} ("
    )
    assert version["active"]
    assert version["metrics"] == {"f1": 0.91234}
    assert base["version"] == "learner-0"
    assert alive(started) == []


def test_ctrl_c_puts_the_running_job_back(place: Place) -> None:
    slow = LEARNER.replace("sleep(0.3)", "sleep(30)")
    (place.directory / "model.py").write_text(slow)
    job = place.job().id
    with place.running("worker", ".") as worker:
        worker.await_line("learns from START_TRAINING 1")
        started = tree(worker)
        titles = alive(started)
        assert worker.end(signal.SIGINT) == 0

    assert titles[0].startswith("lsml-bento worker learner")
    assert titles[1].startswith(f"lsml-bento fit job={job} project={ONE}")
    assert status(place, job) is JobStatus.QUEUED
    with place.state() as state:
        assert JobStore(state).find(job).attempts == 0
    assert alive(started) == []


def test_a_second_worker_stands_by_and_takes_over(place: Place) -> None:
    with place.running("worker", ".") as first:
        first.await_line("backend=learner")
        with place.running("worker", ".") as second:
            second.await_line(
                f"Worker standing by until another one is gone: home={place.home}"
            )
            os.kill(first.process.pid, signal.SIGKILL)
            second.await_line("backend=learner")
            job = place.job().id
            eventually(lambda: status(place, job) is JobStatus.SUCCEEDED)
            assert second.end() == 0


def test_as_many_fits_run_at_a_time_as_are_asked_for(place: Place) -> None:
    slow = LEARNER.replace("sleep(0.3)", "sleep(30)")
    (place.directory / "model.py").write_text(slow)
    place.connect(ONE, TWO)
    jobs = [place.job(project).id for project in (ONE, TWO)]
    with place.running("worker", ".", "--fits", "2") as worker:
        eventually(lambda: all(status(place, job) is RUNNING for job in jobs))
        assert worker.end() == 0

    assert [status(place, job) for job in jobs] == [JobStatus.QUEUED] * 2


def test_a_standby_worker_exits_when_asked_to(place: Place) -> None:
    with place.running("worker", ".") as first:
        first.await_line("backend=learner")
        with place.running("worker", ".") as second:
            second.await_line("Worker standing by")
            assert second.end(signal.SIGINT) == 0
        assert first.end() == 0


def test_a_worker_trains_a_legacy_directory(tmp_path: Path) -> None:
    imports = "from lsml_bento import LabelStudioMLBase"
    legacy = LEARNER.replace(
        imports, imports.replace("lsml_bento", "label_studio_ml.model")
    )
    body = legacy.partition("    def fit")[0]
    fit = "    def fit(self, event, data, **kwargs):\n        self.set('seen', event)\n"
    place = Place(tmp_path / "backend", model=body + fit)
    place.connect()
    job = place.run("train", "--json").stdout
    with place.running("worker", ".") as worker:
        eventually(lambda: len(place.json("versions", "list")["versions"]) == 2)
        assert worker.end() == 0

    [version, _] = place.json("versions", "list")["versions"]
    assert version["version"] == "learner-0+1"
    assert version["job"] in job
    with place.state() as state:
        assert state.read(ONE)["seen"] == "START_TRAINING"


def test_a_worker_trains_on_redis(tmp_path: Path, redis_server: str) -> None:
    name = f"Learner{uuid4().hex[:8]}"
    model = LEARNER.replace("class Learner", f"class {name}")
    place = Place(tmp_path / "backend", redis_server, model=model)
    place.name = name.lower()
    place.connect()
    with place.running("worker", ".") as worker:
        worker.await_line("Worker started")
        assert place.run("train", "--wait", timeout_s=90).returncode == 0
        assert worker.end() == 0


def test_probes_tell_a_worker_that_trains_from_one_that_stands_by(place: Place) -> None:
    def answers(port: int, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5)

    ports = free_port(), free_port()
    with place.running("worker", ".", "--health-port", ports[0]) as first:
        first.await_line("backend=learner")
        with place.running("worker", ".", "--health-port", ports[1]) as second:
            second.await_line("Worker standing by")
            said = [answers(port, "/readyz").json()["status"] for port in ports]
            assert said == ["trains", "stands by"]
            assert place.run("train", "1", "--wait", timeout_s=90).returncode == 0
            metrics = answers(ports[1], "/metrics").text
            assert 'lsml_jobs{status="succeeded"} 1.0' in metrics
            taken = place.refused("worker", ".", "--health-port", ports[0])
            assert second.end() == 0
        assert first.end() == 0

    assert taken == (
        f"--health-port {ports[0]} cannot be listened on (Address already in use): "
        "name a port that no other process has"
    )


def test_a_worker_trains_what_the_bento_around_it_serves(tmp_path: Path) -> None:
    bento = tmp_path / "bento"
    service = bento / "src" / "bentos" / "learner"
    place = Place(
        service,
        service="from lsml_bento import create_service\n\n"
        "svc = create_service('backends.learner:Learner', name='learner')\n",
    )
    write(bento / "src" / "backends", learner=LEARNER)
    (bento / "bento.yaml").write_text("service: bentos.learner.service:svc\n")
    place.environ["HOME"] = str(tmp_path)
    place.home = tmp_path / ".lsml" / "learner"
    place.connect()
    place.directory = bento
    job = place.run("train", "--json").stdout
    with place.running("worker") as worker:
        worker.await_line("backend=learner")
        eventually(lambda: len(place.json("versions", "list")["versions"]) == 2)
        assert worker.end() == 0

    [version, _] = place.json("versions", "list")["versions"]
    assert version["job"] in job


def test_a_directory_without_a_backend_is_refused(tmp_path: Path) -> None:
    assert refused(run("worker", "gone", cwd=tmp_path)) == (
        f"{tmp_path / 'gone'} has neither a model.py nor a service.py with svc: name "
        "the directory of a backend"
    )
