"""Which version serves, what it brings along, and who may not change that."""

from __future__ import annotations

import json
import math
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.contract import Project
from lsml_bento.errors import LeaseLost, VersionInUse, VersionNotFound
from lsml_bento.jobs.events import Event
from lsml_bento.jobs.job import LEASE_S
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.model.training_policy import START_TRAINING, TrainingRules
from lsml_bento.state.store import Change, State, identify, key_of
from lsml_bento.versions.registry import Pointer, Version, Versions, move, promote
from tests.states import RULE_KINDS, each_state, on_every_state, open_state

state = pytest.fixture(params=RULE_KINDS)(each_state)

ONE = Project("1", 100)
TWO = Project("1", 200)
EACH = TrainingRules(each_event=True)


@pytest.fixture
def versions(state: State) -> Versions:
    state.write(ONE, {"model_version": "base"})
    return Versions(state)


def made(name: str, at: float = 0.0, **more: Any) -> Version:
    return Version(version=name, created_at=at, **more)


def promoted(
    state: State, *names: str, project: Project = ONE, **more: Any
) -> list[str | None]:
    """What is said about each version when it is promoted, one after the other."""
    new = [made(name, number, **more) for number, name in enumerate(names)]
    return [
        state.change(lambda c, v=version: promote(c, project, v))  # type: ignore[misc]
        for version in new
    ]


def names(found: list[Version]) -> list[str]:
    return [version.version for version in found]


class TestTheOneThatServes:
    def test_before_any_training_the_base_serves(self, versions: Versions) -> None:
        assert versions.pointer(ONE) == Pointer()
        assert versions.active(ONE) is None
        assert versions.all(ONE) == []
        assert versions.pointers() == {}

    def test_the_last_promoted_version_serves(
        self, versions: Versions, state: State
    ) -> None:
        assert promoted(state, "v1", "v2") == [None, None]

        active = versions.active(ONE)
        assert active is not None
        assert active.version == "v2"
        assert versions.pointer(ONE) == Pointer(
            version="v2", moves=2, history=[None, "v1"]
        )
        assert names(versions.all(ONE)) == ["v2", "v1"]

    def test_a_version_is_read_as_it_was_stored(
        self, versions: Versions, state: State
    ) -> None:
        version = made(
            "v1",
            12.5,
            tag="ner-p1.100:x",
            manifest={"a/b.bin": (5, "abc")},
            metrics={"f1": 0.5, "loss": None},
            job="j",
            parent="v0",
            label_config="<View/>",
            values={"é\0\x1f": [1, {"a": None}], "inf": math.inf, "odd": "\udce9"},
            afresh=True,
        )
        state.change(lambda change: promote(change, ONE, version))

        assert versions.find(ONE, "v1") == version
        assert versions.all(ONE) == [version]
        assert versions.tags() == {"ner-p1.100:x"}
        assert version.public(active=True) == {
            "version": "v1",
            "tag": "ner-p1.100:x",
            "active": True,
            "metrics": {"f1": 0.5, "loss": None},
            "created_at": "1970-01-01T00:00:12.500Z",
            "job": "j",
        }

    def test_infinite_metrics_are_read_as_they_were_stored(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", values={"nan": math.nan, "odd": "\udce9"})
        assert math.isnan(state.read(ONE)["nan"])
        promoted(state, "v2")
        versions.rollback(ONE)

        assert math.isnan(state.read(ONE)["nan"])
        assert state.read(ONE)["odd"] == "\udce9"

    def test_projects_are_separate(self, versions: Versions, state: State) -> None:
        promoted(state, "v1")
        promoted(state, "v2", project=TWO)

        assert names(versions.all(ONE)) == ["v1"]
        found = {project: one.version for project, one in versions.pointers().items()}
        assert found == {ONE: "v1", TWO: "v2"}
        with pytest.raises(VersionNotFound):
            versions.activate(ONE, "v2")

    def test_an_older_one_is_activated(self, versions: Versions, state: State) -> None:
        promoted(state, "v1", "v2")

        assert versions.activate(ONE, "v1").version == "v1"
        assert promoted(state, "v3") == [None], "it is not pinned"
        assert versions.pointer(ONE).version == "v3"

    def test_the_base_is_activated_by_its_name(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1")

        assert versions.activate(ONE, "base").version is None
        assert versions.active(ONE) is None

    def test_a_pinned_version_keeps_serving(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", "v2")
        versions.activate(ONE, "v1", pin=True)

        [said] = promoted(state, "v3")

        assert said == "v3 was stored, but v1 is pinned and keeps serving"
        assert versions.pointer(ONE).version == "v1"
        assert names(versions.all(ONE)).count("v3") == 1
        versions.activate(ONE, "v1")
        assert promoted(state, "v4") == [None]
        assert versions.pointer(ONE).version == "v4"

    def test_the_base_can_be_pinned(self, versions: Versions, state: State) -> None:
        versions.activate(ONE, "base", pin=True)

        assert promoted(state, "v1") == [
            "v1 was stored, but the base is pinned and keeps serving"
        ]

    @pytest.mark.parametrize("name", ["nonsense", "", "v1\x1f", "v" * 1_000])
    def test_an_unknown_version_is_an_error_in_one_sentence(
        self, versions: Versions, state: State, name: str
    ) -> None:
        promoted(state, "v1")
        for call in (versions.find, versions.activate, versions.delete):
            with pytest.raises(VersionNotFound, match="`lsml-bento versions list`"):
                call(ONE, name)
        assert versions.pointer(ONE).version == "v1"

    def test_a_project_without_a_base_s_name_has_no_base_to_activate(
        self, state: State
    ) -> None:
        with pytest.raises(VersionNotFound, match=r"project 1\.100 has no version"):
            Versions(state).activate(ONE, "base")


class TestRollback:
    def test_rollback_goes_back_one_version_at_a_time(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", "v2", "v3")

        found = [versions.rollback(ONE).version for _ in range(3)]

        assert found == ["v2", "v1", None]
        with pytest.raises(VersionNotFound, match="no other version before the base"):
            versions.rollback(ONE)

    def test_rollback_skips_deleted_versions(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", "v2", "v3")
        versions.delete(ONE, "v2")

        assert versions.rollback(ONE).version == "v1"

    def test_rollback_skips_the_serving_version(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", "v2")
        versions.activate(ONE, "v1")
        versions.activate(ONE, "v1")

        assert versions.rollback(ONE).version == "v2"

    def test_every_move_is_seen_even_back_and_forth(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", "v2")
        moves = [versions.pointer(ONE).moves]
        for name in ("v1", "v2", "v2"):
            moves.append(versions.activate(ONE, name).moves)
        moves.append(versions.rollback(ONE).moves)

        assert moves == [2, 3, 4, 5, 6]

    def test_the_history_is_limited(self, versions: Versions, state: State) -> None:
        promoted(state, *(f"v{number}" for number in range(40)))

        history = versions.pointer(ONE).history
        assert history == [f"v{number}" for number in range(19, 39)]


class TestReload:
    def test_the_base_is_loaded_again_under_a_new_name(
        self, versions: Versions
    ) -> None:
        new = versions.reload(ONE)

        assert (new.version, new.parent, new.afresh) == ("base+1", None, True)
        assert versions.active(ONE) == new
        assert versions.rollback(ONE).version is None

    def test_a_version_keeps_its_weights_values_and_pin(
        self, versions: Versions, state: State
    ) -> None:
        promoted(
            state, "v1", tag="a:b", values={"x": 1}, label_config="<View/>", job="j"
        )
        versions.activate(ONE, "v1", pin=True)

        new = versions.reload(ONE)

        assert (new.version, new.parent, new.job) == ("v1+3", "v1", None)
        assert (new.tag, new.values, new.label_config) == ("a:b", {"x": 1}, "<View/>")
        assert versions.pointer(ONE).pinned
        assert state.read(ONE)["x"] == 1

    def test_no_name_is_used_twice(self, versions: Versions, state: State) -> None:
        promoted(state, "base+7")
        assert versions.reload(ONE).version == "base+8"
        versions.rollback(ONE)
        versions.delete(ONE, "base+8")
        versions.rollback(ONE)
        reloaded = [versions.reload(ONE).version for _ in range(4)]
        assert reloaded == ["base+8", "base+9", "base+10", "base+11"]

    def test_a_project_without_a_model_is_refused(self, versions: Versions) -> None:
        with pytest.raises(VersionNotFound, match="has no model yet"):
            versions.reload(TWO)


class TestValues:
    def test_values_set_by_a_fit_belong_to_its_version(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", values={"vocabulary": ["a"]})
        promoted(state, "v2", values={"vocabulary": ["a", "b"], "more": 1})
        assert state.read(ONE) == {
            "model_version": "base",
            "vocabulary": ["a", "b"],
            "more": 1,
        }

        versions.rollback(ONE)
        assert state.read(ONE) == {"model_version": "base", "vocabulary": ["a"]}
        versions.activate(ONE, "base")
        assert state.read(ONE) == {"model_version": "base"}
        versions.activate(ONE, "v2")
        assert state.read(ONE)["vocabulary"] == ["a", "b"]

    def test_values_from_before_any_fit_return_with_the_base(
        self, versions: Versions, state: State
    ) -> None:
        state.write(ONE, {"threshold": 0.5, "untouched": 1})
        promoted(state, "v1", values={"threshold": 0.7})
        promoted(state, "v2", values={"other": 1})
        assert state.read(ONE)["threshold"] == 0.5
        promoted(state, "v3", values={"threshold": 0.9})

        versions.activate(ONE, "v1")
        assert state.read(ONE)["threshold"] == 0.7
        versions.activate(ONE, "base")
        assert state.read(ONE) == {
            "model_version": "base",
            "threshold": 0.5,
            "untouched": 1,
        }

    def test_values_of_a_version_that_does_not_serve_are_not_visible(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", values={"a": 1})
        versions.activate(ONE, "v1", pin=True)
        promoted(state, "v2", values={"a": 2})

        assert state.read(ONE)["a"] == 1
        versions.activate(ONE, "v2")
        assert state.read(ONE)["a"] == 2


class TestDeleting:
    def test_a_serving_or_pinned_version_cannot_be_deleted(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", "v2")
        versions.activate(ONE, "v1", pin=True)

        with pytest.raises(VersionInUse, match=r"'v1' of project 1\.100 is serving"):
            versions.delete(ONE, "v1")
        assert versions.delete(ONE, "v2").version == "v2"
        assert names(versions.all(ONE)) == ["v1"]

    def test_weights_that_another_version_uses_are_not_returned_for_deletion(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", "v2", tag="ner:one")
        promoted(state, "v3")

        assert versions.delete(ONE, "v1").tag is None
        assert versions.delete(ONE, "v2").tag == "ner:one"

    def test_the_newest_versions_and_the_serving_one_are_kept(
        self, versions: Versions, state: State
    ) -> None:
        for number in range(6):
            version = made(f"v{number}", number, tag=f"ner:{number}")
            state.change(lambda c, v=version: promote(c, ONE, v))  # type: ignore[misc]
        versions.activate(ONE, "v1")

        gone = versions.retire(ONE, keep=2)

        assert names(versions.all(ONE)) == ["v5", "v4", "v1"]
        assert {version.tag for version in gone} == {"ner:0", "ner:2", "ner:3"}
        assert versions.retire(ONE, keep=2) == []
        assert versions.retire(ONE, keep=0) != []
        assert names(versions.all(ONE)) == ["v1"]

    def test_weights_that_a_version_uses_outlive_their_first_version(
        self, versions: Versions, state: State
    ) -> None:
        promoted(state, "v1", "v2", "v3", tag="ner:one")

        assert versions.retire(ONE, keep=1) == []
        assert names(versions.all(ONE)) == ["v3"]


class TestRaces:
    def leased(self, job_store: JobStore, project: Project = ONE) -> Lease:
        job_store.enqueue(Event(START_TRAINING, project), EACH)
        lease = job_store.lease("worker")
        assert lease is not None
        return lease

    def test_a_promotion_and_the_end_of_its_job_are_one(
        self, versions: Versions, state: State
    ) -> None:
        job_store = JobStore(state)
        lease = self.leased(job_store)
        versions.activate(ONE, "base", pin=True)

        job = job_store.succeed(
            lease, "v1", {}, also=lambda change: promote(change, ONE, made("v1"))
        )

        assert job.note == "v1 was stored, but the base is pinned and keeps serving"
        assert names(versions.all(ONE)) == ["v1"]

    def test_a_worker_that_lost_its_lease_promotes_nothing(
        self, versions: Versions, state: State
    ) -> None:
        now = time.time()
        job_store = JobStore(state, now=lambda: now)
        lost = self.leased(job_store)
        now += LEASE_S + 1
        job_store.expire()
        holder = job_store.lease("other")
        assert holder is not None

        with pytest.raises(LeaseLost):
            job_store.succeed(
                lost, "v1", {}, also=lambda change: promote(change, ONE, made("v1"))
            )

        assert versions.all(ONE) == []
        assert versions.pointer(ONE) == Pointer()
        job_store.succeed(
            holder, "v2", {}, also=lambda change: promote(change, ONE, made("v2"))
        )
        assert versions.pointer(ONE).version == "v2"

    @on_every_state
    def test_promotions_rollbacks_and_deletions_at_once_leave_a_whole(
        self, versions: Versions, state: State
    ) -> None:
        errors: list[BaseException] = []
        # Else all versions of a thread that is behind are the oldest, and go at once:
        # twenty of them in a row leave a rollback nothing to go back to.
        clock = count()

        def run(number: int) -> None:
            try:
                for step in range(12):
                    name = f"v{number}.{step}"
                    version = made(
                        name, next(clock), tag=f"ner:{name}", values={"made": name}
                    )
                    state.change(lambda c, v=version: promote(c, ONE, v))  # type: ignore[misc]
                    if step % 3 == 1:
                        versions.rollback(ONE)
                    if step % 3 == 2:
                        versions.retire(ONE, keep=8)
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert errors == []
        pointer, active = versions.pointer(ONE), versions.active(ONE)
        assert pointer.moves == 4 * (12 + 4)
        made_by = None if active is None else active.version
        assert pointer.version == made_by
        assert state.read(ONE).get("made") == made_by


def test_1_000_versions_are_listed_within_a_second(tmp_path: Path) -> None:
    state = open_state("sqlite", tmp_path)
    version = made(
        "v",
        tag="ner-p1.100:20261123t100000-abcdef",
        manifest={f"layer-{n}.safetensors": (10**9, "f" * 64) for n in range(20)},
        metrics={"f1": 0.5},
        label_config="<View/>" * 50,
        values={"vocabulary": ["word"] * 100},
    )
    stored = version.model_dump()

    def fill(change: Change) -> None:
        for number in range(1_000):
            key = key_of("version", *identify(ONE), f"v{number}")
            entry = {**stored, "version": f"v{number}", "created_at": number}
            change.put(key, json.dumps(entry))
        move(change, ONE, "v5")

    state.change(fill)
    versions = Versions(state)
    took = []
    for _ in range(3):
        start = time.thread_time()  # SQLite works in this thread
        found = versions.all(ONE)
        active = versions.active(ONE)
        took.append(time.thread_time() - start)
    state.close()

    assert len(found) == 1_000
    assert found[0].version == "v999"
    assert active is not None
    assert active.version == "v5"
    assert min(took) < 0.5
