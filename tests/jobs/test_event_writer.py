"""Events are answered at once and never lost, whatever the state does."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.contract import Project
from lsml_bento.errors import StateError
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.jobs.event_writer import EventWriter, Receipt
from lsml_bento.jobs.events import Event, parse_event
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.training_policy import TrainingPolicy, TrainingRules
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import State, know
from tests.states import KINDS, open_state, url_of

PROJECT = Project("1", 1795426489)
BODY = {"id": 1, "created_at": "2026-11-23T09:34:49Z"}


def annotated(number: int, minute: int = 0, **fields: Any) -> Event:
    moment = f"2026-11-24T09:{minute:02d}:00Z"
    annotation = {"id": number, "task": number, "updated_at": moment, "result": []}
    task = {"id": number, "data": {"text": f"text {number}"}, "updated_at": moment}
    return parse_event(
        {
            "action": "ANNOTATION_CREATED",
            "project": BODY,
            "annotation": {**annotation, **fields},
            "task": task,
        }
    )


START = parse_event({"action": "START_TRAINING", "project": BODY})


class Writer:
    """An event writer, and the jobs that it enqueued."""

    def __init__(
        self, state: State, inbox: Path | None, rules: TrainingRules | None = None
    ) -> None:
        self.enqueued: list[Job] = []
        self.state = state
        self.events = EventWriter(
            state, lambda: rules or TrainingRules(), self.enqueued.append, inbox
        )

    def take(self, *events: Event) -> list[Receipt]:
        waiting: list[Future[Receipt]] = [self.events.take(event) for event in events]
        return [receipt.result(timeout=10) for receipt in waiting]

    def annotations(self) -> list[int]:
        tasks = AnnotationStore(self.state).annotated_tasks(PROJECT)
        return [a["id"] for task in tasks for a in task["annotations"]]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SqliteState]:
    opened = SqliteState(tmp_path / "state.db", "test")
    yield opened
    opened.close()


@pytest.fixture
def writer(state: SqliteState, tmp_path: Path) -> Iterator[Writer]:
    made = Writer(state, tmp_path / "inbox")
    yield made
    made.events.close()


class TestEvents:
    def test_an_annotation_is_noted_and_its_job_is_answered_and_enqueued(
        self, writer: Writer
    ) -> None:
        [receipt] = writer.take(annotated(7))

        [job] = JobStore(writer.state).jobs()
        assert receipt == Receipt(job.id)
        assert writer.annotations() == [7]
        assert [enqueued.id for enqueued in writer.enqueued] == [job.id]

    def test_a_burst_is_one_job(self, writer: Writer) -> None:
        receipts = writer.take(*(annotated(number) for number in range(300)), START)

        [job] = JobStore(writer.state).jobs()
        assert {receipt.job for receipt in receipts} == {job.id}
        assert (job.event, job.new_annotations) == ("START_TRAINING", 300)
        assert sorted(writer.annotations()) == list(range(300))

    def test_only_what_makes_a_job_due_sooner_is_enqueued(self, state: Any) -> None:
        policy = TrainingPolicy(min_new_annotations=2, quiet_s=30, max_wait_s=60)
        writer = Writer(state, None, TrainingRules(policy=policy))
        writer.take(annotated(1))
        assert writer.enqueued == [], "too few annotations"

        for number in range(2, 30):
            writer.take(annotated(number))
        [ready] = writer.enqueued
        assert ready.new_annotations == 2

        writer.take(START)
        [_, asked] = writer.enqueued
        assert asked.id == ready.id
        assert (asked.due_at or 0) < (ready.due_at or 0)
        writer.events.close()

    def test_each_new_job_of_a_legacy_class_is_enqueued(self, state: Any) -> None:
        writer = Writer(state, None, TrainingRules(each_event=True))
        writer.take(annotated(1), annotated(2))

        assert len({job.id for job in writer.enqueued}) == 2
        writer.events.close()

    def test_a_repeated_event_teaches_nothing(self, writer: Writer) -> None:
        writer.take(annotated(7))

        assert writer.take(annotated(7)) == [Receipt(None, "nothing new")]
        assert JobStore(writer.state).jobs()[0].new_annotations == 1

    def test_a_skipped_annotation_teaches_nothing(self, writer: Writer) -> None:
        receipt = writer.take(annotated(7, was_cancelled=True))

        assert receipt == [Receipt(None, "nothing new")]
        assert JobStore(writer.state).jobs() == []

    def test_a_class_without_fit_gets_no_job_but_every_annotation_is_stored(
        self, state: SqliteState, tmp_path: Path
    ) -> None:
        writer = Writer(state, tmp_path / "inbox", TrainingRules(trains=False))

        assert writer.take(annotated(7)) == [Receipt(None, "not trained on")]
        assert writer.annotations() == [7]
        writer.events.close()

    def test_an_event_without_a_project_is_of_the_only_one(
        self, writer: Writer
    ) -> None:
        nameless = parse_event({"action": "START_TRAINING"})
        assert writer.take(nameless) == [Receipt(None, "no project")]

        writer.take(annotated(7))
        [receipt] = writer.take(nameless)

        assert receipt.job == JobStore(writer.state).jobs()[0].id
        writer.state.change(lambda change: know(change, Project("2", 5)))
        assert writer.take(nameless) == [Receipt(None, "no project")]

    def test_a_payload_that_cannot_be_stored_affects_no_other_event(
        self, writer: Writer
    ) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]

        receipts = writer.take(annotated(1), annotated(2, result=deep), annotated(3))

        assert all(receipt.job for receipt in receipts)
        assert writer.annotations() == [1, 3]

    def test_a_bug_loses_only_its_own_event_and_is_logged(
        self, state: SqliteState, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Picky(TrainingRules):
            def wants(self, action: str) -> bool:
                return bool(
                    super().wants(action) if action != "START_TRAINING" else 1 / 0
                )

        writer = Writer(state, None, Picky())

        receipts = writer.take(annotated(1), START, annotated(3))

        assert [receipt.job is None for receipt in receipts] == [False, True, False]
        assert receipts[1].status == "not taken: ZeroDivisionError"
        assert writer.annotations() == [1, 3]
        assert "Event not stored: 'START_TRAINING' project=1.1795426489" in caplog.text
        writer.events.close()

    def test_annotations_inside_tasks_are_noted_some_time(self, writer: Writer) -> None:
        annotation = {"id": 9, "result": [], "updated_at": "2026-11-24T09:00:00Z"}
        task = {"id": 4, "data": {"text": "x"}, "annotations": [annotation]}

        writer.events.observe(PROJECT, [task])
        writer.take(START)
        writer.take(START)

        assert writer.annotations() == [9]
        assert JobStore(writer.state).jobs()[0].new_annotations == 0


class TestALockedState:
    def test_events_wait_in_a_file_and_come_back_in_order(
        self, writer: Writer, tmp_path: Path
    ) -> None:
        writer.take(annotated(1))
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        times = []
        for number in range(2, 12):
            start = time.monotonic()
            assert writer.take(annotated(number)) == [Receipt(None, "queued")]
            times.append(time.monotonic() - start)
        writer.take(annotated(2, minute=5, result=[{"newest": True}]))
        assert max(times) < 0.7
        assert writer.annotations() == [1]

        other.execute("ROLLBACK")
        other.close()
        deadline = time.monotonic() + 5
        while len(writer.annotations()) < 11 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sorted(writer.annotations()) == list(range(1, 12))
        tasks = list(AnnotationStore(writer.state).annotated_tasks(PROJECT))
        assert tasks[1]["annotations"][0]["result"] == [{"newest": True}]
        assert JobStore(writer.state).jobs()[0].new_annotations == 11
        [receipt] = writer.take(annotated(20))
        assert receipt.job is not None

    def test_events_of_a_process_that_died_are_stored_at_the_next_start(
        self, state: SqliteState, tmp_path: Path
    ) -> None:
        first = Writer(state, tmp_path / "inbox")
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first.take(annotated(1), annotated(2))
        first.events.close()
        assert list((tmp_path / "inbox").glob("*.jsonl"))
        other.execute("ROLLBACK")
        other.close()

        second = Writer(state, tmp_path / "inbox")
        second.take(annotated(3))

        assert sorted(second.annotations()) == [1, 2, 3]
        second.events.close()
        assert list((tmp_path / "inbox").iterdir()) == []

    def test_without_a_file_to_wait_in_the_event_is_refused(
        self, state: SqliteState, tmp_path: Path
    ) -> None:
        (tmp_path / "inbox").write_text("a file in the directory's place")
        writer = Writer(state, tmp_path / "inbox")
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StateError, match="neither the state nor"):
            writer.take(annotated(1))
        other.execute("ROLLBACK")
        other.close()
        [receipt] = writer.take(annotated(1))
        assert receipt.job is not None
        writer.events.close()


MANY = range(1, 3_001)
LISTS: dict[str, dict[str, Any]] = {
    "TASKS_DELETED": {"tasks": [{"id": number} for number in MANY]},
    "ANNOTATIONS_DELETED": {"annotation": [{"id": number} for number in MANY]},
    "ANNOTATIONS_CREATED": {
        "annotation": [{"id": number, "task": number, "result": []} for number in MANY],
        "task": [{"id": number, "data": {"text": "a"}} for number in MANY],
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", LISTS)
def test_an_event_of_thousands_holds_up_none_behind_it(
    action: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    state = open_state(kind, tmp_path, url_of(kind, request))
    writer = Writer(state, tmp_path / "inbox")
    writer.take(*(annotated(number) for number in MANY[:200]))

    writer.take(parse_event({"action": action, "project": BODY, **LISTS[action]}))
    writer.take(annotated(10_000))

    deadline = time.monotonic() + 10
    while 10_000 not in (found := writer.annotations()) and time.monotonic() < deadline:
        time.sleep(0.05)
    is_gone = action in {"TASKS_DELETED", "ANNOTATIONS_DELETED"}
    assert sorted(found) == [*([] if is_gone else MANY), 10_000]
    writer.events.close()
    state.close()


def test_a_state_in_memory_needs_no_inbox() -> None:
    writer = Writer(MemoryState(), None)

    [receipt] = writer.take(annotated(1))

    assert receipt.job is not None
    writer.events.close()
