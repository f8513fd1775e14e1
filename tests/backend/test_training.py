"""What people and Label Studio ask about training, below the routes."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.backend.training import KnownRules, Training
from lsml_bento.contract import Project
from lsml_bento.errors import NotFound
from lsml_bento.jobs.event_writer import EventWriter, Receipt
from lsml_bento.jobs.events import Event, parse_event
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.training_policy import TrainingPolicy, TrainingRules
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.projects.overview import known_project, list_versions
from lsml_bento.state.memory import MemoryState
from lsml_bento.versions.registry import Version, Versions, promote

ONE = Project("1", 100)


class Learner(LabelStudioMLBase):
    TRAIN_EVENTS = ("TASKS_CREATED",)
    training = TrainingPolicy(min_new_annotations=3, quiet_s=7, max_wait_s=9)

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        raise NotImplementedError


def serve(state: MemoryState, *names: str, **more: Any) -> None:
    """Promote versions, one after the other."""
    for number, name in enumerate(names):
        made = Version(version=name, created_at=number, **more)
        state.change(lambda change, v=made: promote(change, ONE, v))  # type: ignore[misc]


class TestRules:
    def test_those_of_the_class_count_and_are_kept_for_the_next_start(self) -> None:
        state = MemoryState()
        rules = KnownRules(ModelSource(Learner), state)
        rules.store()
        writes = state.writes
        rules.store()
        assert state.writes == writes

        again = KnownRules(ModelSource("tests.no_such_module:Learner"), state)
        assert again.current() == rules.current()
        assert again.current().wants("TASKS_CREATED")
        assert again.current().policy == Learner.training
        again.store()  # nothing is known of the class yet
        assert again.current() == rules.current()

    def test_before_any_import_every_event_may_be_one_to_learn_from(self) -> None:
        rules = KnownRules(ModelSource("tests.no_such_module:X"), MemoryState())

        assert rules.current() == TrainingRules()

    def test_a_drop_in_directory_gets_a_job_for_each_event(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "model.py").write_text(
            "from label_studio_ml.model import LabelStudioMLBase\n"
        )
        rules = KnownRules(ModelSource("model:Model", tmp_path), MemoryState())

        assert rules.current() == TrainingRules(each_event=True)


def test_a_client_that_disconnects_leaves_the_others_their_answers() -> None:
    """The storing thread keeps running and answers the other clients."""
    stored = threading.Event()

    def wait(_: Job) -> None:
        assert stored.wait(10)

    state = MemoryState()
    rules = KnownRules(ModelSource(Learner), state)
    events = EventWriter(state, rules.current, wait)
    threads = CallThreads(1, "jobs")
    training = Training(events, state, threads, None, wait, lambda _: None)

    def tasks_created(number: int) -> Event:
        return parse_event(
            {
                "action": "TASKS_CREATED",
                "project": {"id": 1, "created_at": "2026-11-23T09:34:49Z"},
                "tasks": [{"id": number, "data": {"text": "a"}}],
            }
        )

    async def ask() -> list[Receipt]:
        gone = asyncio.create_task(training.event(tasks_created(1)))
        others = [asyncio.create_task(training.event(tasks_created(n))) for n in (2, 3)]
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.wait([gone])
        stored.set()
        return await asyncio.wait_for(asyncio.gather(*others), 5)

    receipts = asyncio.run(ask())

    assert receipts[0].job is not None
    assert receipts[0].job == receipts[1].job
    events.close()
    threads.close()


class TestProjects:
    def test_one_is_named_by_its_id_or_by_its_whole_key(self) -> None:
        state = MemoryState()
        for created_at in (100, 300, 200):
            state.write(Project("1", created_at), {"a": 1})

        assert known_project(state, "1") == Project("1", 300)
        assert known_project(state, "1.200") == Project("1", 200)

    @pytest.mark.parametrize("name", ["2", "1.200", "", "..", "1/2", "1.x", "\0", "\n"])
    def test_an_unknown_one_is_reported(self, name: str) -> None:
        state = MemoryState()
        state.write(ONE, {"a": 1})

        with pytest.raises(NotFound):
            known_project(state, name)


class TestVersions:
    def test_a_base_without_a_name_is_not_listed(self) -> None:
        state = MemoryState()
        assert list_versions(state, ONE) == []

        serve(state, "v1")
        assert [one["version"] for one in list_versions(state, ONE)] == ["v1"]

    def test_a_pinned_base_is_shown_as_such(self) -> None:
        state = MemoryState()
        state.write(ONE, {"model_version": "base"})
        Versions(state).activate(ONE, "base", pin=True)
        serve(state, "v1")

        listed = list_versions(state, ONE)

        assert [(v["version"], v["active"], v["pinned"]) for v in listed] == [
            ("v1", False, False),
            ("base", True, True),
        ]

    def test_a_thousand_are_listed_within_a_second(self) -> None:
        state = MemoryState()
        manifest = {f"file-{number}": (number, "0" * 64) for number in range(10)}
        names = [f"v{number}" for number in range(1_000)]
        serve(state, *names, manifest=manifest, label_config="<View/>" * 100)

        took = []
        for _ in range(3):
            start = time.monotonic()
            listed = list_versions(state, ONE)
            took.append(time.monotonic() - start)

        # The fastest: whatever else runs on the machine may hold up one of them.
        assert min(took) < 0.5
        assert [one["version"] for one in listed] == names[::-1]


def test_figures_count_jobs_and_fits() -> None:
    state = MemoryState()
    job_store = JobStore(state)
    rules = TrainingRules(actions=("X",), each_event=True)
    for number in range(3):
        job_store.enqueue(Event("X", Project(str(number), 1)), rules)
    lease = job_store.lease("test")
    assert lease is not None
    job_store.succeed(lease, None, {})

    figures = job_store.figures()

    assert figures["jobs"] == {
        "queued": 2,
        "running": 0,
        "succeeded": 1,
        "failed": 0,
        "cancelled": 0,
    }
    assert figures["fits"] == 1
    assert 0 <= figures["fit_seconds"] < 5
    assert 0 <= figures["oldest_queued_s"] < 5
