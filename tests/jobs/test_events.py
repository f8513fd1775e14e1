"""Webhooks become what happened; what is odd is left out, and so are secrets."""

from __future__ import annotations

from typing import Any

import pytest

from lsml_bento.contract import Project
from lsml_bento.errors import BadRequest
from lsml_bento.jobs.events import annotations_of, has_id, parse_event, without_secrets
from tests.backend.test_contract_replay import RECORDED, request_of

WEBHOOKS = [name for name in RECORDED if request_of(name)[1] == "/webhook"]
CREATED_AT = "2026-11-23T09:34:49.839721Z"


@pytest.mark.parametrize(
    ("body", "project"),
    [
        ({"action": "X"}, Project("")),
        ({"action": "X", "project": None}, Project("")),
        ({"action": "X", "project": 3}, Project("3")),
        ({"action": "X", "project": {"id": 3, "title": "t"}}, Project("3")),
        ({"action": "X", "task": [1], "annotation": []}, Project("")),
        ({"action": "X", "project": {"created_at": CREATED_AT}}, Project("")),
        (
            {"action": "X", "project": {"id": 3, "created_at": "0001-01-01T00:00Z"}},
            Project("3"),
        ),
    ],
)
def test_an_event_needs_an_action_only(body: dict[str, Any], project: Project) -> None:
    event = parse_event(body)

    assert (event.action, event.project) == ("X", project)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "START_TRAINING",
        {},
        {"action": ""},
        {"action": 5},
        {"action": "X" * 101},
        {"action": "X", "project": "../secret"},
        {"action": "X", "project": ["secret"]},
    ],
)
def test_what_names_no_action_or_an_impossible_project_is_refused(body: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_event(body)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", WEBHOOKS)
def test_every_recorded_event_is_read(name: str) -> None:
    body = request_of(name)[3]

    event = parse_event(body)

    assert event.action == body["action"]
    if "project" in body:
        assert event.project.id == str(body["project"]["id"])
        assert event.project.created_at is not None
        assert event.label_config == body["project"]["label_config"]
        counted = body["project"]["total_annotations_number"]
        assert event.total_annotations == counted
    assert "action" not in event.data
    assert set(event.data) == set(body) - {"action"}
    assert parse_event(event.body) == event
    assert "dummy-access-token" not in repr(event)
    given = body.get("annotation") or []
    given = given if isinstance(given, list) else [given]
    assert [one["id"] for one in event.annotations] == [one["id"] for one in given]
    gone = {"ANNOTATIONS_DELETED": body.get("annotations")}.get(event.action) or []
    assert event.deleted_annotations == tuple(str(one["id"]) for one in gone)
    assert event.is_about_annotations == bool(given or gone)


def test_secrets_go_wherever_the_project_has_them() -> None:
    body = {
        "action": "X",
        "access_token": "s",
        "project": {
            "id": 1,
            "token": "s",
            "task_data_login": "s",
            "task_data_password": "s",
            "title": "kept",
        },
        "params": {"login": "s", "password": "s", "context": {"kept": 1}},
        "task": {"data": {"login": "what people annotate"}},
    }

    assert without_secrets(body) == {
        "action": "X",
        "project": {"id": 1, "title": "kept"},
        "params": {"context": {"kept": 1}},
        "task": {"data": {"login": "what people annotate"}},
    }


@pytest.mark.parametrize(
    ("annotation", "task", "expected"),
    [
        ({"id": 1, "task": 2}, {"id": 2}, [(1, 2)]),
        ({"id": 1}, {"id": 2}, [(1, 2)]),
        ({"id": 1, "task": {"id": 2}}, None, [(1, 2)]),
        ([{"id": 1}, {"id": 3}], [{"id": 2}, {"id": 4}], [(1, 2), (3, 4)]),
        ([{"id": 1}, {"id": 3, "task": 4}], [{"id": 2}], [(3, 4)]),
        ([{"id": 1, "task": 2}, None, 5, {}], [], [(1, 2)]),
        ({"id": True, "task": 1}, None, []),
        ({"id": 1.5, "task": 1}, None, []),
        ({"id": "a\x1fb", "task": 1}, None, []),
        ({"id": "", "task": 1}, None, []),
        ({"id": 1, "task": None}, None, []),
        ({"id": "a-b", "task": "c"}, None, [("a-b", "c")]),
    ],
)
def test_an_annotation_has_an_id_and_a_task_or_is_left_out(
    annotation: Any, task: Any, expected: list[tuple[Any, Any]]
) -> None:
    body = {"action": "ANNOTATIONS_CREATED", "annotation": annotation, "task": task}

    event = parse_event(body)

    assert [(one["id"], one["task"]) for one in event.annotations] == expected


def test_a_list_becomes_single_events_with_their_tasks() -> None:
    body = request_of("041-webhook-predictions-to-annotations-webhook")[3]
    event = parse_event(body)

    [single] = event.single()

    assert single.action == "ANNOTATION_CREATED"
    assert single.data == {
        **event.data,
        "annotation": body["annotation"][0],
        "task": body["task"][0],
    }
    assert (single.annotations, single.tasks) == (event.annotations, event.tasks)
    assert parse_event(single.body) == single


def test_an_event_about_one_annotation_stays_one_event() -> None:
    for name in WEBHOOKS:
        event = parse_event(request_of(name)[3])
        if event.action != "ANNOTATIONS_CREATED":
            assert list(event.single()) == [event]


def test_what_is_nested_deeper_than_json_goes_is_left_out() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = {"a": deep}

    event = parse_event({"action": "X", "project": 1, "annotation": deep, "task": {}})

    assert event.data == {"project": 1, "task": {}}
    assert annotations_of({"id": 1, "annotations": [{"id": 2}], "data": deep}) == []


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"id": 1, "annotations": [{"id": 2, "task": 9}]}, [{"id": 2, "task": 1}]),
        ({"id": 1, "annotations": None}, []),
        ({"id": 1}, []),
        ({"annotations": [{"id": 2}]}, []),
        ({"id": None, "annotations": [{"id": 2}]}, []),
    ],
)
def test_annotations_inside_a_task_are_of_this_task(
    task: dict[str, Any], expected: list[dict[str, Any]]
) -> None:
    assert annotations_of(task) == expected
    assert has_id(task) == (task.get("id") == 1)
