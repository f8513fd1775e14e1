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


class Desk:
    """An intake over a state, and what it woke."""

    def __init__(
        self, state: State, inbox: Path | None, rules: TrainingRules | None = None
    ) -> None:
        self.woken: list[Job] = []
        self.state = state
        self.intake = EventWriter(
            state, lambda: rules or TrainingRules(), self.woken.append, inbox
        )

    def take(self, *events: Event) -> list[Receipt]:
        waiting: list[Future[Receipt]] = [self.intake.take(event) for event in events]
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
def desk(state: SqliteState, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(state, tmp_path / "inbox")
    yield made
    made.intake.close()


class TestEvents:
    def test_an_annotation_is_noted_and_its_job_is_answered_and_woken(
        self, desk: Desk
    ) -> None:
        [receipt] = desk.take(annotated(7))

        [job] = JobStore(desk.state).jobs()
        assert receipt == Receipt(job.id)
        assert desk.annotations() == [7]
        assert [woken.id for woken in desk.woken] == [job.id]

    def test_a_burst_is_one_job(self, desk: Desk) -> None:
        receipts = desk.take(*(annotated(number) for number in range(300)), START)

        [job] = JobStore(desk.state).jobs()
        assert {receipt.job for receipt in receipts} == {job.id}
        assert (job.event, job.new_annotations) == ("START_TRAINING", 300)
        assert sorted(desk.annotations()) == list(range(300))

    def test_only_what_makes_a_job_due_sooner_is_enqueued(self, state: Any) -> None:
        policy = TrainingPolicy(min_new_annotations=2, quiet_s=30, max_wait_s=60)
        desk = Desk(state, None, TrainingRules(policy=policy))
        desk.take(annotated(1))
        assert desk.woken == [], "too few annotations"

        for number in range(2, 30):
            desk.take(annotated(number))
        [ready] = desk.woken
        assert ready.new_annotations == 2

        desk.take(START)
        [_, asked] = desk.woken
        assert asked.id == ready.id
        assert (asked.due_at or 0) < (ready.due_at or 0)
        desk.intake.close()

    def test_each_new_job_of_a_legacy_class_is_enqueued(self, state: Any) -> None:
        desk = Desk(state, None, TrainingRules(each_event=True))
        desk.take(annotated(1), annotated(2))

        assert len({job.id for job in desk.woken}) == 2
        desk.intake.close()

    def test_a_repeated_event_teaches_nothing(self, desk: Desk) -> None:
        desk.take(annotated(7))

        assert desk.take(annotated(7)) == [Receipt(None, "nothing new")]
        assert JobStore(desk.state).jobs()[0].new_annotations == 1

    def test_a_skipped_annotation_teaches_nothing(self, desk: Desk) -> None:
        receipt = desk.take(annotated(7, was_cancelled=True))

        assert receipt == [Receipt(None, "nothing new")]
        assert JobStore(desk.state).jobs() == []

    def test_a_class_without_fit_gets_no_job_and_the_journal_all(
        self, state: SqliteState, tmp_path: Path
    ) -> None:
        desk = Desk(state, tmp_path / "inbox", TrainingRules(trains=False))

        assert desk.take(annotated(7)) == [Receipt(None, "not trained on")]
        assert desk.annotations() == [7]
        desk.intake.close()

    def test_an_event_without_a_project_is_of_the_only_one(self, desk: Desk) -> None:
        nameless = parse_event({"action": "START_TRAINING"})
        assert desk.take(nameless) == [Receipt(None, "no project")]

        desk.take(annotated(7))
        [receipt] = desk.take(nameless)

        assert receipt.job == JobStore(desk.state).jobs()[0].id
        desk.state.change(lambda change: know(change, Project("2", 5)))
        assert desk.take(nameless) == [Receipt(None, "no project")]

    def test_a_payload_that_can_not_be_kept_costs_no_other_event(
        self, desk: Desk
    ) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]

        receipts = desk.take(annotated(1), annotated(2, result=deep), annotated(3))

        assert all(receipt.job for receipt in receipts)
        assert desk.annotations() == [1, 3]

    def test_a_bug_costs_its_own_event_and_the_log_says_so(
        self, state: SqliteState, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Picky(TrainingRules):
            def wants(self, action: str) -> bool:
                return bool(
                    super().wants(action) if action != "START_TRAINING" else 1 / 0
                )

        desk = Desk(state, None, Picky())

        receipts = desk.take(annotated(1), START, annotated(3))

        assert [receipt.job is None for receipt in receipts] == [False, True, False]
        assert receipts[1].status == "not taken: ZeroDivisionError"
        assert desk.annotations() == [1, 3]
        assert "Event not stored: START_TRAINING project=1.1795426489" in caplog.text
        desk.intake.close()

    def test_annotations_inside_tasks_are_noted_some_time(self, desk: Desk) -> None:
        annotation = {"id": 9, "result": [], "updated_at": "2026-11-24T09:00:00Z"}
        task = {"id": 4, "data": {"text": "x"}, "annotations": [annotation]}

        desk.intake.observe(PROJECT, [task])
        desk.take(START)
        desk.take(START)

        assert desk.annotations() == [9]
        assert JobStore(desk.state).jobs()[0].new_annotations == 0


class TestALockedState:
    def test_events_wait_in_a_file_and_come_back_in_order(
        self, desk: Desk, tmp_path: Path
    ) -> None:
        desk.take(annotated(1))
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        times = []
        for number in range(2, 12):
            start = time.monotonic()
            assert desk.take(annotated(number)) == [Receipt(None, "queued")]
            times.append(time.monotonic() - start)
        desk.take(annotated(2, minute=5, result=[{"newest": True}]))
        assert max(times) < 0.7
        assert desk.annotations() == [1]

        other.execute("ROLLBACK")
        other.close()
        deadline = time.monotonic() + 5
        while len(desk.annotations()) < 11 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sorted(desk.annotations()) == list(range(1, 12))
        tasks = list(AnnotationStore(desk.state).annotated_tasks(PROJECT))
        assert tasks[1]["annotations"][0]["result"] == [{"newest": True}]
        assert JobStore(desk.state).jobs()[0].new_annotations == 11
        [receipt] = desk.take(annotated(20))
        assert receipt.job is not None

    def test_events_of_a_process_that_died_are_stored_at_the_next_start(
        self, state: SqliteState, tmp_path: Path
    ) -> None:
        first = Desk(state, tmp_path / "inbox")
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first.take(annotated(1), annotated(2))
        first.intake.close()
        assert list((tmp_path / "inbox").glob("*.jsonl"))
        other.execute("ROLLBACK")
        other.close()

        second = Desk(state, tmp_path / "inbox")
        second.take(annotated(3))

        assert sorted(second.annotations()) == [1, 2, 3]
        second.intake.close()
        assert list((tmp_path / "inbox").iterdir()) == []

    def test_without_a_file_to_wait_in_the_event_is_refused(
        self, state: SqliteState, tmp_path: Path
    ) -> None:
        (tmp_path / "inbox").write_text("a file in the directory's place")
        desk = Desk(state, tmp_path / "inbox")
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StateError, match="neither the state nor"):
            desk.take(annotated(1))
        other.execute("ROLLBACK")
        other.close()
        [receipt] = desk.take(annotated(1))
        assert receipt.job is not None
        desk.intake.close()


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
    desk = Desk(state, tmp_path / "inbox")
    desk.take(*(annotated(number) for number in MANY[:200]))

    desk.take(parse_event({"action": action, "project": BODY, **LISTS[action]}))
    desk.take(annotated(10_000))

    deadline = time.monotonic() + 10
    while 10_000 not in (found := desk.annotations()) and time.monotonic() < deadline:
        time.sleep(0.05)
    is_gone = action in {"TASKS_DELETED", "ANNOTATIONS_DELETED"}
    assert sorted(found) == [*([] if is_gone else MANY), 10_000]
    desk.intake.close()
    state.close()


def test_a_state_in_memory_needs_no_inbox() -> None:
    desk = Desk(MemoryState(), None)

    [receipt] = desk.take(annotated(1))

    assert receipt.job is not None
    desk.intake.close()
