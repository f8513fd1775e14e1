"""The annotated tasks of a real Label Studio, as a training reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lsml_bento.adapters.label_studio_api import LabelStudioTasks
from lsml_bento.errors import TrainingError
from lsml_bento.jobs.events import annotations_of
from tests.e2e.client import Json, LabelStudioApi, Project
from tests.e2e.label_studio import TOKEN

# label-studio-sdk 2.1.2 calls pydantic's parse_obj when it exchanges a token.
pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method")

Reads = Callable[..., LabelStudioTasks]


def region(label: str) -> Json:
    return {
        "id": "aB3",
        "from_name": "label",
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
        "value": {"start": 0, "end": 3, "text": "Ann", "labels": [label]},
    }


@pytest.fixture
def project(label_studio: LabelStudioApi, keyword_config: str) -> Project:
    return label_studio.create_project("read back", keyword_config)


@pytest.fixture
def reads(label_studio: LabelStudioApi) -> Iterator[Reads]:
    made: list[LabelStudioTasks] = []

    def make(key: str = TOKEN, **options: Any) -> LabelStudioTasks:
        made.append(LabelStudioTasks(label_studio.url, key, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def read(tasks: LabelStudioTasks, project: Project) -> list[Json]:
    return list(tasks.annotated(str(project.id)))


def fill(project: Project, annotated: int, bare: int = 0) -> None:
    """Import tasks with an annotation, and a prediction that must not come along."""
    tasks = [{"data": {"text": f"Ann {n}"}} for n in range(annotated + bare)]
    for task in tasks[:annotated]:
        task["annotations"] = [{"result": [region("Creature")]}]  # type: ignore[assignment]
        task["predictions"] = [{"result": [region("Creature")]}]  # type: ignore[assignment]
    project.api.call("POST", f"/api/projects/{project.id}/import", json=tasks)


def test_a_task_has_the_fields_that_a_webhook_sends(
    project: Project, reads: Reads
) -> None:
    first, _ = project.add_tasks(["Ann works at Acme", "nothing yet"])
    made = project.annotate(first, [region("Creature")])
    project.api.call(
        "POST", f"/api/tasks/{first}/drafts", json={"result": [region("Place")]}
    )

    [task] = read(reads(), project)

    assert task["id"] == first
    assert task["data"] == {"text": "Ann works at Acme"}
    assert task["project"] == project.id
    assert not {"predictions", "drafts", "predictions_results"} & set(task)
    [annotation] = annotations_of(task)
    assert annotation["id"] == made["id"]
    assert annotation["result"] == [region("Creature")]
    assert annotation["updated_at"] == made["updated_at"]
    assert annotation["was_cancelled"] is False
    assert annotation["task"] == first
    assert annotation["completed_by"] == made["completed_by"]
    assert "@" not in str(task)


def test_storage_urls_are_returned_as_imported(project: Project, reads: Reads) -> None:
    [task] = project.add_tasks(["s3://bucket/a.txt"])
    project.annotate(task, [])

    [found] = read(reads(), project)

    assert found["data"] == {"text": "s3://bucket/a.txt"}
    assert found["annotations"][0]["result"] == []


def test_skipped_updated_and_deleted_annotations(
    project: Project, reads: Reads
) -> None:
    def annotate(task: int, *, was_cancelled: bool = False) -> str:
        body = {"result": [region("Creature")], "was_cancelled": was_cancelled}
        path = f"/api/tasks/{task}/annotations/"
        made = project.api.call("POST", path, json=body)
        return f"/api/annotations/{made['id']}/"

    kept, skipped, both, deleted, returned, late = project.add_tasks(["Ann"] * 6)
    updated = annotate(kept)
    annotate(skipped, was_cancelled=True)
    annotate(both)
    annotate(both, was_cancelled=True)
    gone = annotate(deleted)
    annotation_returned = annotate(returned, was_cancelled=True)
    annotation_late = annotate(late)
    tasks = reads()
    assert [t["id"] for t in read(tasks, project)] == [kept, both, deleted, late]

    call = project.api.call
    call("PATCH", updated, json={"result": [region("Place")]})
    call("DELETE", gone)
    call("PATCH", annotation_returned, json={"was_cancelled": False})
    call("PATCH", annotation_late, json={"was_cancelled": True})

    found = read(tasks, project)
    assert [t["id"] for t in found] == [kept, both, returned]
    assert [len(t["annotations"]) for t in found] == [1, 1, 1]
    assert found[0]["annotations"][0]["result"] == [region("Place")]


def test_annotations_deleted_in_the_data_manager_are_gone(
    project: Project, reads: Reads
) -> None:
    fill(project, 3)
    query = {"id": "delete_tasks_annotations", "project": project.id}
    body = {"selectedItems": {"all": True, "excluded": []}, "project": project.id}
    project.api.call("POST", "/api/dm/actions", params=query, json=body)

    tasks = reads()

    assert read(tasks, project) == []


@pytest.mark.parametrize("kind", ["legacy", "personal"])
def test_more_than_a_page_of_tasks_is_read_once_even_while_some_are_deleted(
    project: Project, reads: Reads, personal_token: str, kind: str
) -> None:
    fill(project, annotated=45, bare=30)
    tasks = reads(TOKEN if kind == "legacy" else personal_token, page_size=10)
    found: list[int] = []

    for task in tasks.annotated(str(project.id)):
        found.append(task["id"])
        if len(found) == 10:
            for gone in found[:5]:
                project.api.call("DELETE", f"/api/tasks/{gone}/")

    assert len(found) == 45
    assert found == sorted(set(found))
    assert [t["id"] for t in read(tasks, project)] == found[5:]


def test_200_tasks_are_read_in_reasonable_time(project: Project, reads: Reads) -> None:
    fill(project, annotated=200)
    started = time.monotonic()

    assert len(read(reads(), project)) == 200

    assert time.monotonic() - started < 20  # 1 s on an idle machine


def test_errors_say_what_to_do(
    project: Project, reads: Reads, personal_token: str
) -> None:
    with pytest.raises(TrainingError, match=r"answered 401; .* personal access token"):
        read(reads("f" * 40), project)
    header, payload, _ = personal_token.split(".")
    with pytest.raises(
        TrainingError, match=r"401 to the exchange .*: create a new one"
    ):
        read(reads(f"{header}.{payload}.{'x' * 43}"), project)
    with pytest.raises(TrainingError, match=r"project 999999 .* answered 404"):
        list(reads().annotated("999999"))


def test_disabled_legacy_tokens_are_named_in_the_error(
    project: Project, reads: Reads, personal_token: str
) -> None:
    def allow(legacy: bool) -> None:
        body = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": legacy}
        exchanged = project.api.call(
            "POST", "/api/token/refresh/", json={"refresh": personal_token}
        )
        header = {"Authorization": f"Bearer {exchanged['access']}"}
        project.api.call("POST", "/api/jwt/settings", json=body, headers=header)

    [task] = project.add_tasks(["Ann"])
    project.annotate(task, [])
    allow(legacy=False)
    try:
        with pytest.raises(TrainingError, match="legacy tokens are off"):
            read(reads(), project)
        assert len(read(reads(personal_token), project)) == 1
    finally:
        allow(legacy=True)
