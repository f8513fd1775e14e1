"""Taking wakes from a queue inside a process that has other things to do.

Huey has no types, so that what is built on it derives from Any.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from huey.api import Huey
from huey.consumer import Consumer, Scheduler, Worker

from lsml_bento.adapters.huey_queue.messages import NotOurs
from lsml_bento.adapters.huey_queue.storages import ERRORS
from lsml_bento.jobs.waker import Outage

log = logging.getLogger(__name__)

_POLL_S = 0.25
_SCHEDULE_S = 0.5
_SAY_EACH_S = 60.0


class Wakes(Huey):  # type: ignore[misc] # untyped
    """A queue of signed wakes, of which a foreign message is dropped.

    Args:
        name: of the queue.
        outage: what is told when the storage is away.
        options: of Huey and its storage.
    """

    def __init__(self, name: str, outage: Outage, **options: Any) -> None:
        super().__init__(name, **options)
        self.outage = outage
        self._dropped = 0
        self._said_at = -_SAY_EACH_S
        self._saying = threading.Lock()

    def dequeue(self) -> Any:
        """The next task that is ours, None if there is none."""
        while (data := self.storage.dequeue()) is not None:
            if (task := self._task_of(data)) is not None:
                return task
        return None

    def read_schedule(self, timestamp: datetime | None = None) -> list[Any]:
        """The tasks of ours that are due, which are on the schedule no more."""
        # With a zone: Huey's own naive times are read in the zone of each host.
        found = self.storage.read_schedule(timestamp or datetime.now(timezone.utc))
        tasks = [self._task_of(data) for data in found]
        return [task for task in tasks if task is not None]

    def execute(self, task: Any, timestamp: datetime | None = None) -> None:
        """Without the reads and writes that results and revoking need."""
        task.execute()

    def _task_of(self, data: object) -> Any:
        try:
            return self.deserialize_task(data)
        except NotOurs:
            self._drop()
            return None

    def _drop(self) -> None:
        """Say it, but not for each message of a flood."""
        with self._saying:
            self._dropped += 1
            if time.monotonic() - self._said_at < _SAY_EACH_S:
                return
            self._said_at = time.monotonic()
            dropped, self._dropped = self._dropped, 0
        log.warning(
            "dropped from the queue %s, messages that this backend's secret did not "
            "sign: %d; give all of its processes the same LSML_SECRET_KEY",
            self.name,
            dropped,
        )


class HueyConsumer:
    """Takes wakes from a queue, in two threads of this process.

    It handles no signals, so that any thread may start it; the process stops it.

    Args:
        huey: the queue.
    """

    def __init__(self, huey: Any) -> None:
        self._consumer = _Consumer(
            huey, workers=1, periodic=False, max_delay=_POLL_S, backoff=1.3
        )

    def start(self) -> None:
        """Begin to take wakes; may be called once."""
        self._consumer.start()

    def stop(self, timeout_s: float) -> bool:
        """Take no more wakes, and wait for the call of ``run`` to return.

        Args:
            timeout_s: how long. A call that goes on is left alone: its thread does not
                keep the process.

        Returns:
            Whether everything ended.
        """
        deadline = time.monotonic() + timeout_s
        self._consumer.stop_flag.set()
        for thread in self._threads():
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not self.is_alive

    @property
    def is_alive(self) -> bool:
        """Whether any of its threads runs."""
        return any(thread.is_alive() for thread in self._threads())

    def _threads(self) -> Iterable[threading.Thread]:
        consumer = self._consumer
        return [consumer.scheduler, *(thread for _, thread in consumer.worker_threads)]


class _Worker(Worker):  # type: ignore[misc] # untyped
    def loop(self, now: datetime | None = None) -> None:
        try:
            task = self.huey.dequeue()
            if task is not None and self.stop_flag.is_set():
                self.huey.enqueue(task)  # for another worker
                return
        except Exception as error:  # noqa: BLE001 - or the thread would end
            self.huey.outage.began(error, "queue", not isinstance(error, ERRORS))
            self.stop_flag.wait(_POLL_S)
            return
        self.huey.outage.ended("queue")
        if task is not None:
            self.delay = self.default_delay
            self.huey.execute(task)
        elif not self.huey.storage.blocking:
            self.sleep()


class _Scheduler(Scheduler):  # type: ignore[misc] # untyped
    def loop(self, now: datetime | None = None) -> None:
        try:
            for task in self.huey.read_schedule():
                self.huey.enqueue(task)
        except Exception as error:  # noqa: BLE001 - or the thread would end
            self.huey.outage.began(error, "schedule", not isinstance(error, ERRORS))
        else:
            self.huey.outage.ended("schedule")
        self.stop_flag.wait(_SCHEDULE_S)


class _Consumer(Consumer):  # type: ignore[misc] # untyped
    worker_class = _Worker
    scheduler_class = _Scheduler

    def _set_signal_handlers(self) -> None:
        """None: they belong to the process, and only its main thread may set them."""
