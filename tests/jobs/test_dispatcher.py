"""Jobs are enqueued beside the caller, in order, and an outage is two log lines."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import pytest

from lsml_bento.errors import QueueError
from lsml_bento.jobs.event_writer import _WAITING_MOST, Dispatcher, Outage
from lsml_bento.jobs.job import Job


class Queue:
    """Records what it gets, and can fail or hang."""

    def __init__(self) -> None:
        self.got: list[tuple[str, float | None]] = []
        self.tried = 0
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()

    def enqueue(self, job_id: str, due_at: float | None = None) -> None:
        self.tried += 1
        self.open.wait(10)
        if self.error is not None:
            raise self.error
        self.got.append((job_id, due_at))


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def job(name: str, due_at: float = 5.0) -> Job:
    return Job(id=name, project="1.0", event="X", created_at=0, due_at=due_at)


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def dispatcher(queue: Queue) -> Dispatcher:
    return Dispatcher(queue.enqueue, retry_s=0.05)


def test_jobs_are_enqueued_at_once_and_in_order_with_their_due_times(
    queue: Queue, dispatcher: Dispatcher
) -> None:
    for number in range(20):
        dispatcher.dispatch(job(f"job {number}", number))
    until(lambda: len(queue.got) == 20)

    assert queue.got == [(f"job {number}", number) for number in range(20)]


def test_dispatching_does_not_wait_for_a_queue_that_hangs(
    queue: Queue, dispatcher: Dispatcher
) -> None:
    queue.open.clear()
    took = []
    for number in range(2000):
        began = time.perf_counter()
        dispatcher.dispatch(job(f"job {number}"))
        took.append(time.perf_counter() - began)
    queue.open.set()

    assert statistics.median(took) < 100e-6


def test_an_outage_is_two_lines_and_loses_no_job(
    queue: Queue, dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    queue.error = QueueError("no answer")
    for number in range(5):
        dispatcher.dispatch(job(f"job {number}"))
    until(lambda: queue.tried >= 4)
    queue.error = None
    until(lambda: len(queue.got) == 5)
    until(lambda: len(caplog.records) == 2)

    assert [name for name, _ in queue.got] == [f"job {number}" for number in range(5)]
    assert caplog.messages == [
        "Queue unavailable, retrying: training waits, no job is lost: no answer",
        "Queue available again",
    ]


def test_the_jobs_that_wait_in_an_outage_are_bounded(
    queue: Queue, dispatcher: Dispatcher
) -> None:
    queue.open.clear()
    for number in range(3 * _WAITING_MOST):
        dispatcher.dispatch(job(f"job {number}"))
    queue.open.set()
    until(lambda: len(queue.got) >= _WAITING_MOST)
    time.sleep(0.2)

    assert len(queue.got) <= _WAITING_MOST + 1


def test_a_job_that_cannot_be_sent_holds_up_no_other(
    queue: Queue, dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    queue.error = TypeError("a bug")
    dispatcher.dispatch(job("bad"))
    until(lambda: queue.tried == 1)
    queue.error = None
    dispatcher.dispatch(job("good"))
    until(lambda: queue.got == [("good", 5.0)])

    assert caplog.messages == ["Message not sent: job=bad project=1.0"]
    assert caplog.records[0].exc_info is not None


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage("It")
    for _ in range(2):
        outage.ended()
        outage.began(QueueError("x"))
        outage.began(QueueError("y"))
        outage.ended()

    assert [message.partition(" ")[2][:11] for message in caplog.messages] == [
        "unavailable",
        "available a",
    ] * 2
