"""Storing events, and enqueuing their jobs: each is answered quickly, none is lost.

One thread stores all events that wait in one change. Events that the database does not
accept within 200 ms go to a file and are replayed in order. Another thread puts jobs on
the queue, so that no request waits for the queue. A message may be lost: the job store
knows which jobs are due, and workers enqueue those that have no message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from lsml_bento.contract import Project, Task
from lsml_bento.errors import LsmlError, QueueError, StateError
from lsml_bento.jobs.annotations import fetch_record, observe, record
from lsml_bento.jobs.events import Event, parse_event
from lsml_bento.jobs.job import (
    Gathered,
    Job,
    fetch_gathering,
    gather,
    keys_to_merge,
)
from lsml_bento.jobs.spool import Spool
from lsml_bento.model.training_policy import TrainingRules
from lsml_bento.state.store import Change, State, known_projects, resolve

log = logging.getLogger(__name__)

_WAIT_S = 0.2
"""How long events wait for the database."""

_PATIENT_S, _OFTEN = 0.7, 10
"""How long an event waits that was refused alone so often: a distant Redis needs it.
New events wait too, and Label Studio disconnects after 1 s."""

_REPLAY_EVERY_S = 0.3
_MOST = 256
"""Store at most this many events in one change."""

_OBSERVED = 5_000
"""Tasks of ``/predict`` that may wait to be stored; any further ones are skipped."""

_WAITING_MOST = 1000
"""Jobs that may wait for the queue to return; a worker enqueues any further ones."""

_RETRY_S = 1.0


class Receipt(NamedTuple):
    """What became of an event.

    Attributes:
        job: the job that it created or was merged into.
        status: why there is no job.
    """

    job: str | None
    status: str = "ok"


_Taken = tuple[Gathered | None, Receipt]


class _Waiting(NamedTuple):
    event: Event
    receipt: Future[Receipt]


class _Observed(NamedTuple):
    project: Project
    tasks: list[Task]


class EventWriter:
    """Stores events in the order of their arrival.

    Args:
        state: shared by all processes of the backend.
        rules: of the class.
        enqueue: called with each stored job that became due, or due earlier.
        inbox: where events wait that the state did not accept; None to refuse them.
    """

    def __init__(
        self,
        state: State,
        rules: Callable[[], TrainingRules],
        enqueue: Callable[[Job], None],
        inbox: Path | None = None,
    ) -> None:
        self._state = state.for_events(_WAIT_S)
        self._patient_state = state.for_events(_PATIENT_S)
        self._rules = rules
        self._enqueue = enqueue
        self._spool = None if inbox is None else Spool(inbox)
        self._waiting: SimpleQueue[_Waiting | _Observed | None] = SimpleQueue()
        self._observed = 0
        self._gathering: dict[Project, str] = {}
        self._replay_at = 0.0
        self._refused_alone = 0
        self._is_adopted = self._spool is None
        self._thread = threading.Thread(target=self._serve, name="events", daemon=True)
        self._thread.start()

    def take(self, event: Event) -> Future[Receipt]:
        """Store an event; the receipt is available when the event cannot be lost.

        The future raises ``StateError`` if the event could not be stored anywhere.
        """
        receipt: Future[Receipt] = Future()
        self._waiting.put(_Waiting(event, receipt))
        return receipt

    def observe(self, project: Project, tasks: list[Task]) -> None:
        """Store the annotations inside tasks, later."""
        if self._observed + len(tasks) <= _OBSERVED:
            self._observed += len(tasks)
            self._waiting.put(_Observed(project, tasks))

    def close(self) -> None:
        """Store what waits, then end."""
        self._waiting.put(None)
        self._thread.join(timeout=10)

    # The thread

    def _serve(self) -> None:
        self._replay()
        while True:
            waiting, is_over = self._gathered()
            events = [entry for entry in waiting if isinstance(entry, _Waiting)]
            if events:
                self._store(events)
            for entry in waiting:
                if isinstance(entry, _Observed):
                    self._observe(entry)
            replayed = self._replay()
            if is_over:
                break
        while replayed:
            replayed = self._replay()
        if self._spool is not None:
            self._spool.close()

    def _gathered(self) -> tuple[list[_Waiting | _Observed], bool]:
        """Wait for entries, or until there is something to replay.

        Returns:
            The entries, and whether no more will come.
        """
        found: list[_Waiting | _Observed] = []
        idle = self._is_adopted and (self._spool is None or self._spool.is_empty)
        wait_s = None if idle else max(0.0, self._replay_at - time.monotonic())
        try:
            entry = self._waiting.get(timeout=wait_s)
            while entry is not None:
                found.append(entry)
                if len(found) == _MOST:
                    return found, False
                entry = self._waiting.get_nowait()
        except Empty:
            return found, False
        return found, True

    def _store(self, waiting: list[_Waiting]) -> None:
        if self._spool is None or (self._is_adopted and self._spool.is_empty):
            try:
                receipts = self._apply([entry.event for entry in waiting])
            except StateError as error:
                log.warning("Events spooled to a file: %s", error)
                # Events that arrived meanwhile have waited once already.
                self._replay_at = time.monotonic() + _REPLAY_EVERY_S
            else:
                for entry, receipt in zip(waiting, receipts, strict=True):
                    entry.receipt.set_result(receipt)
                return
        # After the events that wait in the file, even if the state is back.
        self._keep(waiting)

    def _keep(self, waiting: list[_Waiting]) -> None:
        try:
            if self._spool is None:
                raise StateError(
                    "the state accepts no events: see its log for the reason"
                )
            self._spool.append([entry.event.body for entry in waiting])
        except Exception as error:  # noqa: BLE001 - passed to the caller
            for entry in waiting:
                entry.receipt.set_exception(error)
        else:
            for entry in waiting:
                entry.receipt.set_result(Receipt(None, "queued"))

    def _replay(self) -> bool:
        """Store the next events of the file; whether any were stored."""
        spool = self._spool
        if spool is None or (self._is_adopted and spool.is_empty):
            return False
        if time.monotonic() < self._replay_at:
            return False
        try:
            if not self._is_adopted:
                spool.replay_abandoned(self._again)
                self._is_adopted = True
            spool.replay(self._again)
        except StateError:
            self._replay_at = time.monotonic() + _REPLAY_EVERY_S
        except OSError as error:
            log.error("Events in a file cannot be read: %s", error)
            self._replay_at = time.monotonic() + 10 * _REPLAY_EVERY_S
        else:
            return True
        return False

    def _again(self, bodies: list[dict[str, Any]]) -> None:
        events = []
        for body in bodies:
            try:
                events.append(parse_event(body))
            except LsmlError as error:
                log.warning("Event in a file left out: %s", error)
        is_slow = len(bodies) == 1 and self._refused_alone >= _OFTEN
        try:
            self._apply(events, is_patient=is_slow)
        except StateError:
            self._refused_alone += len(bodies) == 1
            raise
        self._refused_alone = 0

    def _apply(self, events: list[Event], *, is_patient: bool = False) -> list[Receipt]:
        """Store events in one change, or one by one if that fails.

        Raises:
            StateError: if nothing was stored.
        """
        rules = self._rules()
        state = self._patient_state if is_patient else self._state
        wait_s = _PATIENT_S if is_patient else _WAIT_S
        try:
            taken = state.change(
                lambda change: self._take_all(change, events, rules), wait_s
            )
        except StateError:
            raise
        except Exception as error:
            if len(events) > 1:
                return [
                    r for e in events for r in self._apply([e], is_patient=is_patient)
                ]
            [e] = events
            log.exception("Event not stored: %r project=%s", e.action, e.project)
            return [Receipt(None, f"not taken: {type(error).__name__}")]
        gathered = [found for found, _ in taken if found is not None]
        jobs = {job.id: job for job, _ in gathered}
        for job, _ in gathered:
            self._gathering[job.of] = job.id
            if job.events == 1:
                log.info(
                    "Job queued: %s job=%s project=%s", job.event, job.id, job.project
                )
        for job_id in {job.id: None for job, is_sooner in gathered if is_sooner}:
            self._enqueue(jobs[job_id])
        return [
            receipt if found is None else Receipt(found.job.id)
            for found, receipt in taken
        ]

    def _take_all(
        self, change: Change, events: list[Event], rules: TrainingRules
    ) -> list[_Taken]:
        ready = [e for e in events if e.project.created_at is not None]
        ahead = () if rules.each_event else keys_to_merge(ready, self._gathering)
        fetch_record(change, ready, ahead)
        if not rules.each_event:  # no round trip if the last job is still queued
            fetch_gathering(change, ready)
        return [self._take(change, event, rules) for event in events]

    def _take(self, change: Change, event: Event, rules: TrainingRules) -> _Taken:
        project = _project_of(change, event.project)
        if project is None:
            log.warning(
                "Event left out: it names no project; turn on payloads in Label "
                "Studio's webhook event=%r",
                event.action,
            )
            return None, Receipt(None, "no project")
        event = event.for_project(project)
        changed = record(change, event)
        if event.is_about_annotations and not changed:
            return None, Receipt(None, "nothing new")
        gathered = gather(change, event, changed, rules, time.time())
        return gathered, Receipt(None, "not trained on")

    def _observe(self, entry: _Observed) -> None:
        self._observed -= len(entry.tasks)
        try:
            self._state.change(
                lambda change: observe(
                    change, resolve(entry.project, change), entry.tasks
                ),
                _WAIT_S,
            )
        except StateError as error:
            log.info("Annotations inside tasks not stored: %s", error)
        except Exception:
            log.exception("Annotations inside tasks not stored")


def _project_of(change: Change, project: Project) -> Project | None:
    """The project of an event; the only known one if the event names none."""
    if project.id:
        return resolve(project, change)
    known = known_projects(change)
    return known[0] if len(known) == 1 else None


class Outage:
    """Logs once that something is unavailable, and once that it is available again.

    Args:
        name: of what may be unavailable, as the subject of a sentence.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_on = False
        self._lock = threading.Lock()

    def began(self, error: LsmlError) -> None:
        """Report a failure."""
        with self._lock:
            is_first, self._is_on = not self._is_on, True
        if is_first:
            log.warning(
                "%s unavailable, retrying: training waits, no job is lost: %s",
                self._name,
                error,
            )

    def ended(self) -> None:
        """Report a success."""
        if not self._is_on:
            return  # nearly always, and without a lock
        with self._lock:
            was_on, self._is_on = self._is_on, False
        if was_on:
            log.warning("%s available again", self._name)


class Dispatcher:
    """Enqueues jobs one after the other, and retries until the queue accepts them.

    Args:
        enqueue: puts a job on the queue by its id, now or when it is due; raises
            ``QueueError`` if the queue is unavailable.
        retry_s: pause after a failure.
    """

    def __init__(
        self, enqueue: Callable[[str, float | None], None], retry_s: float = _RETRY_S
    ) -> None:
        self._enqueue = enqueue
        self._retry_s = retry_s
        self._waiting: SimpleQueue[Job] = SimpleQueue()
        self._outage = Outage("Queue")
        threading.Thread(target=self._work, name="dispatcher", daemon=True).start()

    def dispatch(self, job: Job) -> None:
        """Have a job enqueued; returns at once and never fails."""
        if self._waiting.qsize() < _WAITING_MOST:
            self._waiting.put(job)

    def _work(self) -> None:
        while True:
            job = self._waiting.get()
            while not self._is_sent(job):
                time.sleep(self._retry_s)

    def _is_sent(self, job: Job) -> bool:
        try:
            self._enqueue(job.id, job.due_at)
        except QueueError as error:
            self._outage.began(error)
            return False
        except Exception:
            log.exception("Message not sent: job=%s project=%s", job.id, job.project)
        else:
            self._outage.ended()
        return True
