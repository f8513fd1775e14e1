"""Tasks and predictions of a real Label Studio, as ``preannotate`` handles them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lsml_bento.adapters.label_studio_api.predictions import LabelStudioPredictions
from lsml_bento.contract import parse_project
from lsml_bento.errors import LsmlError
from lsml_bento.preannotation.selection import (
    PreannotationError,
    Predicted,
    Refused,
    ResultUnknown,
    Selection,
)
from tests.e2e.client import Json, LabelStudioApi, Project
from tests.e2e.label_studio import TOKEN

# label-studio-sdk 2.1.2 calls pydantic's parse_obj when it exchanges a token.
pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method")

Opens = Callable[..., LabelStudioPredictions]


@pytest.fixture
def project(label_studio: LabelStudioApi, keyword_config: str) -> Project:
    return label_studio.create_project("predictions in pipeline", keyword_config)


@pytest.fixture
def opens(label_studio: LabelStudioApi) -> Iterator[Opens]:
    made: list[LabelStudioPredictions] = []

    def make(project: Project, key: str = TOKEN, **more: Any) -> LabelStudioPredictions:
        more = {"patience_s": 5.0, **more}
        made.append(LabelStudioPredictions(label_studio.url, key, project.id, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def predicted(task: int, version: str = "m-1", label: str = "Creature") -> Predicted:
    region = {
        "id": "aB3",
        "from_name": "label",
        "to_name": "text",
        "type": "labels",
        "value": {"start": 0, "end": 3, "text": "Ann", "labels": [label]},
    }
    made = {"result": [region], "score": 0.5, "model_version": version}
    return Predicted(task, made)


def ids(pages: Iterator[list[Json]]) -> list[int]:
    return [task["id"] for page in pages for task in page]


def stored(project: Project) -> list[tuple[int, str]]:
    found = project.predictions()
    return sorted((one["task"], one["model_version"]) for one in found)


def contains(text: str) -> Json:
    name = "filter:tasks:data.text"
    return {"filter": name, "operator": "contains", "type": "String", "value": text}


def filters(conjunction: str, *items: Json) -> Json:
    return {"conjunction": conjunction, "items": list(items)}


def refusal(kind: type[LsmlError], call: Callable[[], object]) -> str:
    with pytest.raises(LsmlError) as caught:
        call()
    assert type(caught.value) is kind, caught.value
    return str(caught.value)


def test_tasks_come_as_a_backend_gets_them(project: Project, opens: Opens) -> None:
    tasks = project.add_tasks(["s3://bucket/a.txt", "Ann", "Bob"])
    project.annotate(tasks[1], [])
    read = opens(project, page_size=2)
    read.write([predicted(tasks[1])])

    record = project.api.call("GET", f"/api/projects/{project.id}/")
    found, config = read.project()
    assert found == parse_project(record)
    assert config == record["label_config"]

    pages = list(read.pages(Selection()))

    assert [[task["id"] for task in page] for page in pages] == [tasks[:2], tasks[2:]]
    assert read.count(Selection()) == 3
    first, second = pages[0]
    assert first["data"] == {"text": "s3://bucket/a.txt"}
    assert first["project"] == project.id
    assert first["meta"] == {}
    assert second["total_annotations"] == second["total_predictions"] == 1
    assert not {"annotations", "predictions", "drafts"} & {*first, *second}
    assert "@" not in str(pages)
    assert ids(read.pages(Selection(), above=tasks[1])) == tasks[2:]


@pytest.mark.parametrize("kind", ["legacy", "personal"])
def test_predictions_are_written_once_with_their_version_and_read_back(
    project: Project, opens: Opens, personal_token: str, kind: str
) -> None:
    tasks = project.add_tasks([f"Ann {n}" for n in range(220)])
    write = opens(project, TOKEN if kind == "legacy" else personal_token)
    for start in (0, 110):
        write.write([predicted(task) for task in tasks[start : start + 110]])

    assert stored(project) == [(task, "m-1") for task in tasks]
    one = project.predictions()[0]
    assert one["result"] == predicted(0).prediction["result"]
    assert one["score"] == 0.5
    assert write.predicted("m-1", tasks) == set(tasks)
    assert write.predicted("m", tasks) == set()
    assert project.open_task(tasks[0])["total_predictions"] == 1


def test_versions_that_label_studios_filter_confuses_are_distinguished(
    project: Project, opens: Opens
) -> None:
    tasks = project.add_tasks(["Ann"] * 6)
    read = opens(project, page_size=2)
    missing = Selection(missing="m-1")
    assert ids(read.pages(missing)) == tasks
    read.write([predicted(tasks[0]), predicted(tasks[1], "other"), predicted(tasks[1])])
    assert read.count(missing) == 4
    assert ids(read.pages(missing)) == tasks[2:]
    read.write([predicted(tasks[2], "m-10"), predicted(tasks[3], "M-1")])
    read.write([predicted(tasks[4], "m-10"), predicted(tasks[4])])

    assert read.predicted("m-1", tasks) == {tasks[0], tasks[1], tasks[4]}
    assert read.predicted("m-10", tasks) == {tasks[2], tasks[4]}
    assert read.count(missing) is None
    assert ids(read.pages(missing)) == tasks
    assert ids(read.pages(Selection(missing="m-10"))) == [
        *(tasks[0], tasks[1], tasks[3], tasks[5])
    ]
    # The filter alone leaves out what has no prediction of m-1.
    assert read._without("m-1") is None
    assert read.count(Selection(missing="other")) == 5


def test_filters_and_tabs_select_together(project: Project, opens: Opens) -> None:
    a, b, ab, abc, c = project.add_tasks(["xa", "xb", "xab", "xabc", "xc"])
    path, about = "/api/dm/views/", {"project": project.id}

    def tab(**data: Any) -> int:
        body = {**about, "data": data}
        view: int = project.api.call("POST", path, json=body)["id"]
        return view

    any_tab = tab(filters=filters("or", contains("a"), contains("c")))
    child = {**contains("x"), "child_filter": contains("c")}
    nested = tab(filters=filters("and", child), ordering=["-tasks:id"])
    empty = tab(ordering=[])
    read = opens(project, page_size=1)

    def found(chosen: Json | None, view: int | None) -> list[int]:
        return ids(read.pages(Selection(filters=chosen, view=view)))

    assert found(filters("and", contains("a"), contains("b")), None) == [ab, abc]
    assert found(filters("or", contains("a"), contains("b")), None) == [a, b, ab, abc]
    assert found(None, any_tab) == [a, ab, abc, c]
    assert found(filters("and", contains("b")), any_tab) == [ab, abc]
    assert found(filters("or", contains("xb"), contains("xc")), any_tab) == [c]
    assert found(None, nested) == [abc, c]
    assert found(filters("and", contains("b")), nested) == [abc]
    assert found(None, empty) == [a, b, ab, abc, c]
    counts = [read.count(Selection(view=view)) for view in (any_tab, nested, empty)]
    assert counts == [4, 2, 5]
    read.write([predicted(ab)])
    both = Selection(filters=filters("and", contains("b")), view=any_tab, missing="m-1")
    assert ids(read.pages(both)) == [abc]


@pytest.mark.parametrize(
    "change",
    [
        {"filter": "filter:tasks:nonsense"},
        {"filter": "filter:tasks:project__title"},
        {"filter": "filter:tasks:id", "type": "Number", "value": "text"},
        {"value": None},
        {"value": {"text": 1}},
    ],
)
def test_unsupported_filters_are_refused_at_once(
    project: Project, opens: Opens, change: Json
) -> None:
    project.add_tasks(["Ann"])
    chosen = Selection(filters=filters("and", {**contains("a"), **change}))
    read = opens(project, patience_s=3600)
    for asks in (read.count, lambda one: list(read.pages(one))):
        said = refusal(PreannotationError, lambda: asks(chosen))  # noqa: B023
        assert "check the columns, operators and values of the filters" in said


def test_a_tab_of_another_project_is_refused(
    project: Project, opens: Opens, label_studio: LabelStudioApi, keyword_config: str
) -> None:
    other = label_studio.create_project("another one", keyword_config)
    body = {"project": other.id, "data": {}}
    view = label_studio.call("POST", "/api/dm/views/", json=body)["id"]
    read = opens(project)
    for number in (view, 999_999):
        chosen = Selection(view=number)
        said = refusal(PreannotationError, lambda: read.count(chosen))  # noqa: B023
        assert f"tab {number} of project {project.id} cannot be read" in said


def test_predictions_that_do_not_fit_are_distinguished(
    project: Project, opens: Opens
) -> None:
    fits, odd, gone = project.add_tasks(["Ann", "Ann", "Ann"])
    write = opens(project)
    bad = predicted(odd, label="no such label")

    said = refusal(ResultUnknown, lambda: write.write([predicted(fits), bad]))
    assert "says that it stored 1" in said
    assert write.predicted("m-1", [fits, odd]) == {fits}
    said = refusal(Refused, lambda: write.write([bad]))
    assert f"the prediction for task {odd} cannot be written" in said
    assert "it does not fit the label config: Region 0: Invalid value" in said

    project.api.call("DELETE", f"/api/tasks/{gone}/")
    said = refusal(Refused, lambda: write.write([predicted(odd), predicted(gone)]))
    assert "answered 400; write them one by one" in said
    assert "its task was deleted" in refusal(
        Refused, lambda: write.write([predicted(gone)])
    )
    assert stored(project) == [(fits, "m-1")]


def test_predictions_of_one_version_are_deleted(project: Project, opens: Opens) -> None:
    first, second, third = project.add_tasks(["Ann", "Ann", "Ann"])
    write = opens(project)
    versions = ["m-1", "m-10", "m-1", "M-1"]
    write.write([predicted(first, version) for version in versions])
    write.write([predicted(second), predicted(third)])

    write.delete("m-1", [first, second])

    assert stored(project) == [(first, "M-1"), (first, "m-10"), (third, "m-1")]
    assert project.open_task(first)["total_predictions"] == 2


def test_a_page_does_not_make_label_studio_ask_the_projects_backends(
    project: Project, opens: Opens, keyword_backend: Any
) -> None:
    tasks = project.add_tasks(["Ann at Acme", "Bob"])
    project.connect(keyword_backend.url)
    project.change(evaluate_predictions_automatically=True)

    read = opens(project)
    assert ids(read.pages(Selection())) == tasks
    assert read.predicted("m-1", tasks) == set()
    assert read.count(Selection(missing="m-1")) == 2

    assert project.predictions() == []
    query = {"project": project.id, "fields": "all", "page_size": 2}
    project.api.call("GET", "/api/tasks/", params=query)
    assert len(project.predictions()) == 2  # so does one without ``review``


def test_errors_say_what_to_do(
    project: Project, opens: Opens, personal_token: str, label_studio: LabelStudioApi
) -> None:
    [task] = project.add_tasks(["Ann"])
    header, payload, _ = personal_token.split(".")
    wrong = {
        "f" * 40: "answered 401; ",
        f"{header}.{payload}.{'x' * 43}": "was revoked",
    }
    for key, said in wrong.items():
        one = opens(project, key)
        assert said in refusal(PreannotationError, one.project)
        assert said in refusal(PreannotationError, lambda: one.write([predicted(task)]))  # noqa: B023
    nowhere = opens(Project(label_studio, 999_999))
    said = refusal(PreannotationError, nowhere.project)
    assert "project 999999 cannot be read" in said
    assert "answered 404" in said
