"""Whatever happens in whatever order, a job has one status and one holder, and ends."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from lsml_bento.errors import JobNotFound, LeaseLost
from lsml_bento.jobs.events import parse_event
from lsml_bento.jobs.job import LEASE_S, MAX_ATTEMPTS, Job, JobStatus
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.model.training_policy import TrainingPolicy, TrainingRules
from lsml_bento.state.store import SEPARATOR, State, below, identify, key_of
from tests.states import KINDS, open_state, url_of

GATHERED = TrainingRules(policy=TrainingPolicy(2, quiet_s=5, max_wait_s=20))
LEGACY = TrainingRules(each_event=True)
EXAMPLES = {"memory": 120, "sqlite": 25, "redis": 15, "redis for events": 15}
START = 1_800_000_000.0

ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATIONS_DELETED",
    "START_TRAINING",
)


def event_body(action: str, project: int, ids: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "action": action,
        "project": {"id": project, "created_at": "2026-11-23T09:34:49.839721Z"},
    }
    annotations = [{"id": one, "task": one, "result": []} for one in ids]
    if action == "ANNOTATIONS_DELETED":
        return {**found, "annotations": annotations}
    if action == "ANNOTATIONS_CREATED":
        tasks = [{"id": one, "data": {}} for one in ids]
        return {**found, "annotation": annotations, "task": tasks}
    if action.startswith("ANNOTATION"):
        task = {"id": ids[0], "data": {}}
        return {**found, "annotation": annotations[0], "task": task}
    return found


class Machine(RuleBasedStateMachine):
    """The job store beside what its own answers say about it."""

    jobs = Bundle("jobs")
    leases = Bundle("leases")

    def __init__(self, state: State) -> None:
        super().__init__()
        self.now = START
        self.state = state
        self.store = JobStore(self.state, now=lambda: self.now)
        self.known: set[str] = set()
        self.held: dict[str, str] = {}
        self.ended: dict[str, JobStatus] = {}

    # What may happen

    @rule(
        target=jobs,
        action=st.sampled_from(ACTIONS),
        project=st.integers(1, 2),
        ids=st.lists(st.integers(1, 4), min_size=1, max_size=3),
        rules=st.sampled_from([GATHERED, GATHERED, LEGACY]),
    )
    def enqueue(
        self, action: str, project: int, ids: list[int], rules: TrainingRules
    ) -> Any:
        before = set(self.stored())
        job = self.store.enqueue(parse_event(event_body(action, project, ids)), rules)
        made = set(self.stored()) - before
        if not rules.wants(action):
            assert (job, made) == (None, set())
            return multiple()
        assert job is not None
        assert job.status is JobStatus.QUEUED
        assert len(made) <= (len(ids) if rules.each_event else 1)
        self.known |= made
        return multiple(job.id, *sorted(made - {job.id}))

    @rule(job_id=jobs)
    def lease_what_may_not_run(self, job_id: str) -> None:
        if job_id not in {job.id for job in self.store.due()}:
            assert self.store.lease("worker", job_id) is None

    @rule(target=leases, last=st.booleans())
    def lease(self, last: bool) -> Any:
        due = {
            job.of
            for job in self.stored().values()
            if job.status is JobStatus.QUEUED
            and job.due_at is not None
            and job.due_at <= self.now
        } - {job.of for job in self.stored().values() if job.id in self.held}
        first = self.store.due()
        assert {job.of for job in first} == due, "one job of each idle project is due"
        assert len(first) == len(due)
        job_id = first[-1].id if first and last else None
        found = self.store.lease("worker", job_id)
        assert (found is not None) == bool(due), "what is due is leased"
        assert found is None or found.job.id == (job_id or first[0].id)
        if found is None:
            return multiple()
        assert found.job.id not in self.held
        assert found.job.of in due
        self.held[found.job.id] = found.token
        return found

    @rule(lease=leases, stops=st.booleans())
    def renew(self, lease: Lease, stops: bool) -> None:
        cancelled = self.as_holder(lease, self.is_cancelled(lease))
        answer = self.as_holder(lease, lambda: self.store.renew(lease, progress=0.5))
        assert answer == cancelled
        if answer and stops:
            self.store.fail(lease, "stopped")
            self.end(lease.job.id, JobStatus.CANCELLED)

    @rule(lease=leases)
    def succeed(self, lease: Lease) -> None:
        promoted: set[str] = set()  # a change that met another one is done again

        def promote(_: object) -> None:
            promoted.add("promoted")

        def work() -> Job:
            return self.store.succeed(lease, "v1", {"f1": 0.5}, also=promote)

        if self.as_holder(lease, self.is_cancelled(lease)):
            work()
            assert not promoted
            self.end(lease.job.id, JobStatus.CANCELLED)
        elif self.as_holder(lease, work) is not None:
            assert promoted
            self.end(lease.job.id, JobStatus.SUCCEEDED)
        else:
            assert not promoted

    @rule(lease=leases)
    def fail(self, lease: Lease) -> None:
        job = self.as_holder(lease, lambda: self.store.fail(lease, "it raised"))
        if job is not None:
            assert job.status in {JobStatus.FAILED, JobStatus.CANCELLED}
            self.end(job.id, job.status)

    @rule(lease=leases)
    def crash(self, lease: Lease) -> None:
        job = self.as_holder(lease, lambda: self.store.crash(lease, "killed"))
        if job is not None:
            self.gone(job)

    @rule(lease=leases)
    def put_back(self, lease: Lease) -> None:
        job = self.as_holder(lease, lambda: self.store.put_back(lease))
        if job is not None:
            self.gone(job)

    @rule()
    def expire(self) -> None:
        silent = {
            id_
            for id_, job in self.stored().items()
            if id_ in self.held and job.lease_until < self.now
        }
        taken = self.store.expire()
        assert {job.id for job in taken} == silent
        for job in taken:
            self.gone(job)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        if job_id not in self.known:
            with pytest.raises(JobNotFound):
                self.store.cancel(job_id)
            return
        job = self.store.cancel(job_id)
        assert job.status is not JobStatus.QUEUED
        if job.status.is_end and job_id not in self.ended:
            self.end(job_id, JobStatus.CANCELLED)

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        if job_id not in self.known:
            with pytest.raises(JobNotFound):
                self.store.retry(job_id)
            return
        job = self.store.retry(job_id)
        if self.ended.get(job_id) in {JobStatus.FAILED, JobStatus.CANCELLED}:
            assert job.status is JobStatus.QUEUED
            assert job.due_at == self.now
            if job.id == job_id:
                del self.ended[job_id]

    @rule(keep=st.integers(0, 3))
    def prune(self, keep: int) -> None:
        gone = sorted(self.ended)[: max(0, len(self.ended) - keep)]
        assert self.store.prune(keep) == len(gone)
        for job_id in gone:
            del self.ended[job_id]
            self.known.remove(job_id)
            left = [key for key, _ in self.state.each("") if job_id in key]
            assert left == []

    @rule(seconds=st.sampled_from([0.001, 1.0, 2.5, LEASE_S + 0.1, 30.0, -1.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(lease=consumes(leases))
    def lose_sight(self, lease: Lease) -> None:
        """The worker is gone, and with it whoever could answer for the run."""

    # What was seen

    def is_cancelled(self, lease: Lease) -> Callable[[], bool]:
        return lambda: self.store.find(lease.job.id).cancel_requested

    def as_holder(self, lease: Lease, work: Callable[[], Any]) -> Any:
        """What a call answers; None if the lease is stale and it was refused."""
        if self.held.get(lease.job.id) == lease.token:
            return work()
        refused = LeaseLost if lease.job.id in self.known else JobNotFound
        with pytest.raises(refused):
            self.store.renew(lease)
        with pytest.raises(refused):
            self.store.fail(lease, "stale")
        with pytest.raises(refused):
            self.store.put_back(lease)
        with pytest.raises(refused):
            self.store.crash(lease, "stale")
        with pytest.raises(refused):
            self.store.succeed(lease, None, {})
        return None

    def gone(self, job: Job) -> None:
        """A run ended without an answer."""
        del self.held[job.id]
        if job.status is not JobStatus.QUEUED:
            assert job.attempts == MAX_ATTEMPTS or job.cancel_requested
            self.ended[job.id] = job.status

    def end(self, job_id: str, status: JobStatus) -> None:
        self.held.pop(job_id, None)
        self.ended[job_id] = status

    def stored(self) -> dict[str, Job]:
        return {job.id: job for job in self.store.jobs()}

    # What holds at any time

    @invariant()
    def no_job_is_lost_or_made_up(self) -> None:
        assert set(self.stored()) == self.known

    @invariant()
    def what_ended_stays_as_it_ended(self) -> None:
        stored = self.stored()
        found = {id_: job.status for id_, job in stored.items() if job.status.is_end}
        assert found == self.ended
        assert all(stored[id_].finished_at is not None for id_ in found)

    @invariant()
    def who_runs_holds_the_one_valid_token(self) -> None:
        found = {
            id_: job.token
            for id_, job in self.stored().items()
            if job.status is JobStatus.RUNNING
        }
        assert found == self.held
        idle = [job for job in self.stored().values() if job.id not in self.held]
        assert [job.token for job in idle] == [None] * len(idle)

    @invariant()
    def one_job_runs_per_project_and_its_key_names_it(self) -> None:
        named = dict(self.state.scan(below("running")))
        stored = self.stored()
        expected = {
            key_of("running", *identify(stored[id_].of)): id_ for id_ in self.held
        }
        assert named == expected
        assert len(named) == len(self.held)

    @invariant()
    def what_is_queued_is_in_the_queue_once(self) -> None:
        queued = Counter(
            key.split(SEPARATOR)[3] for key, _ in self.state.scan(below("queue"))
        )
        expected = [
            id_ for id_, job in self.stored().items() if job.status is JobStatus.QUEUED
        ]
        assert queued == Counter(expected)

    @invariant()
    def one_job_gathers_per_project(self) -> None:
        stored = self.stored()
        for key, job_id in self.state.scan(below("slot")):
            _, id_, created_at, merge_key = key.split(SEPARATOR)
            assert stored[job_id].status is JobStatus.QUEUED
            assert stored[job_id].project == f"{id_}.{created_at}"
            assert stored[job_id].merge_key == merge_key
        gathering = Counter(
            job.of
            for job in stored.values()
            if job.status is JobStatus.QUEUED and job.merge_key == ""
        )
        assert set(gathering.values()) <= {1}

    @invariant()
    def attempts_are_bounded(self) -> None:
        for job in self.stored().values():
            assert 0 <= job.attempts <= MAX_ATTEMPTS

    # What holds in the end

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.state.close()

    def drain(self) -> None:
        """Workers that are killed in every run: even so, every job ends."""
        for project in (1, 2):
            body = event_body("START_TRAINING", project, [])
            self.store.enqueue(parse_event(body), GATHERED)
        for _ in range(MAX_ATTEMPTS * len(self.stored()) + 2):
            self.now += LEASE_S + 3
            self.store.expire()
            while self.store.lease("doomed") is not None:
                pass
        left = [job for job in self.stored().values() if not job.status.is_end]
        assert left == []
        assert self.state.scan(below("queue")) == []
        assert self.state.scan(below("running")) == []
        assert self.state.scan(below("slot")) == []
        assert self.state.scan(below("job-seen")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_a_job_has_one_status_and_one_holder_and_ends(
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = url_of(kind, request)

    class Opened(Machine):
        def __init__(self) -> None:
            # The random end of an id orders the jobs of one moment: hypothesis gives
            # up where the same steps mean something else when it takes them again.
            dice = random.Random(0)
            monkeypatch.setattr(secrets, "token_hex", lambda n: dice.randbytes(n).hex())
            super().__init__(open_state(kind, tmp_path, url))

    run_state_machine_as_test(
        Opened,
        settings=settings(
            max_examples=EXAMPLES[kind],
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
