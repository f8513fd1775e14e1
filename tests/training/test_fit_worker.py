"""A worker with Huey's consumer: jobs run once and in order, whatever gets lost."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from lsml_bento.adapters.bentoml_models import BentoModels
from lsml_bento.adapters.huey_queue import HueyQueue
from lsml_bento.jobs.events import parse_event
from lsml_bento.jobs.job import LEASE_S, Job, JobStatus
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.model.training_policy import TrainingPolicy, TrainingRules
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import below, key_of
from lsml_bento.training.child_process import FitProcess
from lsml_bento.training.fit_worker import FitWorker
from lsml_bento.training.job_supervisor import Publisher
from lsml_bento.versions.registry import Version
from lsml_bento.versions.weights import store_name
from tests.fits import CREATED_AT, NAME, ONE, Home, eventually, is_gone, lines, speaker

RECORD = """
def record(what):
    with open({path!r}, "a") as file:
        at = [what, os.getpid(), job["id"], job["project"], {slot}, time.time()]
        file.write(json.dumps(at) + "\\n")
record("begin")
{does}
record("end")
"""


class Site:
    """A worker that runs in a thread, with the queue of its home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.record = home.path / "runs"
        self.started: list[FitProcess] = []
        self.faults: list[Exception] = []
        self.workers: list[tuple[FitWorker, threading.Thread]] = []

    def open(self, does: str = "", *, keeps: bool = False) -> FitWorker:
        def start(slot: int) -> FitProcess:
            if self.faults:
                raise self.faults.pop()
            source = RECORD.format(path=str(self.record), does=does, slot=slot)
            self.started.append(speaker(source))
            return self.started[-1]

        home = self.home
        worker = FitWorker(
            f"test {len(self.workers)}",
            home.state,
            home.queue,
            home.publisher,
            home.settings,
            start,
            keeps_process=keeps,
        )
        thread = threading.Thread(target=worker.work)
        thread.start()
        self.workers.append((worker, thread))
        return worker

    def runs(self, what: str = "begin") -> list[Any]:
        return [run[1:] for run in lines(self.record) if run[0] == what]

    def await_end(self, *jobs: Job) -> list[Job]:
        def have_ended() -> bool:
            return all(self.home.job(job).status.is_end for job in jobs)

        eventually(have_ended, "the jobs' end", 30)
        return [self.home.job(job) for job in jobs]

    def close(self) -> None:
        for worker, _ in self.workers:
            worker.stop()
        for _, thread in self.workers:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path, MemoryState(), LSML_FIT_IDLE_S="0.5")
    yield made
    made.close()


@pytest.fixture
def site(home: Home) -> Iterator[Site]:
    made = Site(home)
    yield made
    made.close()
    assert all(is_gone(process.pid) for process in made.started)


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Site]:
    """A worker that runs two fits at a time."""
    home = Home(tmp_path, MemoryState(), LSML_FITS="2")
    made = Site(home)
    yield made
    made.close()
    home.close()


def lose_messages(home: Home) -> None:
    """Empty the queue and the schedule behind the worker's back."""
    with closing(sqlite3.connect(home.path / "home" / "huey.db")) as database:
        for table in ("task", "schedule"):
            database.execute(f"delete from {table}")  # noqa: S608 - a constant
        database.commit()


def test_jobs_of_a_project_run_in_order_each_in_a_process_of_its_own(
    home: Home, site: Site
) -> None:
    jobs = [home.enqueue() for _ in range(3)]
    for job in reversed(jobs):
        home.queue.enqueue(job.id)
    site.open()

    ended = site.await_end(*jobs)
    assert [job.status for job in ended] == [JobStatus.SUCCEEDED] * 3
    assert [job_id for _, job_id, *_ in site.runs()] == [job.id for job in jobs]
    assert len({pid for pid, *_ in site.runs()}) == 3


def test_a_message_starts_its_job_at_once(home: Home, site: Site) -> None:
    site.open()
    eventually(lambda: home.queue.waiting() == set())
    time.sleep(0.3)
    began = time.monotonic()
    job = home.enqueue()
    home.queue.enqueue(job.id)
    eventually(lambda: home.job(job).status is not JobStatus.QUEUED)

    assert time.monotonic() - began < 0.8


def test_double_and_stale_messages_run_a_job_once(home: Home, site: Site) -> None:
    job = home.enqueue()
    for _ in range(5):
        home.queue.enqueue(job.id)
        home.queue.enqueue("unknown")
    site.open()
    site.await_end(job)
    home.queue.enqueue(job.id)
    eventually(lambda: home.queue.waiting() == set())
    time.sleep(0.5)

    assert len(site.runs()) == 1
    assert home.job(job).attempts == 1


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_job_whose_message_is_lost_runs_within_five_seconds(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("redis_server") if kind == "redis" else ""
    home = Home(tmp_path, MemoryState(), REDIS_URL=url)
    site = Site(home)
    site.open("time.sleep(1)")
    first = home.enqueue()
    home.queue.enqueue(first.id)
    eventually(site.runs, "the first run")
    lost = home.enqueue(project=2)
    home.queue.enqueue(lost.id)
    if kind == "redis":
        with closing(redis.Redis.from_url(url)) as client:
            client.delete(*client.keys("huey.*"))
    else:
        lose_messages(home)
    began = time.time()
    site.await_end(first, lost)
    site.close()
    home.close()

    assert site.runs()[-1][-1] - began < 5


def test_due_jobs_are_enqueued_once_however_long_they_wait(
    home: Home, site: Site
) -> None:
    site.open("time.sleep(3)")
    running = home.enqueue(project=1)
    eventually(site.runs, "the run")
    waiting = [home.enqueue(project=project) for project in range(2, 6)]
    eventually(lambda: home.queue.waiting() == {job.id for job in waiting})
    time.sleep(1.5)

    assert home.queue._huey.pending_count() == 4
    assert home.job(running).status is JobStatus.RUNNING


def test_a_message_that_comes_before_its_job_is_due_comes_again_then(
    home: Home, site: Site
) -> None:
    rules = TrainingRules(policy=TrainingPolicy(1, quiet_s=2, max_wait_s=60))
    about = {"id": 1, "created_at": CREATED_AT}

    def annotate(number: int) -> Job:
        event = parse_event(
            {
                "action": "ANNOTATION_CREATED",
                "project": about,
                "annotation": {"id": number, "task": number, "result": []},
                "task": {"id": number, "data": {}},
            }
        )
        job = home.job_store.enqueue(event, rules)
        assert job is not None
        return job

    site.open()
    job = annotate(1)
    home.queue.enqueue(job.id, job.due_at)
    for number in range(2, 5):
        time.sleep(0.7)
        job = annotate(number)
    lone = home.queue._huey.scheduled_count() + home.queue._huey.pending_count()
    assert lone <= 1
    [job] = site.await_end(job)

    assert job.due_at is not None
    assert job.due_at <= site.runs()[0][-1] < job.due_at + 2.5
    assert job.events == 4


def test_fits_of_different_projects_run_at_the_same_time(double: Site) -> None:
    double.open("time.sleep(1.5)")
    jobs = [double.home.enqueue(project=project) for project in (1, 2, 1, 2)]
    double.await_end(*jobs)

    spans = {
        job_id: [at for *_, at in found]
        for job_id in (job.id for job in jobs)
        for found in [[r for r in lines(double.record) if r[2] == job_id]]
    }
    one, two, again, other = (spans[job.id] for job in jobs)
    assert max(one[0], two[0]) < min(one[1], two[1])
    # One project never has two at a time.
    assert one[1] <= again[0]
    assert two[1] <= other[0]
    assert {slot for *_, slot, _ in double.runs()} == {0, 1}


class CountedQueue(HueyQueue):
    """A queue that counts how often all of its messages are read."""

    reads = 0

    def waiting(self) -> set[str]:
        self.reads += 1
        return super().waiting()


def test_messages_of_a_project_with_a_running_job_are_dropped_at_once(
    double: Site,
) -> None:
    home = double.home
    home.queue.close()
    home.queue = queue = CountedQueue(name=NAME, path=home.path / "home" / "huey.db")
    jobs = [home.enqueue() for _ in range(100)]
    for job in jobs:
        queue.enqueue(job.id)
    double.open("time.sleep(60)")
    eventually(double.runs, "the first run")
    eventually(lambda: queue._huey.pending_count() == 0, "the end of the messages")

    assert queue.reads < 10  # once a second
    assert home.job(jobs[0]).status is JobStatus.RUNNING
    assert len(double.runs()) == 1


def test_a_third_project_waits_for_a_slot(double: Site) -> None:
    double.open("time.sleep(1.5)")
    jobs = [double.home.enqueue(project=project) for project in (1, 2, 3)]
    ended = double.await_end(*jobs)

    assert {job.status for job in ended} == {JobStatus.SUCCEEDED}
    assert {job_id for _, job_id, *_ in double.runs("end")} == {job.id for job in jobs}
    running, most = 0, 0
    for what, *_ in sorted(lines(double.record), key=lambda run: run[-1]):
        running += 1 if what == "begin" else -1
        most = max(most, running)
    assert most == 2


def test_a_fit_gets_an_idle_gpu(tmp_path: Path) -> None:
    home = Home(tmp_path, MemoryState(), LSML_FITS="4", LSML_TRAIN_GPUS="0,1")
    site = Site(home)
    site.open("time.sleep(1)")
    site.await_end(*(home.enqueue(project=project) for project in (1, 2, 3)))
    slots = {project: slot for _, _, project, slot, _ in site.runs()}
    shared = [p for p, slot in slots.items() if slot % 2 == 0]
    jobs = [home.enqueue(project=int(project.split(".")[0])) for project in shared]
    site.await_end(*jobs)
    site.close()
    home.close()

    assert len(shared) == 2, "three fits on two GPUs"
    assert {slot % 2 for *_, slot, _ in site.runs()[3:]} == {0, 1}


def test_a_project_goes_back_to_the_process_that_is_kept_for_it(double: Site) -> None:
    double.open("time.sleep(0.8)", keeps=True)
    first = [double.home.enqueue(project=project) for project in (1, 2)]
    double.await_end(*first)
    process = {project: pid for pid, _, project, *_ in double.runs()}
    second = [double.home.enqueue(project=project) for project in (2, 1)]
    double.await_end(*second)

    assert len(set(process.values())) == 2
    for pid, _, project, *_ in double.runs()[2:]:
        assert pid == process[project]


def test_two_workers_share_the_jobs_and_run_each_once(home: Home, site: Site) -> None:
    jobs = [home.enqueue(project=project) for project in range(1, 9)]
    for job in jobs:
        home.queue.enqueue(job.id)
        home.queue.enqueue(job.id)
    other = Home(home.path, home.state)
    site.open("time.sleep(0.1)")
    site.home = other
    site.open("time.sleep(0.1)")
    ended = site.await_end(*jobs)
    other.queue.close()

    expected = sorted(job.id for job in jobs)
    assert sorted(job_id for _, job_id, *_ in site.runs()) == expected
    assert {job.attempts for job in ended} == {1}


def test_a_legacy_class_keeps_one_process_until_it_is_idle(
    home: Home, site: Site
) -> None:
    jobs = [home.enqueue() for _ in range(3)]
    site.open(keeps=True)
    site.await_end(*jobs)

    assert [job_id for _, job_id, *_ in site.runs()] == [job.id for job in jobs]
    [pid] = {pid for pid, *_ in site.runs()}
    assert pid == site.started[0].pid
    eventually(lambda: is_gone(pid), "its end when idle", 5)

    site.await_end(home.enqueue())
    assert site.runs()[-1][0] != pid


def test_a_kept_process_that_died_is_replaced(home: Home, site: Site) -> None:
    home.settings = home.settings.model_copy(update={"fit_idle_s": 60.0})
    site.open(keeps=True)
    site.await_end(home.enqueue())
    psutil.Process(site.started[0].pid).kill()

    [job] = site.await_end(home.enqueue())
    assert (job.status, len(site.started)) == (JobStatus.SUCCEEDED, 2)


def test_a_process_that_cannot_be_started_is_retried_and_then_fails(
    home: Home, site: Site
) -> None:
    site.faults = [OSError(11, "Resource temporarily unavailable")] * 3
    jobs = home.enqueue(), home.enqueue()
    site.open()

    [job, other] = site.await_end(*jobs)
    assert (job.status, job.attempts) == (JobStatus.FAILED, 3)
    assert "cannot be started: [Errno 11] Resource" in str(job.error)
    assert (other.status, other.attempts) == (JobStatus.SUCCEEDED, 1)


class FullDisk(Publisher):
    """Fails as nobody expects."""

    def publish(self, lease: Lease, version: Version | None) -> Job:
        raise OSError(28, "No space left on device")


def test_an_unexpected_error_in_a_run_is_logged_and_ends_the_job_after_three_runs(
    home: Home, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    home.publisher = FullDisk(NAME, home.state, home.weights, home.settings)
    site.open()

    [job] = site.await_end(home.enqueue())
    assert (job.status, job.attempts) == (JobStatus.FAILED, 3)
    assert "unexpected error: OSError: [Errno 28] No space left" in str(job.error)
    assert caplog.text.count("Traceback") == 3


def test_a_running_job_whose_record_is_lost_does_not_end_the_worker(
    home: Home, site: Site
) -> None:
    lost = home.lease().job
    home.state.change(lambda change: change.delete(key_of("job", lost.id)))
    site.open()

    [job] = site.await_end(home.enqueue())
    assert job.status is JobStatus.SUCCEEDED


def test_a_job_that_is_deleted_while_it_runs_does_not_end_the_worker(
    home: Home, site: Site
) -> None:
    site.open("if job['event'] == 'START_TRAINING': time.sleep(60)")
    home.enqueue()
    eventually(site.runs, "the run")
    for kind in ("job", "queue", "running"):
        for key, _ in home.state.scan(below(kind)):
            home.state.change(lambda change, k=key: change.delete(k))  # type: ignore[misc]

    eventually(lambda: is_gone(site.started[0].pid), "the run's end")
    [job] = site.await_end(home.enqueue("ANNOTATION_CREATED"))
    assert job.status is JobStatus.SUCCEEDED


def test_the_job_of_a_worker_that_died_runs_again_without_a_message(
    home: Home, site: Site
) -> None:
    home.job_store = JobStore(home.state, now=lambda: time.time() - LEASE_S - 1)
    lost = home.lease().job
    began = time.time()
    site.open()

    [job] = site.await_end(lost)
    assert site.runs()[0][-1] - began < 5
    assert (job.status, job.attempts) == (JobStatus.SUCCEEDED, 2)
    assert job.note == f"run again: the worker {lost.worker} stopped renewing its lease"


def test_stopping_puts_running_jobs_back_and_leaves_no_process(double: Site) -> None:
    home = double.home
    jobs = [home.enqueue(project=project) for project in (1, 2)]
    double.open("time.sleep(60)")
    eventually(lambda: len(double.runs()) == 2, "the runs")
    start = time.monotonic()
    double.close()

    assert time.monotonic() - start < 3
    for job in jobs:
        assert (home.job(job).status, home.job(job).attempts) == (JobStatus.QUEUED, 0)
    assert all(is_gone(process.pid) for process in double.started)


def test_a_queue_that_breaks_is_two_log_lines_and_training_continues_after_it(
    home: Home, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    path = home.path / "home" / "huey.db"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"not a database" * 100)
    site.open()
    job = home.enqueue()
    eventually(lambda: "Queue unavailable" in caplog.text, "the warning")
    time.sleep(1.5)
    path.unlink()
    site.await_end(job)
    eventually(lambda: "Queue available again" in caplog.text, "the end of the outage")

    assert len([r for r in caplog.records if r.levelname != "INFO"]) == 2


def test_what_killed_runs_left_is_removed_at_the_start(home: Home, site: Site) -> None:
    with home.weights.writing() as directory:
        (directory / "a.bin").touch()
        home.weights.keep(directory, store_name(NAME, ONE), "left", {}, {})
    home.publisher = Publisher(
        NAME, home.state, home.weights, home.settings, abandoned_s=0
    )
    site.open()

    eventually(lambda: home.stored == [], "the removal")


class SlowStore(BentoModels):
    """A model store that does not answer."""

    answers = threading.Event()

    def sweep(self, *_: Any, **__: Any) -> list[str]:
        self.answers.wait(20)
        return []


def test_jobs_run_while_old_weights_are_removed(home: Home, site: Site) -> None:
    slow = SlowStore(home.store)
    home.publisher = Publisher(NAME, home.state, slow, home.settings)
    home.enqueue()
    site.open()
    eventually(site.runs, "the run", 5)
    slow.answers.set()


def test_stopping_in_a_signal_handler_never_hangs(home: Home) -> None:
    def start(_: int) -> FitProcess:
        raise AssertionError

    worker = FitWorker(
        "test",
        home.state,
        home.queue,
        home.publisher,
        home.settings,
        start,
        keeps_process=False,
    )
    before = signal.signal(signal.SIGALRM, lambda *_: worker.stop())
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        for _ in range(3_000):
            worker.pause(0.0001)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    worker.work()
    assert worker.is_stopping
