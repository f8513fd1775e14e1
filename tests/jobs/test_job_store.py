"""How events become jobs, and what jobs do when others come between."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.contract import Project
from lsml_bento.errors import JobNotFound, LeaseLost
from lsml_bento.jobs.annotations import record
from lsml_bento.jobs.events import Event, parse_event
from lsml_bento.jobs.job import LEASE_S, MAX_ATTEMPTS, Job, JobStatus, gather
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.model.training_policy import (
    TrainingEvent,
    TrainingPolicy,
    TrainingRules,
)
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import Change, Pair, State, below, key_of
from tests.states import RULE_KINDS, each_state, on_every_state, open_state

state = pytest.fixture(params=RULE_KINDS)(each_state)

CREATED_AT = "2026-11-23T09:34:49.839721Z"
SECONDS = 1795426489
ONE = Project("1", SECONDS)
POLICY = TrainingPolicy(min_new_annotations=2, quiet_s=5, max_wait_s=20)
GATHERED = TrainingRules(policy=POLICY)
LEGACY = TrainingRules(each_event=True)
START = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(state: State, clock: Clock) -> JobStore:
    return JobStore(state, now=clock)


def event(action: str, *ids: int, project: int = 1, at: int = 0) -> Event:
    """An event about annotations, each of the task of the same number."""
    annotations = [
        {"id": one, "task": one, "updated_at": f"2026-11-23T10:00:{at:02}Z"}
        for one in ids
    ]
    tasks = [{"id": one, "data": {"text": str(one)}} for one in ids]
    body: dict[str, Any] = {
        "action": action,
        "project": {"id": project, "created_at": CREATED_AT},
    }
    if action == "ANNOTATIONS_DELETED":
        body["annotations"] = annotations
    elif action == "ANNOTATIONS_CREATED":
        body |= {"annotation": annotations, "task": tasks}
    elif ids:
        body |= {"annotation": annotations[0], "task": tasks[0]}
    return parse_event(body)


def enqueued(
    store: JobStore,
    action: str,
    *ids: int,
    rules: TrainingRules = GATHERED,
    **more: int,
) -> Job:
    job = store.enqueue(event(action, *ids, **more), rules)
    assert job is not None
    return job


def leased(store: JobStore) -> Lease:
    lease = store.lease("worker")
    assert lease is not None
    return lease


def ids_of(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


def damage(state: State, job: Job) -> None:
    """Write something else in place of a job."""
    state.change(lambda change: change.put(key_of("job", job.id), '{"id": 1}'))


class TestDamagedRecords:
    def test_they_are_skipped_and_logged_once(
        self, state: State, store: JobStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad = enqueued(store, "ANNOTATION_CREATED", 1, rules=LEGACY)
        good = enqueued(store, "ANNOTATION_CREATED", 2, rules=LEGACY)
        damage(state, bad)

        for _ in range(2):
            assert ids_of(store.due()) == [good.id]
            assert ids_of(store.jobs()) == [good.id]
            assert store.figures()["jobs"]["queued"] == 1
            assert store.prune(0) == 0
        with pytest.raises(JobNotFound, match="is damaged"):
            store.find(bad.id)
        assert leased(store).job.id == good.id
        assert caplog.messages == [f"Job skipped: its record is damaged job={bad.id}"]

    @pytest.mark.parametrize("is_lost", [True, False])
    def test_one_that_ran_does_not_block_its_project(
        self, state: State, store: JobStore, *, is_lost: bool
    ) -> None:
        enqueued(store, "ANNOTATION_CREATED", 1, rules=LEGACY)
        running = leased(store).job
        waiting = enqueued(store, "ANNOTATION_CREATED", 2, rules=LEGACY)
        damage(state, running)
        if is_lost:
            state.change(lambda change: change.delete(key_of("job", running.id)))

        assert store.expire() == []
        assert leased(store).job.id == waiting.id

    def test_further_events_get_a_new_job(self, state: State, store: JobStore) -> None:
        bad = enqueued(store, "ANNOTATION_CREATED", 1)
        damage(state, bad)

        assert enqueued(store, "ANNOTATION_CREATED", 2).id != bad.id


class TestGathering:
    def test_a_burst_is_one_job_that_lists_its_events(self, store: JobStore) -> None:
        first = enqueued(store, "ANNOTATION_CREATED", 1)
        enqueued(store, "ANNOTATIONS_CREATED", 2, 3)
        last = enqueued(store, "ANNOTATION_UPDATED", 1)

        assert last.id == first.id
        assert ids_of(store.jobs()) == [first.id]
        assert store.events(first.id) == [
            TrainingEvent("ANNOTATION_CREATED", 1),
            TrainingEvent("ANNOTATIONS_CREATED", 2),
            TrainingEvent("ANNOTATIONS_CREATED", 3),
            TrainingEvent("ANNOTATION_UPDATED", 1),
        ]
        assert last.event == "ANNOTATION_UPDATED"
        assert store.data(last.id) == event("ANNOTATION_UPDATED", 1).data
        assert (last.events, last.new_annotations) == (4, 3)

    def test_the_minimum_counts_annotations_and_not_events(
        self, store: JobStore, clock: Clock
    ) -> None:
        for _ in range(5):
            job = enqueued(store, "ANNOTATION_UPDATED", 1)
        assert (job.new_annotations, job.due_at) == (1, None)
        clock.now += 1_000
        assert store.lease("worker") is None

        job = enqueued(store, "ANNOTATION_CREATED", 2)

        assert (job.new_annotations, job.due_at) == (2, clock.now + 5)

    def test_each_further_event_restarts_the_quiet_period(
        self, store: JobStore, clock: Clock
    ) -> None:
        enqueued(store, "ANNOTATIONS_CREATED", 1, 2)
        clock.now += 4.9
        enqueued(store, "ANNOTATION_UPDATED", 1)
        clock.now += 4.9
        assert store.lease("worker") is None
        assert store.jobs()[0].due_at == pytest.approx(clock.now + 0.1)

        clock.now += 0.2

        assert leased(store).job.events == 3

    def test_a_burst_delays_a_job_by_at_most_max_wait_after_its_minimum(
        self, store: JobStore, clock: Clock
    ) -> None:
        enqueued(store, "ANNOTATION_CREATED", 1)
        clock.now += 100
        ready_at = clock.now
        enqueued(store, "ANNOTATION_CREATED", 2)
        for _ in range(6):
            clock.now += 3
            job = enqueued(store, "ANNOTATION_UPDATED", 1)

        assert job.due_at == ready_at + 20

    def test_start_training_waits_two_seconds_and_is_the_event_that_fit_gets(
        self, store: JobStore, clock: Clock
    ) -> None:
        asked = enqueued(store, "START_TRAINING")
        assert asked.due_at == clock.now + 2
        clock.now += 1
        job = enqueued(store, "ANNOTATION_CREATED", 1)

        assert (job.id, job.event, job.due_at) == (
            asked.id,
            "START_TRAINING",
            START + 2,
        )
        assert job.new_annotations == 1
        assert store.data(job.id) == event("START_TRAINING").data
        assert [one.action for one in store.events(job.id)] == [
            "START_TRAINING",
            "ANNOTATION_CREATED",
        ]

    def test_start_training_after_annotations_is_the_event_that_fit_gets(
        self, store: JobStore
    ) -> None:
        enqueued(store, "ANNOTATION_CREATED", 1)
        job = enqueued(store, "START_TRAINING")

        assert (job.event, job.new_annotations) == ("START_TRAINING", 1)
        assert store.data(job.id) == event("START_TRAINING").data

    def test_repeated_start_training_does_not_delay_the_job(
        self, store: JobStore, clock: Clock
    ) -> None:
        first = enqueued(store, "START_TRAINING")
        clock.now += 1.5
        again = enqueued(store, "START_TRAINING")

        assert (again.id, again.due_at, again.events) == (first.id, START + 2, 2)
        clock.now += 0.5
        assert leased(store).job.id == first.id

    def test_events_while_a_job_runs_make_one_waiting_job(
        self, store: JobStore, clock: Clock
    ) -> None:
        enqueued(store, "START_TRAINING")
        clock.now += 2
        running = leased(store)
        for number in range(1, 4):
            waiting = enqueued(store, "ANNOTATION_CREATED", number)
        clock.now += 30

        assert ids_of(store.jobs()) == [waiting.id, running.job.id]
        assert waiting.new_annotations == 3
        assert store.lease("other") is None, "the project has one running"
        store.renew(running)
        store.succeed(running, None, {})
        assert leased(store).job.id == waiting.id

    def test_projects_do_not_wait_for_one_another(
        self, store: JobStore, clock: Clock
    ) -> None:
        for project in (1, 2):
            enqueued(store, "START_TRAINING", project=project)
        clock.now += 2

        assert {leased(store).job.of.id, leased(store).job.of.id} == {"1", "2"}
        assert store.lease("worker") is None

    def test_a_class_that_does_not_train_gets_no_job(self, store: JobStore) -> None:
        rules = TrainingRules(trains=False)

        assert store.enqueue(event("START_TRAINING"), rules) is None
        assert store.enqueue(event("TASKS_CREATED"), GATHERED) is None
        assert store.jobs() == []

    def test_an_event_about_something_else_counts_where_the_class_asks_for_it(
        self, store: JobStore, clock: Clock
    ) -> None:
        rules = TrainingRules(actions=("TASKS_CREATED",), policy=TrainingPolicy())
        job = enqueued(store, "TASKS_CREATED", rules=rules)

        assert (job.new_annotations, job.due_at) == (1, clock.now + 5)
        assert store.events(job.id) == [TrainingEvent("TASKS_CREATED", None)]

    def test_annotations_that_went_count_too(self, store: JobStore) -> None:
        job = enqueued(store, "ANNOTATIONS_DELETED", 7, 8)

        assert job.new_annotations == 2
        assert store.events(job.id) == [
            TrainingEvent("ANNOTATIONS_DELETED", "7"),
            TrainingEvent("ANNOTATIONS_DELETED", "8"),
        ]


class TestEachEvent:
    def test_events_are_jobs_in_the_order_they_came_even_within_a_millisecond(
        self, store: JobStore
    ) -> None:
        for number in range(30):
            enqueued(store, "ANNOTATION_CREATED", number, rules=LEGACY)

        done = []
        for _ in range(30):
            lease = leased(store)
            done.append(store.data(lease.job.id)["annotation"]["id"])
            store.succeed(lease, None, {})
        assert done == list(range(30))

    def test_the_order_stays_when_the_clock_is_set_back(
        self, store: JobStore, clock: Clock
    ) -> None:
        first = enqueued(store, "ANNOTATION_CREATED", 1, rules=LEGACY)
        clock.now -= 3600
        second = enqueued(store, "ANNOTATION_CREATED", 2, rules=LEGACY)
        clock.now += 3600

        assert ids_of(store.jobs()) == [second.id, first.id]
        lease = leased(store)
        assert lease.job.id == first.id

    def test_a_newer_update_takes_the_place_of_one_that_waits(
        self, store: JobStore
    ) -> None:
        old = enqueued(store, "ANNOTATION_UPDATED", 1, rules=LEGACY, at=1)
        other = enqueued(store, "ANNOTATION_UPDATED", 2, rules=LEGACY)
        new = enqueued(store, "ANNOTATION_UPDATED", 1, rules=LEGACY, at=2)

        assert new.id == old.id
        assert ids_of(store.jobs()) == [other.id, old.id]
        assert store.data(old.id)["annotation"]["updated_at"].endswith(":02Z")
        assert store.events(old.id) == [TrainingEvent("ANNOTATION_UPDATED", 1)]

    def test_an_older_update_that_comes_late_takes_no_place(
        self, store: JobStore, state: State, clock: Clock
    ) -> None:
        def take(number: int) -> Job | None:
            late = event("ANNOTATION_UPDATED", 1, at=number)

            def work(change: Change) -> Job | None:
                ids = record(change, late)
                found = gather(change, late, ids, LEGACY, clock.now)
                return None if found is None else found.job

            return state.change(work)

        job = take(2)
        assert job is not None
        assert take(1) is None
        assert take(2) is None
        assert store.data(job.id)["annotation"]["updated_at"].endswith(":02Z")

    def test_an_update_of_an_annotation_that_is_being_learned_waits(
        self, store: JobStore
    ) -> None:
        enqueued(store, "ANNOTATION_UPDATED", 1, rules=LEGACY)
        running = leased(store)
        waiting = enqueued(store, "ANNOTATION_UPDATED", 1, rules=LEGACY)

        assert waiting.id != running.job.id
        assert store.lease("worker") is None

    def test_a_list_of_annotations_is_one_event_each(self, store: JobStore) -> None:
        enqueued(store, "ANNOTATIONS_CREATED", 3, 1, 2, rules=LEGACY)

        found = store.jobs()[::-1]
        assert [job.event for job in found] == ["ANNOTATION_CREATED"] * 3
        data = [store.data(job.id) for job in found]
        assert [one["annotation"]["id"] for one in data] == [3, 1, 2]
        assert [one["task"]["data"]["text"] for one in data] == ["3", "1", "2"]
        assert [one["project"]["id"] for one in data] == [1, 1, 1]

    def test_a_class_that_knows_of_lists_gets_the_list(self, store: JobStore) -> None:
        rules = TrainingRules(actions=("ANNOTATIONS_CREATED",), each_event=True)
        job = enqueued(store, "ANNOTATIONS_CREATED", 1, 2, rules=rules)

        assert ids_of(store.jobs()) == [job.id]
        assert len(store.data(job.id)["annotation"]) == 2

    def test_only_annotations_that_an_event_changed_get_a_job(
        self, store: JobStore, state: State, clock: Clock
    ) -> None:
        many = event("ANNOTATIONS_CREATED", 1, 2, 3)

        state.change(lambda change: gather(change, many, [2], LEGACY, clock.now))

        assert [store.data(job.id)["annotation"]["id"] for job in store.jobs()] == [2]

    def test_updates_without_an_annotation_id_are_not_merged(
        self, store: JobStore
    ) -> None:
        for _ in range(2):
            enqueued(store, "ANNOTATION_UPDATED", rules=LEGACY)

        assert len(store.jobs()) == 2

    def test_start_training_is_an_event_as_any_other(self, store: JobStore) -> None:
        for _ in range(2):
            enqueued(store, "START_TRAINING", rules=LEGACY)

        assert len(store.jobs()) == 2
        assert leased(store).job.event == "START_TRAINING"

    def test_a_job_that_waits_for_annotations_holds_up_no_other(
        self, store: JobStore
    ) -> None:
        enqueued(store, "ANNOTATION_CREATED", 1)  # before the class was exchanged
        job = enqueued(store, "ANNOTATION_CREATED", 2, rules=LEGACY)

        assert leased(store).job.id == job.id


class TestRunning:
    @pytest.fixture
    def lease(self, store: JobStore, clock: Clock) -> Lease:
        enqueued(store, "START_TRAINING")
        clock.now += 2
        return leased(store)

    def test_a_run_shows_how_far_it_is(self, store: JobStore, lease: Lease) -> None:
        assert store.renew(lease, progress=0.25, metrics={"loss": 1.5}) is False
        store.renew(
            lease, metrics={"f1": None}, source="annotation store", log_tail=["a"]
        )

        job = store.find(lease.job.id)
        assert job.status is JobStatus.RUNNING
        assert (job.progress, job.source, job.worker) == (
            0.25,
            "annotation store",
            "worker",
        )
        assert job.metrics == {"loss": 1.5, "f1": None}
        assert store.log_tail(job.id) == ["a"]

    def test_a_job_that_succeeded_names_its_version(
        self, store: JobStore, lease: Lease, clock: Clock
    ) -> None:
        store.renew(lease, metrics={"loss": 1.5})
        clock.now += 5
        store.succeed(lease, "v1", {"f1": 0.9}, note="fine")

        job = store.find(lease.job.id)
        assert job.status is JobStatus.SUCCEEDED
        assert (job.version, job.progress, job.note) == ("v1", 1.0, "fine")
        assert job.metrics == {"loss": 1.5, "f1": 0.9}
        assert (job.started_at, job.finished_at) == (START + 2, START + 7)
        assert store.totals() == (5.0, 1)

    def test_a_promotion_that_fails_leaves_the_job_with_its_run(
        self, store: JobStore, lease: Lease, state: State
    ) -> None:
        def promote(change: Change) -> None:
            change.put("promoted", "v1")
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            store.succeed(lease, "v1", {}, also=promote)

        assert state.get("promoted") is None
        assert store.find(lease.job.id).status is JobStatus.RUNNING
        assert store.fail(lease, "no promotion").status is JobStatus.FAILED

    def test_a_worker_that_lost_its_lease_promotes_nothing(
        self, store: JobStore, lease: Lease, state: State, clock: Clock
    ) -> None:
        clock.now += LEASE_S + 0.1
        assert ids_of(store.expire()) == [lease.job.id]
        other = leased(store)

        with pytest.raises(LeaseLost, match=r"lease lost: job .* is now"):
            store.succeed(lease, "v1", {}, also=lambda c: c.put("promoted", "v1"))
        assert state.get("promoted") is None
        store.succeed(other, "v2", {}, also=lambda c: c.put("promoted", "v2"))
        assert state.get("promoted") == "v2"

    def test_an_error_may_hold_any_text(self, store: JobStore, lease: Lease) -> None:
        store.fail(lease, "caf\udce9.txt is missing", "a\nb \udce9\0")

        job = store.find(lease.job.id)
        assert (job.error, job.traceback) == (
            "caf\\udce9.txt is missing",
            "a\nb \\udce9\0",
        )

    def test_a_job_whose_process_dies_again_and_again_has_failed(
        self, store: JobStore, lease: Lease
    ) -> None:
        for attempt in range(1, MAX_ATTEMPTS):
            job = store.crash(lease, "killed by signal 9")
            assert (job.status, job.attempts) == (JobStatus.QUEUED, attempt)
            assert job.note == "run again: killed by signal 9"
            lease = leased(store)

        job = store.crash(lease, "killed by signal 9")

        assert job.status is JobStatus.FAILED
        assert "3 times (last: killed by signal 9): check the kernel" in str(job.error)
        assert store.lease("worker") is None

    def test_a_worker_that_goes_may_put_its_job_back_as_often_as_it_likes(
        self, store: JobStore, lease: Lease
    ) -> None:
        for _ in range(10):
            assert store.put_back(lease).attempts == 0
            lease = leased(store)

        assert store.succeed(lease, None, {}).attempts == 1

    def test_a_lease_that_is_renewed_does_not_run_out(
        self, store: JobStore, lease: Lease, clock: Clock
    ) -> None:
        for _ in range(5):
            clock.now += LEASE_S - 0.1
            assert store.expire() == []
            store.renew(lease)

    def test_a_job_that_is_run_again_gathers_if_no_other_does(
        self, store: JobStore, lease: Lease
    ) -> None:
        store.crash(lease, "killed")

        assert enqueued(store, "ANNOTATION_CREATED", 1).id == lease.job.id
        assert len(store.jobs()) == 1

    def test_a_job_that_is_run_again_goes_before_the_one_that_gathers_by_now(
        self, store: JobStore, lease: Lease, clock: Clock
    ) -> None:
        waiting = enqueued(store, "START_TRAINING")
        store.crash(lease, "killed")
        clock.now += 10

        assert enqueued(store, "ANNOTATION_CREATED", 1).id == waiting.id
        again = leased(store)
        assert again.job.id == lease.job.id
        store.succeed(again, None, {})
        assert leased(store).job.id == waiting.id


class TestWhatPeopleAsk:
    def test_a_waiting_job_is_cancelled_at_once(self, store: JobStore) -> None:
        job = enqueued(store, "START_TRAINING")

        assert store.cancel(job.id).status is JobStatus.CANCELLED
        assert enqueued(store, "START_TRAINING").id != job.id
        assert store.totals() == (0.0, 0)

    @pytest.mark.parametrize(
        "ending", ["succeed", "fail", "crash", "put_back", "expire"]
    )
    def test_a_running_job_is_asked_to_stop_and_is_cancelled_however_its_run_ends(
        self, store: JobStore, clock: Clock, ending: str
    ) -> None:
        enqueued(store, "START_TRAINING")
        clock.now += 2
        lease = leased(store)

        assert store.cancel(lease.job.id).status is JobStatus.RUNNING
        assert store.renew(lease) is True
        if ending == "succeed":
            store.succeed(lease, "v1", {}, also=lambda c: c.put("promoted", "v1"))
        elif ending == "fail":
            store.fail(lease, "stopped")
        elif ending == "crash":
            store.crash(lease, "killed")
        elif ending == "put_back":
            store.put_back(lease)
        else:
            clock.now += LEASE_S + 1
            store.expire()

        job = store.find(lease.job.id)
        assert (job.status, job.error) == (JobStatus.CANCELLED, None)

    def test_a_job_that_ended_well_stays(self, store: JobStore, clock: Clock) -> None:
        enqueued(store, "START_TRAINING")
        clock.now += 2
        done = store.succeed(leased(store), "v1", {})

        assert store.cancel(done.id) == done
        assert store.retry(done.id) == done

    def test_a_retried_job_starts_at_once_from_the_beginning(
        self, store: JobStore, clock: Clock
    ) -> None:
        enqueued(store, "START_TRAINING")
        clock.now += 2
        lease = leased(store)
        store.renew(lease, progress=0.5, metrics={"f1": 0.1})
        failed = store.fail(lease, "it raised", "Traceback ..")

        job = store.retry(failed.id)

        assert (job.id, job.status, job.attempts) == (failed.id, JobStatus.QUEUED, 0)
        assert (job.error, job.traceback, job.finished_at) == (None, None, None)
        assert (job.progress, job.metrics, job.started_at) == (None, {}, None)
        again = leased(store)
        assert (again.job.id, again.job.event) == (failed.id, "START_TRAINING")

    def test_a_retried_job_is_not_held_up_by_an_event_that_it_gathers(
        self, store: JobStore, clock: Clock
    ) -> None:
        job = enqueued(store, "ANNOTATION_CREATED", 1)
        store.cancel(job.id)
        store.retry(job.id)
        merged = enqueued(store, "ANNOTATION_UPDATED", 1)
        clock.now += 2

        assert merged.id == job.id
        assert leased(store).job.id == job.id

    def test_a_retry_makes_the_job_that_collects_events_due(
        self, store: JobStore, clock: Clock
    ) -> None:
        old = enqueued(store, "ANNOTATION_CREATED", 1)
        store.cancel(old.id)
        waiting = enqueued(store, "ANNOTATION_CREATED", 2)
        assert waiting.due_at is None

        assert store.retry(old.id).id == waiting.id

        assert store.find(old.id).status is JobStatus.CANCELLED
        enqueued(store, "ANNOTATION_UPDATED", 2)
        clock.now += 2
        assert leased(store).job.id == waiting.id
        assert store.lease("worker") is None

    @pytest.mark.parametrize("job_id", ["", "nonsense", "\x1f", "a" * 1_000])
    def test_an_unknown_version_is_an_error_in_one_sentence(
        self, store: JobStore, job_id: str
    ) -> None:
        for call in (store.find, store.cancel, store.retry):
            with pytest.raises(JobNotFound, match="`lsml-bento jobs list` shows"):
                call(job_id)
        assert store.data(job_id) == {}
        assert store.events(job_id) == []
        assert store.log_tail(job_id) == []

    def test_jobs_are_listed_by_project_and_status_the_newest_first(
        self, store: JobStore
    ) -> None:
        one = enqueued(store, "ANNOTATION_CREATED", 1, rules=LEGACY)
        two = enqueued(store, "ANNOTATION_CREATED", 1, rules=LEGACY)
        other = enqueued(store, "START_TRAINING", project=2)
        store.cancel(two.id)

        assert ids_of(store.jobs("1")) == [two.id, one.id]
        assert ids_of(store.jobs(str(ONE))) == [two.id, one.id]
        assert ids_of(store.jobs("2", JobStatus.QUEUED)) == [other.id]
        assert ids_of(store.jobs(status=JobStatus.CANCELLED)) == [two.id]
        assert len(store.jobs(limit=2)) == 2
        assert store.jobs("3") == []

    def test_pruning_forgets_all_that_was_kept_of_the_oldest(
        self, store: JobStore, state: State
    ) -> None:
        jobs = [
            enqueued(store, "ANNOTATION_CREATED", n, rules=LEGACY) for n in range(4)
        ]
        for _ in range(3):
            lease = leased(store)
            store.renew(lease, log_tail=["line"])
            store.succeed(lease, None, {})

        assert store.prune(keep=1) == 2

        assert ids_of(store.jobs()) == [jobs[3].id, jobs[2].id]
        keys = [key for key, _ in state.each("")]
        assert not [key for key in keys if jobs[0].id in key or jobs[1].id in key]
        assert [key for key in keys if jobs[2].id in key]
        assert store.prune(keep=1) == 0


class Meddling(JobStore):
    """A job store in which somebody retries a job while the ended ones are listed."""

    meddle_with: str | None = None

    def _all(self) -> Iterator[Job]:
        yield from list(super()._all())
        if self.meddle_with is not None:
            job_id, self.meddle_with = self.meddle_with, None
            self.retry(job_id)


class Interrupted(MemoryState):
    """A state in which something is done between two reads of one change."""

    meddle: list[Callable[[], object]]

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        found = super().scan(prefix, after, limit)
        if prefix == below("queue") and found and self.meddle:
            self.meddle.pop()()
        return found


class TestRaces:
    @pytest.mark.parametrize("is_pruned", [False, True])
    def test_a_job_that_is_cancelled_while_it_is_being_taken_does_not_run(
        self, is_pruned: bool
    ) -> None:
        # As on Redis, whose changes read one key after the other.
        state = Interrupted()
        state.meddle = []
        store = JobStore(state)
        job = enqueued(store, "ANNOTATION_CREATED", 1, rules=LEGACY)

        def cancel() -> None:
            store.cancel(job.id)
            store.prune(keep=0 if is_pruned else 1)

        state.meddle = [cancel, lambda: None]  # the last one first

        assert store.lease("worker") is None
        assert state.meddle == []
        assert len(store.jobs(status=JobStatus.CANCELLED)) == (not is_pruned)

    def test_a_job_that_is_retried_while_old_ones_are_pruned_stays(
        self, state: State
    ) -> None:
        store = Meddling(state)
        job = enqueued(store, "ANNOTATION_CREATED", 1, rules=LEGACY)
        store.cancel(job.id)
        store.meddle_with = job.id

        assert store.prune(keep=0) == 0

        assert leased(store).job.id == job.id

    @on_every_state
    def test_workers_that_ask_at_once_get_a_project_s_jobs_one_after_the_other(
        self, state: State
    ) -> None:
        store = JobStore(state)
        total, projects = 24, 2
        for number in range(total):
            enqueued(
                store,
                "ANNOTATION_CREATED",
                number,
                project=1 + number % projects,
                rules=LEGACY,
            )
        running: dict[Project, int] = {}
        most: list[int] = []
        done: list[str] = []

        def work() -> None:
            while len(done) < total:
                lease = store.lease("worker")
                if lease is None:
                    time.sleep(0.001)
                    continue
                running[lease.job.of] = running.get(lease.job.of, 0) + 1
                most.append(running[lease.job.of])
                time.sleep(0.002)
                running[lease.job.of] -= 1
                store.succeed(lease, None, {})
                done.append(lease.job.id)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert len(done) == len(set(done)) == total
        assert set(most) == {1}
        assert {job.attempts for job in store.jobs()} == {1}

    @on_every_state
    def test_no_event_that_comes_while_jobs_are_taken_is_lost(
        self, state: State
    ) -> None:
        store = JobStore(state)
        rules = TrainingRules(policy=TrainingPolicy(quiet_s=0, max_wait_s=0))
        writers, each = 3, 40
        is_over = threading.Event()

        def write(writer: int) -> None:
            for number in range(each):
                enqueued(
                    store, "ANNOTATION_CREATED", writer * each + number, rules=rules
                )

        def train() -> None:
            while not is_over.is_set() or store.jobs(status=JobStatus.QUEUED):
                lease = store.lease("worker")
                if lease is not None:
                    store.succeed(lease, None, {})

        trainer = threading.Thread(target=train)
        threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
        for thread in [trainer, *threads]:
            thread.start()
        for thread in threads:
            thread.join(60)
        is_over.set()
        trainer.join(60)

        jobs = store.jobs()
        assert {job.status for job in jobs} == {JobStatus.SUCCEEDED}
        seen = [one.annotation for job in jobs for one in store.events(job.id)]
        assert sorted(map(str, seen)) == sorted(map(str, range(writers * each)))
        assert sum(job.events for job in jobs) == writers * each


def test_10_000_jobs_are_listed_within_a_second(tmp_path: Path, clock: Clock) -> None:
    state = open_state("sqlite", tmp_path)
    store = JobStore(state, now=clock)
    job = enqueued(store, "START_TRAINING").with_(
        status=JobStatus.FAILED,
        metrics={"f1": 0.5, "loss": 0.25},
        error="fit() raised ValueError: there are no labels",
        traceback="  File model.py, line 1, in fit\n" * 30,
    )
    stored = job.model_dump(mode="json")

    def fill(change: Change) -> None:
        for number in range(10_000):
            id_ = f"{number:020d}"
            change.put(key_of("job", id_), json.dumps({**stored, "id": id_}))

    state.change(fill)
    took = []
    for _ in range(3):
        start = time.thread_time()  # SQLite works in this thread
        assert len(store.jobs()) == 10_001
        took.append(time.thread_time() - start)
    start = time.thread_time()
    assert store.lease("worker") is None
    asking = time.thread_time() - start
    state.close()

    assert min(took) < 0.7
    assert asking < 0.05
