"""Nothing of a forgotten project stays, and nothing of another one goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from lsml_bento.adapters.bentoml_models import BentoModels
from lsml_bento.contract import Project
from lsml_bento.errors import StillRunning, WeightsError
from lsml_bento.jobs.annotations import record
from lsml_bento.jobs.events import parse_event
from lsml_bento.jobs.job import LEASE_S, JobStatus, gather
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.training_policy import TrainingRules
from lsml_bento.projects.deletion import KEYS, count_stored, forget_project
from lsml_bento.state.store import Change, State, key_of
from lsml_bento.versions.registry import Version, Versions, move, promote
from lsml_bento.versions.weights import store_name
from tests.learned import Named, Process, Store
from tests.states import RULE_KINDS, each_state, on_every_state, open_state

state = pytest.fixture(params=RULE_KINDS)(each_state)

ONE = Project("1", 1795426489)
SAME_ID = Project("1", 1795426490)
CREATED_AT = {1795426489: "2026-11-23T09:34:49Z", 1795426490: "2026-11-23T09:34:50Z"}
RULES = TrainingRules()
_Answer = TypeVar("_Answer")


@pytest.fixture
def weights(tmp_path: Path) -> BentoModels:
    return BentoModels(tmp_path / "models")


def annotate(state: State, project: Project, *annotations: int) -> str:
    """What a webhook brings; the id of the job that gathers it."""
    body = {
        "action": "ANNOTATIONS_CREATED",
        "annotation": [{"id": i, "task": i, "result": []} for i in annotations],
        "task": [{"id": i, "data": {"text": "x"}} for i in annotations],
        "project": {
            "id": int(project.id),
            "created_at": CREATED_AT[project.created_at or 0],
            "total_annotations_number": 9,
            "label_config": "<View/>",
        },
    }
    event = parse_event(body)
    assert event.project == project

    def work(change: Change) -> str:
        ids = record(change, event)
        found = gather(change, event, ids, RULES, time.time())
        assert found is not None
        return found.job.id

    return state.change(work)


def ran(state: State) -> str:
    """End the job that is due next, after a while."""
    lease = JobStore(state, lambda: time.time() + 100).lease("me")
    assert lease is not None
    return JobStore(state).fail(lease, "no").id


def train(state: State, weights: BentoModels, project: Project, name: str) -> Version:
    with weights.writing() as directory:
        (directory / "weights").write_text("12345")
        saved = weights.keep(directory, store_name("me", project), name, {}, {})
    made = Version(
        version=name,
        created_at=1,
        tag=saved.tag,
        manifest=saved.manifest,
        values={"model_version": name},
    )
    state.change(partial(promote, project=project, version=made))
    return made


def fill(state: State, weights: BentoModels, project: Project) -> None:
    """A project with all that can be kept for one."""
    state.write(project, {"model_version": "base", "extra_params": {}})
    job = JobStore(state).cancel(annotate(state, project, 1, 2))
    state.change(lambda change: change.put(key_of("job-log", job.id), "[]"))
    annotate(state, project, 2, 3)
    train(state, weights, project, "v1")
    train(state, weights, project, "v2")


def dump(state: State) -> dict[str, str]:
    return {k: v for k, v in state.scan("") if not k.startswith("total\x1f")}


def test_everything_stored_for_a_project_is_deleted(
    state: State, weights: BentoModels
) -> None:
    fill(state, weights, ONE)
    found = count_stored(state, ONE)

    forget_project(state, weights, "me", ONE)

    assert found._asdict() == {
        "annotations": 3,
        "tasks": 3,
        "jobs": 2,
        "versions": 2,
        "values": 3,
        "weights": 10,
    }
    assert dump(state) == {}
    assert weights.tags(store_name("me", ONE)) == []
    assert set(count_stored(state, ONE)) == {0}


def test_another_project_with_the_same_id_is_unchanged(
    state: State, weights: BentoModels
) -> None:
    fill(state, weights, SAME_ID)
    before = dump(state)
    fill(state, weights, ONE)

    forget_project(state, weights, "me", ONE)

    assert dump(state) == before
    assert len(weights.tags(store_name("me", SAME_ID))) == 2


def test_a_deleted_project_can_start_again(state: State, weights: BentoModels) -> None:
    fill(state, weights, ONE)
    forget_project(state, weights, "me", ONE)

    annotate(state, ONE, 1)

    assert count_stored(state, ONE).annotations == 1
    [job] = JobStore(state).jobs()
    assert job.new_annotations == 1
    assert Versions(state).pointer(ONE).version is None


def test_no_change_deletes_too_many_keys(tmp_path: Path, weights: BentoModels) -> None:
    state = open_state("sqlite", tmp_path)
    annotate(state, ONE, *range(3 * KEYS))
    ran(state)
    for number in range(KEYS):
        annotate(state, ONE, number + 10_000)
        ran(state)
    watched = Watched(state)

    forget_project(watched, weights, "me", ONE)  # type: ignore[arg-type]

    assert dump(state) == {}
    assert max(watched.deleted) <= KEYS + 20
    assert len(watched.deleted) > 10
    state.close()


class Watched:
    """A state whose changes are counted."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.deleted: list[int] = []
        self.get, self.scan, self.each = state.get, state.scan, state.each
        self.projects, self.read = state.projects, state.read

    def change(self, work: Callable[[Change], _Answer], wait_s: float = 2) -> _Answer:
        def counted(change: Change) -> _Answer:
            delete, gone = change.delete, set()

            def count(key: str) -> None:
                gone.add(key)
                delete(key)

            change.delete = count  # type: ignore[method-assign]
            answer = work(change)
            self.deleted.append(len(gone))
            return answer

        return self._state.change(counted, wait_s)


@on_every_state
def test_a_running_job_is_cancelled_and_awaited(
    state: State, weights: BentoModels
) -> None:
    annotate(state, ONE, 1)
    job_store = JobStore(state)
    lease = JobStore(state, lambda: time.time() + 100).lease("me")
    assert lease is not None

    def run() -> None:
        while not job_store.renew(lease):
            time.sleep(0.05)
        job_store.fail(lease, "stopped")

    running = threading.Thread(target=run)
    running.start()
    forget_project(state, weights, "me", ONE)
    running.join()

    assert dump(state) == {}


def test_a_job_of_a_dead_worker_ends_with_its_lease(
    tmp_path: Path, weights: BentoModels
) -> None:
    state = open_state("sqlite", tmp_path)
    annotate(state, ONE, 1)
    long_ago = time.time() + 100
    lease = JobStore(state, lambda: long_ago).lease("gone")
    assert lease is not None
    earlier = lease.job.with_(lease_until=time.time() - LEASE_S)
    state.change(lambda c: c.put(key_of("job", earlier.id), earlier.model_dump_json()))

    forget_project(state, weights, "me", ONE)

    assert dump(state) == {}
    state.close()


def test_a_job_that_does_not_stop_prevents_the_deletion(
    tmp_path: Path, weights: BentoModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsml_bento.projects.deletion.STOP_S", 0.3)
    state = open_state("sqlite", tmp_path)
    annotate(state, ONE, 1)
    assert JobStore(state, lambda: time.time() + 100).lease("stubborn") is not None

    with pytest.raises(StillRunning, match=r"is running on stubborn and does not stop"):
        forget_project(state, weights, "me", ONE)

    assert count_stored(state, ONE).annotations == 1
    assert JobStore(state).jobs()[0].status is JobStatus.RUNNING
    state.close()


def test_weights_that_cannot_be_deleted_keep_the_project(tmp_path: Path) -> None:
    class Full(BentoModels):
        def delete(self, tag: str) -> None:
            raise WeightsError("the store is read-only")

    state = open_state("sqlite", tmp_path)
    weights = BentoModels(tmp_path / "models")
    fill(state, weights, ONE)

    with pytest.raises(WeightsError):
        forget_project(state, Full(tmp_path / "models"), "me", ONE)

    assert len(Versions(state).all(ONE)) == 2
    assert ONE in state.projects()
    forget_project(state, weights, "me", ONE)
    assert dump(state) == {}
    state.close()


def test_a_job_that_is_queued_during_the_deletion_is_run(tmp_path: Path) -> None:
    class Meanwhile(BentoModels):
        def delete(self, tag: str) -> None:
            queued.append(annotate(state, ONE, 7))
            super().delete(tag)

    queued: list[str] = []
    state = open_state("sqlite", tmp_path)
    fill(state, BentoModels(tmp_path / "models"), ONE)

    forget_project(state, Meanwhile(tmp_path / "models"), "me", ONE)

    assert ran(state) == queued[0]
    state.close()


@pytest.mark.parametrize("pointer_is_seen", [True, False])
def test_a_server_returns_to_the_base(tmp_path: Path, pointer_is_seen: bool) -> None:
    store = Store(open_state("memory", tmp_path), tmp_path / "models")
    process = Process(Named, store)
    process.setup(ONE)
    store.promote("v1", ONE)
    process.follower.follow()
    assert process.predict(ONE) == ("v1", "v1")

    forget_project(store.state, store.weights, "test", ONE)
    if pointer_is_seen:  # as it is between two of the steps
        store.state.change(partial(move, project=ONE, version=None))
    process.follower.follow()

    assert process.predict(ONE) == ("base", "base")
