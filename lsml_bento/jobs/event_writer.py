"""Events on their way into journal and ledger: answered at once, and never lost.

One thread takes what has gathered and stores it in one change. Where the database does
not take it within 200 ms, it goes into a file and is replayed in order.
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
from lsml_bento.errors import LsmlError, StateError
from lsml_bento.jobs.annotations import fetch_record, observe, record
from lsml_bento.jobs.coalescing import Gathered, fetch_gathering, keys_of_gathering
from lsml_bento.jobs.events import Event, parse_event
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.jobs.spool import Spool
from lsml_bento.model.training_policy import TrainingRules
from lsml_bento.state.store import Change, State, known_projects, resolve

log = logging.getLogger(__name__)

_WAIT_S = 0.2
"""How long events wait for the database."""

_PATIENT_S, _OFTEN = 0.7, 10
"""How long events wait that were refused so often, one at a time: a far Redis needs it.
What comes meanwhile waits too, and Label Studio hangs up after 1 s."""

_REPLAY_EVERY_S = 0.3
_MOST = 256
"""Events stored in one change."""

_OBSERVED = 5_000
"""Tasks of ``/predict`` that may wait to be stored; they are seen again."""


class Receipt(NamedTuple):
    """What became of an event.

    Attributes:
        job: the job that it made or was merged into.
        status: why there is none.
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
    """Stores events in the order in which they come.

    Args:
        state: shared by all processes of the backend.
        rules: says when the class learns.
        enqueue: called with each stored job that became due, or due earlier.
        inbox: where events wait that the state did not take; None to refuse them.
    """

    def __init__(
        self,
        state: State,
        rules: Callable[[], TrainingRules],
        enqueue: Callable[[Job], None],
        inbox: Path | None = None,
    ) -> None:
        self._state = state
        self._job_store = JobStore(state)
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
        """Store an event; the receipt is there when it can not be lost any more.

        The future raises ``StateError`` if it could be stored nowhere.
        """
        receipt: Future[Receipt] = Future()
        self._waiting.put(_Waiting(event, receipt))
        return receipt

    def observe(self, project: Project, tasks: list[Task]) -> None:
        """Store the annotations inside tasks, some time."""
        if self._observed + len(tasks) <= _OBSERVED:
            self._observed += len(tasks)
            self._waiting.put(_Observed(project, tasks))

    def close(self) -> None:
        """Store what came, then end."""
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
        """What waits, at least one entry unless there is something to replay."""
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
                log.warning("events wait in a file: %s", error)
                # Those that came meanwhile have waited once already.
                self._replay_at = time.monotonic() + _REPLAY_EVERY_S
            else:
                for entry, receipt in zip(waiting, receipts, strict=True):
                    entry.receipt.set_result(receipt)
                return
        # Behind events that wait already, whatever the state does now.
        self._keep(waiting)

    def _keep(self, waiting: list[_Waiting]) -> None:
        try:
            if self._spool is None:
                raise StateError("the state takes no events: its log says why")
            self._spool.append([entry.event.body for entry in waiting])
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            for entry in waiting:
                entry.receipt.set_exception(error)
        else:
            for entry in waiting:
                entry.receipt.set_result(Receipt(None, "queued"))

    def _replay(self) -> bool:
        """Store the next events of the file; whether there were any, and it worked."""
        spool = self._spool
        if spool is None or (self._is_adopted and spool.is_empty):
            return False
        if time.monotonic() < self._replay_at:
            return False
        try:
            if not self._is_adopted:
                spool.adopt(self._again)
                self._is_adopted = True
            spool.replay(self._again)
        except StateError:
            self._replay_at = time.monotonic() + _REPLAY_EVERY_S
        except OSError as error:
            log.error("events that wait in a file can not be read: %s", error)
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
                log.warning("an event that waited in a file is left out: %s", error)
        is_slow = len(bodies) == 1 and self._refused_alone >= _OFTEN
        try:
            self._apply(events, _PATIENT_S if is_slow else _WAIT_S)
        except StateError:
            self._refused_alone += len(bodies) == 1
            raise
        self._refused_alone = 0

    def _apply(self, events: list[Event], wait_s: float = _WAIT_S) -> list[Receipt]:
        """Store events together; one that can not be costs itself only.

        Raises:
            StateError: if nothing was stored.
        """
        rules = self._rules()
        try:
            taken = self._state.change(
                lambda change: self._take_all(change, events, rules), wait_s
            )
        except StateError:
            raise
        except Exception as error:
            if len(events) > 1:
                return [r for e in events for r in self._apply([e], wait_s)]
            [e] = events
            log.exception(
                "event %r of project=%s could not be taken", e.action, e.project
            )
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
        ahead = () if rules.each_event else keys_of_gathering(ready, self._gathering)
        fetch_record(change, ready, ahead)
        if not rules.each_event:  # no round trip where the last event's job gathers
            fetch_gathering(change, ready)
        return [self._take(change, event, rules) for event in events]

    def _take(self, change: Change, event: Event, rules: TrainingRules) -> _Taken:
        project = _meant(change, event.project)
        if project is None:
            log.warning(
                "event %r project=%s: it names no project, and there is not one only: "
                "left out; let Label Studio send payloads with its webhook",
                event.action,
                event.project,
            )
            return None, Receipt(None, "no project")
        event = event.of(project)
        changed = record(change, event)
        if event.is_about_annotations and not changed:
            return None, Receipt(None, "nothing new")
        gathered = self._job_store.gather(change, event, changed, rules)
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
            log.info("annotations inside tasks are not noted this time: %s", error)
        except Exception:
            log.exception("annotations inside tasks could not be noted")


def _meant(change: Change, project: Project) -> Project | None:
    """The project of an event; the only one known where the event names none."""
    if project.id:
        return resolve(project, change)
    known = known_projects(change)
    return known[0] if len(known) == 1 else None
