"""The store keeps the newest state of what webhooks sent, in whatever order."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsml_bento.contract import Project, Task
from lsml_bento.errors import BadRequest
from lsml_bento.jobs.annotations import AnnotationStore, observe, record
from lsml_bento.jobs.events import Event, parse_event
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.training_policy import TrainingRules
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import Change, State, resolve
from tests.backend.test_contract_replay import RECORDED, request_of
from tests.states import RULE_KINDS, each_state, open_state

state = pytest.fixture(params=RULE_KINDS)(each_state)

CREATED_AT = "2026-11-23T09:34:49.839721Z"
ONE = Project("1", 1795426489)
TWO = Project("2", 1795426489)
WEBHOOKS = [name for name in RECORDED if request_of(name)[1] == "/webhook"]


def body_of(number: int) -> dict[str, Any]:
    """The body of the recorded request of this number."""
    name = next(name for name in RECORDED if name.startswith(f"{number:03}-"))
    body: dict[str, Any] = request_of(name)[3]
    return body


def take(state: State, *bodies: dict[str, Any]) -> list[list[Any]]:
    """What each event changed."""
    events = [parse_event(body) for body in bodies]

    def work(change: Change) -> list[list[Any]]:
        return [
            record(change, e.for_project(resolve(e.project, change))) for e in events
        ]

    return state.change(work)


def see(state: State, *tasks: Task, project: Project = ONE) -> None:
    state.change(lambda change: observe(change, project, tasks))


def kept(state: State, project: Project = ONE) -> list[Task]:
    return list(AnnotationStore(state).annotated_tasks(project))


def answers(state: State, project: Project = ONE) -> dict[Any, dict[Any, Any]]:
    """What was answered, by task and annotation."""
    return {
        task["id"]: {one["id"]: one.get("result") for one in task["annotations"]}
        for task in kept(state, project)
    }


def stamp(at: int) -> str:
    return f"2026-11-23T10:{at // 60:02}:{at % 60:02}.000000Z"


def task_of(id_: int, at: int = 0, **more: Any) -> Task:
    return {"id": id_, "data": {"text": f"{id_}"}, "updated_at": stamp(at), **more}


def answer(id_: int, at: int = 0, *, task: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": id_, "task": task, "result": [at], "updated_at": stamp(at), **more}


def about(
    annotation: Any, task: Any = None, action: str = "ANNOTATION_UPDATED", **more: Any
) -> dict[str, Any]:
    if task is None:
        task = task_of(annotation["task"])
    project = {"id": 1, "created_at": CREATED_AT, **more}
    return {"action": action, "annotation": annotation, "task": task} | {
        "project": project
    }


def deleted(*ids: int) -> dict[str, Any]:
    return {
        "action": "ANNOTATIONS_DELETED",
        "annotations": [{"id": one} for one in ids],
        "project": {"id": 1, "created_at": CREATED_AT},
    }


def tasks_deleted(*ids: int) -> dict[str, Any]:
    return {
        "action": "TASKS_DELETED",
        "tasks": [{"id": one} for one in ids],
        "project": {"id": 1, "created_at": CREATED_AT},
    }


class TestTheRecording:
    def test_a_created_and_an_updated_annotation_stand_with_their_task(
        self, state: State
    ) -> None:
        created, updated = body_of(37), body_of(38)

        assert take(state, created, updated) == [[3], [3]]

        [task] = kept(state, TWO)
        assert (task["id"], task["data"]) == (4, {"text": "Ann works at Acme"})
        assert task["annotations"] == [updated["annotation"]]
        assert (
            task["annotations"][0]["updated_at"] > created["annotation"]["updated_at"]
        )

    def test_the_same_events_the_other_way_round_and_twice_change_nothing_more(
        self, state: State
    ) -> None:
        created, updated = body_of(37), body_of(38)

        changed = take(state, updated, created, updated, created)

        assert changed == [[3], [], [], []]
        assert kept(state, TWO)[0]["annotations"] == [updated["annotation"]]

    def test_a_skipped_task_does_not_count_as_annotated(self, state: State) -> None:
        assert take(state, body_of(39)) == [[]]
        assert kept(state, TWO) == []

    def test_lists_of_annotations_are_taken_one_by_one(self, state: State) -> None:
        body = body_of(41)

        assert take(state, body) == [[5]]

        [task] = kept(state, TWO)
        assert task["id"] == 5
        assert task["annotations"] == body["annotation"]

    def test_what_was_deleted_is_gone_and_stays_so(self, state: State) -> None:
        created, updated, gone = body_of(37), body_of(38), body_of(40)

        changed = take(state, created, gone, gone, updated, created)

        assert changed == [[3], ["3"], [], [], []]
        assert kept(state, TWO) == []

    def test_many_are_deleted_at_once(self, state: State) -> None:
        take(state, body_of(41))

        assert take(state, body_of(42)) == [["4", "5", "2"]]
        assert kept(state, TWO) == []

    def test_imported_tasks_are_known_and_have_no_answers(self, state: State) -> None:
        assert take(state, body_of(34), body_of(35), body_of(36)) == [[], [], []]
        assert kept(state, TWO) == []
        found = AnnotationStore(state).any_task(TWO)
        assert found is not None
        assert found["data"] == {"text": "new one"}

        take(state, body_of(46))  # two of the four

        found = AnnotationStore(state).any_task(TWO)
        assert found is not None
        assert found["data"] == {"text": "pre annotated"}

    def test_the_label_config_that_the_project_got_is_the_one_that_is_kept(
        self, state: State
    ) -> None:
        before, changed = body_of(43), body_of(44)
        old, new = (body["project"]["label_config"] for body in (before, changed))
        assert old != new

        take(state, before)
        assert state.read(TWO)["label_config"] == old
        take(state, changed)
        assert state.read(TWO)["label_config"] == new
        take(state, before, body_of(37))
        assert state.read(TWO)["label_config"] == new, "of an event that came late"

    def test_an_event_without_a_payload_says_nothing(self, state: State) -> None:
        for number in (48, 61, 75):
            event = parse_event(body_of(number))

            assert event == Event(event.action, Project(""))
            state.change(lambda c, event=event: record(c, event.for_project(ONE)))  # type: ignore[misc]
        assert kept(state) == []
        assert state.read(ONE) == {}

    def test_the_whole_recording_leaves_no_secret_behind(self, state: State) -> None:
        job_store = JobStore(state)
        for name in WEBHOOKS:
            body = request_of(name)[3]
            if isinstance(project := body.get("project"), dict):
                assert project["token"] == "dummy-access-token"
                project |= {"task_data_login": "a-login", "task_data_password": "a-pw"}
            event = parse_event(body)
            if not event.project.id:
                assert event.data == {}
                continue
            event = event.for_project(resolve(event.project, state))
            state.change(lambda change, event=event: record(change, event))  # type: ignore[misc]
            for each_event in (True, False):
                job_store.enqueue(event, TrainingRules(each_event=each_event))

        everything = list(state.each(""))
        assert len(everything) > 50
        assert AnnotationStore(state).total(TWO) is not None
        for key, value in everything:
            for secret in ("dummy-access-token", "a-login", "a-pw"):
                assert secret not in key
                assert secret not in value


class TestEvents:
    def test_an_annotation_waits_for_its_task(
        self, state: State, caplog: pytest.LogCaptureFixture
    ) -> None:
        take(state, about(answer(1, task=9), task={}))
        with caplog.at_level(logging.WARNING):
            assert kept(state) == []
        assert "Annotations left out: their tasks are unknown" in caplog.text

        take(
            state,
            {
                "action": "TASKS_CREATED",
                "tasks": [task_of(9)],
                "project": {"id": 1, "created_at": CREATED_AT},
            },
        )

        assert answers(state) == {9: {1: [0]}}

    def test_an_annotation_of_a_deleted_task_stays_out(self, state: State) -> None:
        take(state, about(answer(1)), about(answer(2, task=2)))
        take(state, tasks_deleted(1), about(answer(1, 5)), about(answer(3)))

        assert answers(state) == {2: {2: [0]}}

    def test_an_annotation_that_is_deleted_before_it_came_stays_out(
        self, state: State
    ) -> None:
        changed = take(state, deleted(1), about(answer(1)), about(answer(2)))

        assert changed == [["1"], [], [2]]
        assert answers(state) == {1: {2: [0]}}

    def test_an_annotation_that_was_finally_skipped_does_not_count(
        self, state: State
    ) -> None:
        take(state, about(answer(1)), about(answer(1, 1, was_cancelled=True)))
        assert kept(state) == []

        assert take(state, about(answer(1, 2))) == [[1]]
        assert answers(state) == {1: {1: [2]}}

    def test_predictions_drafts_and_other_annotations_are_not_kept_with_a_task(
        self, state: State
    ) -> None:
        heavy = task_of(1, predictions=[1], drafts=[2], annotations=[3])
        take(state, about(answer(1), heavy))

        [task] = kept(state)
        assert task == {**task_of(1), "annotations": [answer(1)]}

    def test_tasks_and_annotations_come_in_the_order_of_their_numbers(
        self, state: State
    ) -> None:
        for id_ in (10, 9, 100, 1):
            take(state, about(answer(id_, task=id_)), about(answer(id_ + 1, task=id_)))

        assert [task["id"] for task in kept(state)] == [1, 9, 10, 100]
        assert [one["id"] for one in kept(state)[2]["annotations"]] == [10, 11]

    def test_projects_are_separate(self, state: State) -> None:
        take(state, about(answer(1)), about(answer(1), id=3))
        take(state, {**about(answer(1, 5)), "project": "1.5"})

        assert answers(state) == {1: {1: [0]}}
        assert answers(state, Project("3", ONE.created_at)) == {1: {1: [0]}}
        assert answers(state, Project("1", 5)) == {1: {1: [5]}}
        assert kept(state, Project("4", 5)) == []

    def test_the_count_of_label_studio_is_the_last_one_that_is_one(
        self, state: State
    ) -> None:
        store = AnnotationStore(state)
        assert store.total(ONE) is None
        for number in (3, True, "4", None, 5.5):
            take(state, about(answer(1), total_annotations_number=number))

        assert store.total(ONE) == 3

    @pytest.mark.parametrize(
        "times",
        [
            ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00.000001Z"),
            ("2026-11-23T12:00:00+02:00", "2026-11-23T10:00:01Z"),
            ("2026-11-23T10:00:00", "2026-11-23T10:00:01+00:00"),
            ("0999-01-01T00:00:00Z", "2026-11-23T10:00:01Z"),
            ("0001-01-01T00:00:00+23:59", "2026-11-23T10:00:01Z"),
        ],
    )
    def test_times_are_compared_as_times(
        self, state: State, times: tuple[str, str]
    ) -> None:
        old, new = (
            about({"id": 1, "task": 1, "result": [time], "updated_at": time})
            for time in times
        )
        take(state, old, new)
        assert answers(state) == {1: {1: [times[1]]}}
        if not times[0].startswith("0001"):  # which no calendar has in UTC
            take(state, old)
            assert answers(state) == {1: {1: [times[1]]}}

    def test_what_has_no_time_is_as_new_as_its_arrival(self, state: State) -> None:
        for number in (1, 2):
            assert take(state, about({"id": 1, "task": 1, "result": [number]})) == [[1]]

        assert answers(state) == {1: {1: [2]}}

    def test_a_payload_nested_deeper_than_json_goes_is_left_out(
        self, state: State
    ) -> None:
        deep: Any = []
        for _ in range(950):
            deep = [deep]

        assert take(state, about({**answer(1), "result": deep})) == [[]]
        see(state, task_of(1, annotations=[{**answer(2), "result": deep}]))

        assert kept(state) == []


class TestPredict:
    def test_annotations_inside_tasks_are_taken(self, state: State) -> None:
        see(state, task_of(1, annotations=[answer(1), answer(2)]), task_of(2))

        assert answers(state) == {1: {1: [0], 2: [0]}}

    def test_the_recorded_requests_bring_theirs(self, state: State) -> None:
        for name in RECORDED:
            body = request_of(name)[3]
            if request_of(name)[1] == "/predict":
                see(state, *body["tasks"])

        assert {6, 4, 1570} <= set(answers(state))
        assert len(answers(state)[4]) == 4

    def test_an_event_says_more_than_a_task_that_was_seen_before_it(
        self, state: State
    ) -> None:
        see(state, task_of(1, annotations=[answer(1, 3, result=["seen"])]))

        assert take(state, about(answer(1, 3, result=["told"]))) == [[1]]
        assert take(state, about(answer(1, 3, result=["told"]))) == [[]]
        see(state, task_of(1, annotations=[answer(1, 3, result=["seen"])]))
        assert answers(state) == {1: {1: ["told"]}}
        see(state, task_of(1, annotations=[answer(1, 4, result=["newer"])]))
        assert answers(state) == {1: {1: ["newer"]}}

    def test_tasks_and_annotations_without_a_usable_id_are_left_out(
        self, state: State
    ) -> None:
        see(
            state,
            {"data": {}, "annotations": [answer(1)]},
            {"id": None, "data": {}, "annotations": [answer(1)]},
            {"id": "\x1f", "data": {}, "annotations": [answer(1)]},
            {"id": 1, "data": {}, "annotations": {"id": 5, "result": []}},
            {"id": 2, "data": {}, "annotations": [None, 3, {"result": []}]},
        )

        assert answers(state) == {1: {5: []}}

    def test_what_was_deleted_does_not_come_back(self, state: State) -> None:
        take(state, deleted(1))
        take(state, tasks_deleted(2))
        see(state, task_of(1, annotations=[answer(1)]))
        see(state, task_of(2, annotations=[answer(2, task=2)]))

        assert kept(state) == []


# Laws

OLD = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
"""An annotation's id, its task, and when it was changed."""


@given(
    states=st.lists(OLD, min_size=1, max_size=12),
    gone=st.sets(st.integers(11, 34), max_size=3),
    data=st.data(),
)
def test_any_order_and_repetition_of_events_ends_with_the_newest(
    states: list[tuple[int, int, int]], gone: set[int], data: st.DataObject
) -> None:
    expected: dict[int, dict[int, int]] = {}
    bodies = [deleted(*gone)] if gone else []
    for number, task, at in states:
        id_ = 10 * task + number  # an annotation stays with its task
        bodies.append(about(answer(id_, at, task=task), task_of(task, at)))
        if id_ not in gone:
            answers_of = expected.setdefault(task, {})
            answers_of[id_] = max(at, answers_of.get(id_, 0))
    again = data.draw(st.lists(st.sampled_from(bodies), max_size=6))
    order = data.draw(st.permutations([*bodies, *again]))
    state = MemoryState()

    for body in order:
        take(state, body)

    found = {
        task: {id_: result[0] for id_, result in of.items()}
        for task, of in answers(state).items()
    }
    assert found == expected
    newest = {
        task: max(at for _, other, at in states if other == task) for task in expected
    }
    assert {task["id"]: task["updated_at"] for task in kept(state)} == {
        task: stamp(at) for task, at in newest.items()
    }


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)  # more is a float when orjson has read it
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([CREATED_AT, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59-01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("id", "task", "data", "updated_at", "created_at"),
                    *("was_cancelled", "annotations", "label_config", "token"),
                    "total_annotations_number",
                ]
            )
            | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
KEYS = ("annotation", "task", "tasks", "annotations", "project", "params")
ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATIONS_DELETED",
    "ANNOTATION_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
    "PROJECT_UPDATED",
    "START_TRAINING",
    "SOMETHING_ELSE",
)


@given(
    bodies=st.lists(
        st.fixed_dictionaries(
            {"action": st.sampled_from(ACTIONS)},
            optional={
                **dict.fromkeys(KEYS, JSON),
                "project": JSON | st.just({"id": 1, "created_at": CREATED_AT}),
            },
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=300, deadline=None)
def test_no_payload_is_an_error(bodies: list[dict[str, Any]]) -> None:
    state = MemoryState()
    job_store = JobStore(state)
    for body in bodies:
        try:
            event = parse_event(body)
        except BadRequest:
            assert "project" in body, "all else is left out"
            continue
        again = parse_event(json.loads(json.dumps(event.body)))
        assert repr(again) == repr(event)
        event = event.for_project(resolve(event.project, state))
        take(state, body)
        see(state, *(t for t in [body.get("task")] if isinstance(t, dict)))
        if event.project.id:
            for each_event in (False, True):
                rules = TrainingRules(actions=ACTIONS, each_event=each_event)
                job_store.enqueue(event, rules)
    for project in state.projects():
        kept(state, project)
        AnnotationStore(state).total(project)
        AnnotationStore(state).any_task(project)
        state.read(project)
    while (lease := job_store.lease("worker")) is not None:
        job_store.data(lease.job.id)
        job_store.events(lease.job.id)
        job_store.succeed(lease, None, {})


_CLONE = """
WITH RECURSIVE numbers(n) AS (SELECT 100000 UNION ALL SELECT n + 1 FROM numbers
                              WHERE n < 199998)
INSERT INTO entries
SELECT replace(key, '987654', n), replace(value, '987654', n) FROM entries, numbers
WHERE key LIKE 'journal%'
"""


def test_100_000_tasks_are_read_in_the_memory_of_a_page(tmp_path: Path) -> None:
    state = open_state("sqlite", tmp_path)
    task = task_of(987_654, data={"text": "word " * 40})
    take(state, about(answer(987_654, task=987_654), task))
    with closing(sqlite3.connect(next(tmp_path.glob("*.db")))) as file:
        file.execute(_CLONE)
        file.commit()
    process = psutil.Process()
    before = process.memory_info().rss

    most = tasks = annotations = 0
    for task in AnnotationStore(state).annotated_tasks(ONE):
        tasks += 1
        annotations += len(task["annotations"])
        if tasks % 1_000 == 0:
            most = max(most, process.memory_info().rss)
    state.close()

    assert (tasks, annotations) == (100_000, 100_000)
    assert most - before < 32 << 20, "all of them take some 200 MiB"


def test_a_broken_label_config_is_left_out_and_said(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    def told(label_config: str) -> None:
        project = {"id": 1, "created_at": 5, "label_config": label_config}
        body = {"action": "PROJECT_UPDATED", "project": project}
        event = parse_event(body).for_project(Project("1", 5))
        state.change(lambda change: record(change, event))

    told("<View><Text name='text' value='$text'/></View>")
    told("<View><Text name='text'")

    assert "Label config left out: the label config is invalid" in caplog.text
    assert state.read(Project("1", 5))["label_config"].endswith("</View>")
