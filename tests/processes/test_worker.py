"""The training process, as it is started in production, from an event to a version."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from lsml_bento.contract import Project
from lsml_bento.jobs.job import LEASE_S, Job, JobStatus
from lsml_bento.processes.worker import child_environ, fit_environ, worker_command
from lsml_bento.settings import Settings
from tests.doubles import CONFIG
from tests.fits import NAME, ONE, Home, eventually, is_gone, lines

NATIVE = """
import json, os, subprocess, time
from pathlib import Path
from lsml_bento import LabelStudioMLBase

class Model(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "base")

    def load(self, weights):
        self.words = json.loads((weights / "words").read_text()) if weights else []

    def predict(self, tasks, context=None, **kwargs):
        return []

    def fit(self, event, data, **kwargs):
        print("fit", event)
        with open(os.environ["RECORD"], "a") as file:
            print(json.dumps([os.getpid(), data.get("does", "")]), file=file)
        if data.get("does") == "show":
            gpu = os.environ["CUDA_VISIBLE_DEVICES"]
            begun = time.time()
            while len(open(os.environ["RECORD"]).readlines()) < 2:
                if time.time() > begun + 20:
                    break  # the other fit does not run at the same time
                time.sleep(0.1)
            self.set("ran", [gpu, begun, time.time()])
            return
        if data.get("does") == "sleep":
            sleeper = subprocess.Popen(["sleep", "60"])
            self.report(0.5, sleeper=sleeper.pid)
            time.sleep(60)
        words = [task["data"]["text"] for task in self.annotated_tasks()]
        with self.save_weights({"words": len(words)}) as directory:
            (directory / "words").write_text(json.dumps(words))
"""

LEGACY = """
import json, os
from label_studio_ml.model import LabelStudioMLBase

seen = []

class Model(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "base")

    def predict(self, tasks, context=None, **kwargs):
        return []

    def fit(self, event, data, **kwargs):
        seen.append(data["annotation"]["id"])
        with open(os.environ["RECORD"], "a") as file:
            print(json.dumps([os.getpid(), event, seen]), file=file)
        self.set("seen", seen)
"""

EXTERNAL = """
import os, sys
from lsml_bento.settings import Settings
from lsml_bento.backend_spec import BackendSpec
from lsml_bento.processes.worker import run_worker
run_worker(BackendSpec.from_json(sys.argv[1]), Settings.from_env(os.environ))
"""


class Workers:
    """Worker processes of one home."""

    def __init__(self, path: Path, source: str, **environ: str) -> None:
        self.home = Home(path, None, **environ)
        self.home.write(source)
        self.record = path / "record"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *, is_embedded: bool = True) -> subprocess.Popen[bytes]:
        command = worker_command(self.home.spec)
        if not is_embedded:
            command = [sys.executable, "-c", EXTERNAL, command[-1]]
        environ = {**child_environ(), **self.home.environ, "RECORD": str(self.record)}
        with (self.home.path / "log").open("ab") as log:
            worker = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.PIPE if is_embedded else subprocess.DEVNULL,
                stderr=log,
            )
        self.started.append(worker)
        return worker

    @property
    def log(self) -> str:
        return (self.home.path / "log").read_text()

    @property
    def runs(self) -> list[Any]:
        return lines(self.record)

    def await_status(self, job: Job, *status: JobStatus) -> Job:
        eventually(
            lambda: self.home.job(job).status in status,
            f"{status} of {self.home.job(job)}",
            30,
        )
        return self.home.job(job)

    def sleeping(self) -> tuple[Job, int, int]:
        """A job in the midst of its fit, with the pids of fit and of its child."""
        job = self.home.enqueue(does="sleep")
        eventually(lambda: self.home.job(job).progress, "the fit", 30)
        fit, _ = self.runs[-1]
        return job, fit, int(self.home.job(job).metrics["sleeper"] or 0)

    def close(self) -> None:
        for worker in self.started:
            with worker:
                worker.terminate()
                if worker.stdin is not None:
                    worker.stdin.close()
        self.home.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path, NATIVE)
    yield made
    made.close()


@pytest.fixture
def legacy(tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path, LEGACY, LSML_FIT_IDLE_S="1")
    yield made
    made.close()


def cmdline(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline()).strip()


def ended(worker: subprocess.Popen[bytes]) -> tuple[int, float]:
    """How it ended, and after how many seconds."""
    start = time.monotonic()
    return worker.wait(15), time.monotonic() - start


def test_a_job_becomes_a_version_and_sigterm_puts_the_next_one_back(
    workers: Workers,
) -> None:
    home = workers.home
    home.annotate(1, 2, total=5)
    worker = workers.start(is_embedded=False)
    first = home.enqueue()

    job = workers.await_status(first, JobStatus.SUCCEEDED)
    assert (job.version, job.attempts) == (home.active.version, 1)
    assert (job.metrics, job.source) == ({"words": 2.0}, "annotation store")
    assert "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY" in str(job.note)
    assert "fit START_TRAINING" in home.job_store.log_tail(job.id)
    assert home.stored == [home.active.tag]
    assert cmdline(worker.pid) == f"lsml-bento worker {NAME}"

    job, fit, sleeper = workers.sleeping()
    assert cmdline(fit) == f"lsml-bento fit job={job.id} project={ONE} {NAME}"
    worker.send_signal(signal.SIGTERM)
    code, seconds = ended(worker)

    assert (code, seconds < 4) == (0, True)
    assert is_gone(fit)
    eventually(lambda: is_gone(sleeper), "the end of what fit started")
    job = home.job(job)
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    assert "Job put back: the worker is stopping" in workers.log


def test_a_store_that_cannot_be_written_is_logged_at_startup_and_fails_a_job(
    workers: Workers,
) -> None:
    workers.home.store.parent.touch()
    workers.start(is_embedded=False)
    said = "so that a fit cannot save weights: the weights in the model store"
    eventually(lambda: said in workers.log, "the reason", 20)

    job = workers.await_status(workers.home.enqueue(), JobStatus.FAILED)

    assert "set LSML_MODEL_STORE to a directory that this user can" in str(job.error)


def test_a_second_worker_stands_by_and_takes_over_after_a_kill(
    workers: Workers,
) -> None:
    first = workers.start()
    job, fit, sleeper = workers.sleeping()
    second, third = workers.start(), workers.start(is_embedded=False)
    waiting = "Worker standing by until another one is gone: home="
    eventually(lambda: workers.log.count(waiting) == 2, "the others", 20)
    third.send_signal(signal.SIGTERM)
    code, seconds = ended(third)
    assert (code, seconds < 2) == (0, True)

    first.kill()
    eventually(lambda: is_gone(fit) and is_gone(sleeper), "no orphan", 5)
    eventually(lambda: workers.home.job(job).attempts == 2, "the second run", 20)
    job = workers.home.job(job)
    assert str(job.worker).endswith(f"/{second.pid}")
    assert "stopped renewing its lease" in str(job.note)
    # The server that holds its input open goes.
    assert second.stdin is not None
    second.stdin.close()
    code, seconds = ended(second)
    assert (code, seconds < 4) == (0, True)
    assert workers.home.job(job).status is JobStatus.QUEUED


def test_a_killed_worker_s_job_runs_again_though_its_messages_are_lost(
    workers: Workers,
) -> None:
    first = workers.start()
    job, fit, _ = workers.sleeping()
    first.kill()
    eventually(lambda: is_gone(fit), "no orphan", 5)
    with closing(sqlite3.connect(workers.home.path / "home" / "huey.db")) as database:
        database.execute("delete from task")
        database.execute("delete from schedule")
        database.commit()
    killed_at = time.time()
    workers.start()
    eventually(lambda: workers.home.job(job).attempts == 2, "the second run", 20)

    started_at = workers.home.job(job).started_at
    assert started_at is not None
    assert started_at - killed_at < LEASE_S + 5


def test_two_fits_run_at_the_same_time_each_with_its_gpu(tmp_path: Path) -> None:
    workers = Workers(tmp_path, NATIVE, LSML_FITS="2", LSML_TRAIN_GPUS="3,5")
    home = workers.home
    two = Project("2", ONE.created_at)
    home.state.write(two, {"label_config": CONFIG})
    workers.start()
    try:
        jobs = [home.enqueue(does="show", project=number) for number in (1, 2)]
        for job in jobs:
            workers.await_status(job, JobStatus.SUCCEEDED)
    finally:
        workers.close()

    ran = [home.versions.active(one).values["ran"] for one in (ONE, two)]  # type: ignore[union-attr]
    assert sorted(gpu for gpu, _, _ in ran) == ["3", "5"]
    assert max(begun for _, begun, _ in ran) < min(ended for *_, ended in ran)


@pytest.mark.parametrize(
    ("fits", "gpus", "seen"),
    [
        ("1", "0,1", ["0,1"]),
        ("2", "0, 1", ["0", "1"]),
        ("3", "0,1", ["0", "1", "0"]),
        ("2", "7", ["7", "7"]),
        ("2", "", [None, None]),
    ],
)
def test_gpus_are_shared_out_among_the_fits(
    fits: str, gpus: str, seen: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings = Settings.from_env({"LSML_FITS": fits, "LSML_TRAIN_GPUS": gpus})
    environs = [fit_environ(settings, slot) for slot in range(int(fits))]

    assert [environ.get("CUDA_VISIBLE_DEVICES") for environ in environs] == seen
    threads = sum(int(environ["OMP_NUM_THREADS"]) for environ in environs)
    assert threads <= max(int(fits), len(os.sched_getaffinity(0)))


def test_a_legacy_class_gets_every_event_in_order_in_one_process(
    legacy: Workers,
) -> None:
    home = legacy.home
    legacy.start()
    jobs = [
        home.enqueue(
            "ANNOTATION_CREATED",
            annotation={"id": number, "task": number},
            task={"id": number, "data": {}},
        )
        for number in (1, 2, 3)
    ]
    for job in jobs:
        legacy.await_status(job, JobStatus.SUCCEEDED)

    [pid] = {pid for pid, _, _ in legacy.runs}
    assert [run[1:] for run in legacy.runs] == [
        ["ANNOTATION_CREATED", seen] for seen in ([1], [1, 2], [1, 2, 3])
    ]
    assert home.names == ["base+1", "base+2", "base+3"]
    assert home.active.afresh
    eventually(lambda: is_gone(pid), "its end when idle", 6)


def test_a_home_of_another_backend_is_refused_by_name(workers: Workers) -> None:
    spec = workers.home.spec.to_json().replace(NAME, "other")
    done = subprocess.run(
        [*worker_command(workers.home.spec)[:-1], spec],
        env={**os.environ, **child_environ(), **workers.home.environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    assert "lsml-bento worker: " in done.stderr
    assert "holds the state of the backend 'learner'" in done.stderr
    assert "Traceback" not in done.stderr
