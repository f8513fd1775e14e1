"""A worker's desk: one job at a time, and whatever happens it goes on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lsml_bento.jobs.job import LEASE_S, Job, JobStatus
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import below
from lsml_bento.training.child_process import FitProcess
from lsml_bento.training.desk import Desk
from lsml_bento.training.publisher import Publisher
from lsml_bento.versions.weights import store_name
from tests.fits import NAME, ONE, Home, eventually, is_gone, lines, speaker

PIDS = """
with open({path!r}, "a") as file:
    file.write(json.dumps([os.getpid(), job["id"]]) + "\\n")
{does}
"""


class Room:
    """A desk at work in a thread."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.record = home.path / "runs"
        self.started: list[FitProcess] = []
        self.faults: list[Exception] = []

    def open(self, does: str = "", *, keeps: bool = False) -> Desk:
        def start() -> FitProcess:
            if self.faults:
                raise self.faults.pop()
            source = PIDS.format(path=str(self.record), does=does)
            self.started.append(speaker(source))
            return self.started[-1]

        home = self.home
        self.desk = Desk(
            "test",
            home.state,
            home.publisher,
            home.settings,
            start,
            keeps_process=keeps,
        )
        self.thread = threading.Thread(target=self.desk.work)
        self.thread.start()
        return self.desk

    @property
    def runs(self) -> list[Any]:
        return lines(self.record)

    def await_end(self, *jobs: Job) -> list[Job]:
        def have_ended() -> bool:
            return all(self.home.job(job).status.is_end for job in jobs)

        eventually(have_ended, "the jobs' end")
        return [self.home.job(job) for job in jobs]

    def close(self) -> None:
        self.desk.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, MemoryState(), LSML_FIT_IDLE_S="0.5")


@pytest.fixture
def room(home: Home) -> Iterator[Room]:
    made = Room(home)
    yield made
    made.close()
    assert all(is_gone(process.pid) for process in made.started)


def test_jobs_are_carried_out_in_order_each_in_a_process_of_its_own(
    home: Home, room: Room
) -> None:
    jobs = [home.enqueue() for _ in range(3)]
    room.open()

    ended = room.await_end(*jobs)
    assert [job.status for job in ended] == [JobStatus.SUCCEEDED] * 3
    assert [job_id for _, job_id in room.runs] == [job.id for job in jobs]
    assert len({pid for pid, _ in room.runs}) == 3


def test_a_legacy_class_has_one_process_until_it_is_idle(
    home: Home, room: Room
) -> None:
    jobs = [home.enqueue() for _ in range(3)]
    room.open(keeps=True)
    room.await_end(*jobs)

    assert [job_id for _, job_id in room.runs] == [job.id for job in jobs]
    [pid] = {pid for pid, _ in room.runs}
    assert pid == room.started[0].pid
    eventually(lambda: is_gone(pid), "its end when idle", 5)

    room.await_end(home.enqueue())
    assert room.runs[-1][0] != pid


def test_a_kept_process_that_died_is_replaced(home: Home, room: Room) -> None:
    room.open(keeps=True)
    room.await_end(home.enqueue())
    psutil.Process(room.started[0].pid).kill()

    [job] = room.await_end(home.enqueue())
    assert (job.status, len(room.started)) == (JobStatus.SUCCEEDED, 2)


def test_a_wake_is_heard_at_once_and_a_missed_one_is_no_loss(
    home: Home, room: Room
) -> None:
    desk = room.open()
    time.sleep(0.3)
    start = time.monotonic()
    job = home.enqueue()
    desk.wake()
    eventually(lambda: home.job(job).status is not JobStatus.QUEUED)
    assert time.monotonic() - start < 0.5

    room.await_end(job, home.enqueue())


def test_a_process_that_can_not_be_started_is_tried_again_and_then_fails(
    home: Home, room: Room
) -> None:
    room.faults = [OSError(11, "Resource temporarily unavailable")] * 3
    jobs = home.enqueue(), home.enqueue()
    room.open()

    [job, other] = room.await_end(*jobs)
    assert (job.status, job.attempts) == (JobStatus.FAILED, 3)
    assert "could not be started: [Errno 11] Resource" in str(job.error)
    assert (other.status, other.attempts) == (JobStatus.SUCCEEDED, 1)


def test_a_job_that_is_forgotten_while_it_runs_is_no_reason_to_end(
    home: Home, room: Room
) -> None:
    room.open("if job['event'] == 'START_TRAINING': time.sleep(60)")
    home.enqueue()
    eventually(lambda: room.runs, "the run")
    for kind in ("job", "queue", "running"):
        for key, _ in home.state.scan(below(kind)):
            home.state.change(lambda change, k=key: change.delete(k))  # type: ignore[misc]

    eventually(lambda: is_gone(room.started[0].pid), "the run's end")
    [job] = room.await_end(home.enqueue("ANNOTATION_CREATED"))
    assert job.status is JobStatus.SUCCEEDED


def test_jobs_of_a_worker_that_died_are_taken_over(home: Home, room: Room) -> None:
    home.job_store = JobStore(home.state, now=lambda: time.time() - LEASE_S - 1)
    lost = home.lease().job
    room.open()

    [job] = room.await_end(lost)
    assert (job.status, job.attempts) == (JobStatus.SUCCEEDED, 2)
    assert job.note == f"run again: the worker {lost.worker} was not heard of any more"


def test_stopping_puts_the_running_job_back_and_leaves_no_process(
    home: Home, room: Room
) -> None:
    job = home.enqueue()
    room.open("time.sleep(60)")
    eventually(lambda: room.runs, "the run")
    start = time.monotonic()
    room.close()

    assert time.monotonic() - start < 2
    assert (home.job(job).status, home.job(job).attempts) == (JobStatus.QUEUED, 0)
    assert is_gone(room.started[0].pid)


def test_what_killed_runs_left_is_swept_at_the_start(home: Home, room: Room) -> None:
    with home.weights.writing() as directory:
        (directory / "a.bin").touch()
        home.weights.keep(directory, store_name(NAME, ONE), "left", {}, {})
    home.publisher = Publisher(
        NAME, home.state, home.weights, home.settings, abandoned_s=0
    )
    room.open()

    eventually(lambda: home.stored == [], "the sweep")


def test_calls_out_of_a_signal_handler_never_hang(home: Home) -> None:
    def start() -> FitProcess:
        raise AssertionError

    desk = Desk(
        "test", home.state, home.publisher, home.settings, start, keeps_process=False
    )
    before = signal.signal(signal.SIGALRM, lambda *_: desk.wake())
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        for _ in range(3_000):
            desk.pause(0.0001)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    desk.stop()
    desk.work()
    assert desk.is_stopping
