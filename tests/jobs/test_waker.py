"""Wakes are sent beside the caller, gathered, and outlive an outage of the queue."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lsml_bento.errors import QueueError
from lsml_bento.jobs.waker import PENDING_MOST, Outage, Waker


class Wakes:
    """A queue that keeps what it gets, and can be away or slow."""

    def __init__(self) -> None:
        self.got: list[tuple[str, float]] = []
        self.tried = 0
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()

    def send(self, job_id: str, delay_s: float = 0.0) -> None:
        self.tried += 1
        self.open.wait(10)
        if self.error is not None:
            raise self.error
        self.got.append((job_id, delay_s))

    @property
    def jobs(self) -> list[str]:
        return [job_id for job_id, _ in self.got]


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@pytest.fixture
def wakes() -> Wakes:
    return Wakes()


@pytest.fixture
def waker(wakes: Wakes) -> Iterator[Waker]:
    made = Waker(wakes.send, pause_s=0.05, retry_s=0.05)
    yield made
    wakes.open.set()
    assert made.close(5)


def test_a_wake_is_sent_at_once_with_what_is_left_of_its_delay(
    wakes: Wakes, waker: Waker
) -> None:
    asked = time.monotonic()
    waker.wake("now")
    until(lambda: wakes.jobs == ["now"])
    assert time.monotonic() - asked < 0.05

    waker.wake("later", 5)
    until(lambda: wakes.jobs == ["now", "later"])

    assert wakes.got[0][1] == 0
    assert 4.5 < wakes.got[1][1] <= 5


def test_wakes_of_one_job_are_gathered_and_the_last_one_counts(
    wakes: Wakes, waker: Waker
) -> None:
    wakes.open.clear()
    waker.wake("busy")
    until(lambda: wakes.tried == 1)
    for delay_s in (1, 2, 30):
        waker.wake("a", delay_s)
        waker.wake("b")
    wakes.open.set()
    until(lambda: len(wakes.got) == 3)
    time.sleep(0.1)

    assert wakes.jobs == ["busy", "a", "b"]
    assert 29 < wakes.got[1][1] <= 30


def test_two_hundred_wakes_a_second_are_some_rounds_of_sending(
    wakes: Wakes, waker: Waker
) -> None:
    for _ in range(100):
        waker.wake("a", 5)
        time.sleep(0.005)

    assert 1 < len(wakes.got) <= 20


def test_waking_does_not_wait_for_a_queue_that_hangs(
    wakes: Wakes, waker: Waker
) -> None:
    wakes.open.clear()
    took = []
    for number in range(2000):
        began = time.perf_counter()
        waker.wake(f"job {number % 50}", 1)
        took.append(time.perf_counter() - began)

    assert statistics.median(took) < 50e-6


def test_an_outage_is_two_lines_and_loses_no_wake(
    wakes: Wakes, waker: Waker, caplog: pytest.LogCaptureFixture
) -> None:
    wakes.error = QueueError("no answer from the queue")
    for number in range(5):
        waker.wake(f"job {number}")
    until(lambda: wakes.tried >= 4)
    wakes.error = None
    until(lambda: len(wakes.got) == 5)

    assert set(wakes.jobs) == {f"job {number}" for number in range(5)}
    assert [record.message for record in caplog.records] == [
        "the queue that wakes workers does not answer and is tried again until it "
        "does; training waits a little longer, nothing is lost: no answer from the "
        "queue",
        "the queue that wakes workers answers again",
    ]


def test_a_wake_that_comes_in_an_outage_replaces_the_one_that_failed(
    wakes: Wakes, waker: Waker
) -> None:
    wakes.error = QueueError("away")
    waker.wake("a")
    until(lambda: wakes.tried >= 1)
    waker.wake("a", 60)
    wakes.error = None
    until(lambda: len(wakes.got) == 1)

    assert wakes.got[0][1] > 50


def test_what_waits_in_an_outage_is_bounded(wakes: Wakes, waker: Waker) -> None:
    wakes.error = QueueError("away")
    for number in range(3 * PENDING_MOST):
        waker.wake(f"job {number}")
    wakes.error = None
    until(lambda: len(wakes.got) >= PENDING_MOST)
    time.sleep(0.2)

    assert len(wakes.got) <= 2 * PENDING_MOST


def test_a_wake_that_can_not_be_sent_holds_up_no_other(
    wakes: Wakes, waker: Waker, caplog: pytest.LogCaptureFixture
) -> None:
    wakes.error = TypeError("a bug")
    waker.wake("bad")
    until(lambda: wakes.tried == 1)
    wakes.error = None
    waker.wake("good")
    until(lambda: wakes.jobs == ["good"])

    assert [record.message for record in caplog.records] == [
        "the wake of job 'bad' could not be sent"
    ]
    assert caplog.records[0].exc_info is not None


def test_closing_sends_what_is_pending(wakes: Wakes) -> None:
    waker = Waker(wakes.send, pause_s=60)
    waker.wake("first")
    until(lambda: wakes.jobs == ["first"])
    waker.wake("last")

    assert waker.close()
    assert wakes.jobs == ["first", "last"]


def test_closing_does_not_wait_for_a_queue_that_hangs(wakes: Wakes) -> None:
    waker = Waker(wakes.send)
    wakes.open.clear()
    waker.wake("a")
    until(lambda: wakes.tried == 1)
    began = time.monotonic()

    assert not waker.close(0.1)
    assert time.monotonic() - began < 1
    wakes.open.set()
    assert waker.close(5)


def test_a_closed_one_takes_wakes_and_does_nothing(wakes: Wakes) -> None:
    waker = Waker(wakes.send)
    assert waker.close()

    waker.wake("a")

    assert wakes.got == []


def test_an_outage_of_two_parts_is_one(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("it")
    for _ in range(3):
        outage.began(OSError("x"), "a")
        outage.began(OSError("x"), "b", trace=True)
        outage.ended("a")
        outage.ended("a")
    outage.ended("b")

    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.records[1].message == "it answers again"
