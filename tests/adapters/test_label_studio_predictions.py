"""A project's tasks and predictions, out of and into a Label Studio with faults."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Barrier, Event, Lock
from typing import Any

import pytest

from lsml_bento.adapters.label_studio_api import predictions, session
from lsml_bento.adapters.label_studio_api.predictions import LabelStudioPredictions
from lsml_bento.errors import LsmlError
from lsml_bento.preannotation.selection import (
    PreannotationError,
    Predicted,
    Refused,
    ResultUnknown,
    Selection,
    Unreachable,
)
from tests.adapters.test_label_studio_api import (
    LEGACY,
    REFRESH,
    Answer,
    Fault,
    Json,
    Request,
    Studio,
    answer,
    hangs,
)

# label-studio-sdk 2.1.2 calls pydantic's parse_obj when it exchanges a token.
pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method")

CONFIG = """<View><Text name="text" value="$text"/>
<Choices name="mood" toName="text"><Choice value="good"/></Choices></View>"""
RESULT = {
    "from_name": "mood",
    "to_name": "text",
    "type": "choices",
    "value": {"choices": ["good"]},
}
Makes = Callable[..., LabelStudioPredictions]


@dataclass
class Project(Studio):
    """Project 7 and its tabs, as Label Studio 1.23.2 answers; ``faults`` come first."""

    stored: list[Json] = field(default_factory=list)
    views: dict[str, Json] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def add(self, *texts: str) -> None:
        """Tasks 1, 2, 3, ..."""
        for text in texts:
            number = len(self.tasks) + 1
            self.tasks.append({"id": number, "data": {"text": text}, "project": 7})

    def predict(self, task: int, *versions: str) -> None:
        for version in versions:
            number = len(self.stored) + 1
            made = {"id": number, "task": task, "result": [], "model_version": version}
            self.stored.append(made)

    def route(self, request: Request) -> Answer:
        if request.authorization not in self.accepted:
            return super().route(request)
        parts = request.path.strip("/").split("/")
        if parts == ["api", "projects", "7"]:
            created = "2026-11-23T09:34:49.839721Z"
            found = {"id": 7, "created_at": created, "label_config": CONFIG}
            return answer(200, found)
        if parts[-1] == "model-versions":
            versions = [one["model_version"] for one in self.stored]
            return answer(200, {one: versions.count(one) for one in versions})
        if parts[:3] == ["api", "dm", "views"] and parts[3] in self.views:
            return answer(200, self.views[parts[3]])
        if parts == ["api", "tasks"] and request.query["project"] == "7":
            return self.page(request.query)
        if parts[2:] == ["7", "import", "predictions"] and request.method == "POST":
            return self.store(json.loads(request.body))
        if parts[1] == "predictions" and request.method == "DELETE":
            with self.lock:
                kept = [one for one in self.stored if one["id"] != int(parts[2])]
                gone, self.stored = len(self.stored) - len(kept), kept
            return (204, {}, b"") if gone else answer(404)
        return answer(404, {"detail": "Not found."})

    def store(self, body: list[Json]) -> Answer:
        """Leave out what does not fit, and say how many did."""
        fits = [one for one in body if "unfit" not in str(one["result"])]
        for one in fits:
            self.stored.append({**one, "id": len(self.stored) + 1})
        return answer(201, {"created": len(fits)})

    def page(self, query: Json) -> Answer:
        assert query["review"] == "true"
        asked = json.loads(query["query"])
        filters = asked["filters"]
        chosen = asked.get("selectedItems", {}).get("included")
        how = all if filters["conjunction"] == "and" else any
        found = [
            task
            for task in self.tasks
            if (chosen is None or task["id"] in chosen)
            and (not filters["items"] or how(map(self._meets(task), filters["items"])))
        ]
        size = int(query["page_size"])
        made = [self._rendered(task, query) for task in found[:size]]
        return answer(200, {"tasks": made, "total": len(found)})

    def _meets(self, task: Json) -> Callable[[Json], bool]:
        def meets(one: Json) -> bool:
            column, value = one["filter"].removeprefix("filter:tasks:"), one["value"]
            if column == "id":
                return bool(task["id"] > value)
            if column == "data.text":
                return bool(value in task["data"]["text"])
            assert column == "predictions_model_versions"
            found = self._of(task["id"])
            versions = [prediction["model_version"].lower() for prediction in found]
            holds = any(part.lower() in one for part in value for one in versions)
            return bool(holds == (one["operator"] == "contains"))

        return meets

    def _of(self, task: int) -> list[Json]:
        return [one for one in self.stored if one["task"] == task]

    def _rendered(self, task: Json, query: Json) -> Json:
        more = {"predictions": self._of(task["id"])} if "fields" in query else {}
        return {**task, "drafts": [], "annotators": [], **more}


@pytest.fixture
def studio() -> Iterator[Project]:
    server = Project()
    with server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds."""
    monkeypatch.setattr(session, "_PAUSES_S", (0.01, 0.05))
    monkeypatch.setattr(predictions, "_SETTLE_S", (0.01, 0.05))


@pytest.fixture
def makes() -> Iterator[Makes]:
    """Makes readers of project 7 that are closed when the test ends."""
    made: list[LabelStudioPredictions] = []

    def make(
        studio: Studio | str, key: str = LEGACY, **options: Any
    ) -> LabelStudioPredictions:
        url = studio if isinstance(studio, str) else studio.url
        options = {"patience_s": 5.0, **options}
        made.append(LabelStudioPredictions(url, key, 7, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ids(found: Iterator[list[Json]]) -> list[int]:
    return [task["id"] for page in found for task in page]


def has(text: str) -> Json:
    name = "filter:tasks:data.text"
    return {"filter": name, "operator": "contains", "type": "String", "value": text}


def any_of(*texts: str) -> Json:
    return {"conjunction": "or", "items": [has(text) for text in texts]}


def all_of(*texts: str) -> Json:
    return {"conjunction": "and", "items": [has(text) for text in texts]}


def some(*tasks: int, version: str = "m-1", result: str = "fits") -> list[Predicted]:
    made = {"result": [{"value": result}], "score": 0.5, "model_version": version}
    return [Predicted(task, made) for task in tasks]


def raised(kind: type[LsmlError], call: Callable[[], object]) -> str:
    """The one sentence of what is raised; nothing of it or behind it holds a key."""
    with pytest.raises(LsmlError) as caught:
        call()
    error = caught.value
    assert type(error) is kind, error
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = "".join(traceback.format_exception(error))
    for key in (LEGACY, REFRESH):
        assert key not in shown
    assert "\n" not in str(error)
    return str(error)


def posts(studio: Project) -> int:
    return sum(request.path.endswith("/predictions") for request in studio.requests)


# What is read


def test_the_project_comes_with_its_label_config(studio: Project, makes: Makes) -> None:
    found, config = makes(studio).project()
    assert str(found) == "7.1795426489"
    assert config == CONFIG


def test_tasks_come_once_in_order_and_without_predictions(
    studio: Project, makes: Makes
) -> None:
    studio.add(*"abcde")
    studio.predict(2, "m-1")
    pages = list(makes(studio, page_size=2).pages(Selection(), above=1))
    assert [len(page) for page in pages] == [2, 2]
    assert pages[0][0] == {"id": 2, "data": {"text": "b"}, "project": 7}
    assert ids(iter(pages)) == [2, 3, 4, 5]


def test_filters_of_a_tab_are_added(studio: Project, makes: Makes) -> None:
    studio.add("a", "b", "ab", "abc", "bc")
    studio.views["3"] = {"id": 3, "project": 7, "data": {"filters": all_of("b")}}
    studio.views["4"] = {"id": 4, "project": 7, "data": {"filters": any_of("a", "c")}}
    studio.views["5"] = {"id": 5, "project": 7, "data": {}}
    read = makes(studio, page_size=2)

    def found(filters: Json | None, view: int) -> list[int]:
        return ids(read.pages(Selection(filters=filters, view=view)))

    assert found(None, 3) == [2, 3, 4, 5]
    assert found(all_of("a"), 3) == [3, 4]
    assert found(None, 4) == [1, 3, 4, 5]
    assert found(all_of("b"), 4) == [3, 4, 5]
    assert found(any_of("b", "zzz"), 4) == [3, 4, 5]
    assert found(None, 5) == [1, 2, 3, 4, 5]
    counts = [read.count(Selection(view=view)) for view in (3, 4, 5)]
    assert counts == [4, 4, 5]
    assert read.count(Selection(filters=all_of("a"), view=3)) == 2
    assert read.count(Selection(filters=all_of("b"), view=4)) is None


def test_only_tasks_without_a_prediction_of_the_version_are_missing(
    studio: Project, makes: Makes
) -> None:
    studio.add(*"abcd")
    studio.predict(1, "m-1", "m-1")
    studio.predict(2, "other")
    studio.predict(3, "m-1")
    read = makes(studio)
    missing = Selection(missing="m-1")
    assert read.count(missing) == 2
    studio.requests.clear()
    assert ids(read.pages(missing)) == [2, 4]
    assert len(studio.requests) == 2  # the versions, one page, nothing read back


@pytest.mark.parametrize("other", ["m-10", "M-1", "xm-1"])
def test_a_version_whose_name_contains_another_is_distinguished(
    studio: Project, makes: Makes, other: str
) -> None:
    studio.add(*"abcd")
    studio.predict(1, "m-1", other)
    studio.predict(2, other)
    studio.predict(4, other, other)
    read = makes(studio, page_size=1)
    missing = Selection(filters=any_of("a", "b", "c"), missing="m-1")
    assert read.count(missing) is None
    assert ids(read.pages(missing)) == [1, 2, 3]  # and whoever asked has to look
    assert read.predicted("m-1", [1, 2, 3, 4]) == {1}
    assert read.predicted(other, [1, 2, 3]) == {1, 2}


def test_many_tasks_are_read_back_with_addresses_of_a_few_kilobytes(
    studio: Project, makes: Makes
) -> None:
    studio.add(*["text"] * 450)
    for number in range(1, 451, 2):
        studio.predict(number, "m-1")
    found = makes(studio).predicted("m-1", range(2, 450))
    assert found == set(range(3, 450, 2))
    assert len(studio.requests) == 3
    assert max(len(request.query["query"]) for request in studio.requests) < 2000
    assert makes(studio).predicted("m-1", []) == set()


def test_filters_that_label_studio_does_not_understand_are_not_waited_for(
    studio: Project, makes: Makes
) -> None:
    def breaks(request: Request) -> Answer | None:
        return answer(500) if "nonsense" in request.query["query"] else None

    studio.add("a")
    studio.faults = [breaks] * 20
    read = makes(studio)
    for asks in (read.count, lambda chosen: list(read.pages(chosen))):
        chosen = Selection(filters=all_of("nonsense"))
        said = raised(PreannotationError, lambda: asks(chosen))  # noqa: B023
        assert "that meet the filters cannot be read" in said
        assert "answered 500; check the columns, operators and values" in said
    assert len(studio.requests) == 12


def test_a_label_studio_that_breaks_while_filters_are_tried_is_waited_for(
    studio: Project, makes: Makes
) -> None:
    studio.add("a", "b")
    studio.faults = [lambda _: answer(500)] * 4
    assert ids(makes(studio).pages(Selection(filters=all_of("a")))) == [1]


@pytest.mark.parametrize(
    "filters",
    [
        {"conjunction": "and"},
        {"conjunction": "xor", "items": []},
        {"conjunction": "and", "items": [{"filter": "filter:tasks:id"}]},
        {"conjunction": "and", "items": {"filter": "filter:tasks:id"}},
        {"conjunction": "and", "items": ["id"]},
        ["id"],
    ],
)
def test_filters_that_are_not_a_list_are_refused(
    studio: Project, makes: Makes, filters: Any
) -> None:
    read = makes(studio)
    said = raised(PreannotationError, lambda: read.count(Selection(filters=filters)))
    assert "the filters are not the Data Manager's: " in said
    assert studio.requests == []


def test_filters_that_multiply_without_end_are_refused(
    studio: Project, makes: Makes
) -> None:
    many = any_of(*"abcdef")
    studio.views["3"] = {"id": 3, "project": 7, "data": {"filters": many}}
    read = makes(studio)
    selection = Selection(filters=many, view=3)
    said = raised(PreannotationError, lambda: list(read.pages(selection)))
    assert "the filters make 36 alternatives, more than 32" in said


def test_a_tab_that_is_not_the_projects_is_refused(
    studio: Project, makes: Makes
) -> None:
    studio.views["3"] = {"id": 3, "project": 8, "data": {}}
    read = makes(studio)
    for view in (3, 99):
        said = raised(PreannotationError, lambda: read.count(Selection(view=view)))  # noqa: B023
        assert f"tab {view} of project 7 cannot be read" in said
        assert "its address ends with tab=NUMBER" in said


# What is written


def test_predictions_are_written_in_one_post(studio: Project, makes: Makes) -> None:
    studio.add(*"abc")
    write = makes(studio)
    write.write(some(1, 3))
    [request] = studio.requests
    made = {"result": [{"value": "fits"}], "score": 0.5, "model_version": "m-1"}
    assert json.loads(request.body) == [{**made, "task": 1}, {**made, "task": 3}]
    assert request.path == "/api/projects/7/import/predictions"
    assert write.predicted("m-1", [1, 2, 3]) == {1, 3}


def cut(request: Request) -> Answer:
    """An answer of which the end never comes."""
    return 201, {"Content-Length": "100"}, b'{"created"'


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("how", [408, 500, 502, 503, 504, "cut", "odd", "hangs"])
def test_a_post_whose_fate_is_unknown_is_not_sent_again(
    studio: Project,
    makes: Makes,
    monkeypatch: pytest.MonkeyPatch,
    how: int | str,
    carried_out: bool,
) -> None:
    monkeypatch.setattr(session, "_CHANGE_TIMEOUT_S", 0.3)
    over = Event()

    def breaks(request: Request) -> Answer | None:
        if carried_out:
            studio.route(request)
        if how == "hangs":
            hangs(over)(request)
        if how == "odd":
            return 201, {}, b"<html>"
        return answer(how) if isinstance(how, int) else cut(request)

    studio.add(*"ab")
    studio.faults = [breaks]
    write = makes(studio)
    said = raised(ResultUnknown, lambda: write.write(some(1, 2)))
    over.set()
    assert said.startswith(
        "2 predictions for project 7 cannot be confirmed as written: "
    )
    assert posts(studio) == 1
    assert write.predicted("m-1", [1, 2]) == ({1, 2} if carried_out else set())


def test_after_an_unknown_fate_label_studio_gets_the_time_of_the_slowest_write(
    studio: Project, makes: Makes, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    over = Event()

    def slow(_: Request) -> None:
        over.wait(0.2)

    studio.add("a")
    studio.faults = [slow, lambda _: answer(500)]
    write = makes(studio)
    write.write(some(1))
    monkeypatch.setattr(predictions, "_SETTLE_S", (0.01, 60))
    monkeypatch.setattr(time, "sleep", slept.append)
    raised(ResultUnknown, lambda: write.write(some(1)))
    assert len(slept) == 1
    assert 0.2 <= slept[0] < 2


def test_one_that_goes_away_with_a_post_is_waited_for_before_its_time_begins(
    studio: Project, makes: Makes, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    over = Event()

    def slow(_: Request) -> Answer:
        over.wait(0.2)
        return answer(500)

    studio.add("a")
    studio.faults = [slow, *[lambda _: answer(503)] * 3]
    monkeypatch.setattr(predictions, "_SETTLE_S", (0.01, 60))
    monkeypatch.setattr(time, "sleep", slept.append)
    raised(ResultUnknown, lambda: makes(studio).write(some(1)))
    assert [request.method for request in studio.requests] == ["POST", *["GET"] * 4]
    assert slept[:3] == [0.01, 0.02, 0.04]
    assert 0.2 <= slept[3] < 2  # as long as the POST that failed took


def test_what_was_surely_not_written_is_sent_again(
    studio: Project, makes: Makes
) -> None:
    studio.add("a")
    studio.faults = [lambda _: answer(429)] * 3
    makes(studio).write(some(1))
    assert posts(studio) == 4
    assert len(studio.stored) == 1


def test_trouble_with_the_token_leaves_no_doubt(studio: Project, makes: Makes) -> None:
    studio.add("a")
    pass_by: Fault = lambda _: None  # noqa: E731
    studio.faults = [
        *(lambda _: answer(503), lambda _: answer(500)),  # of the exchange
        *(pass_by, lambda _: answer(401)),  # an access token that ended early
    ]
    makes(studio, REFRESH).write(some(1))
    assert [request.method for request in studio.requests] == ["POST"] * 6
    assert posts(studio) == 2
    assert len(studio.stored) == 1


def test_a_label_studio_that_is_away_is_waited_for(makes: Makes) -> None:
    with Project() as gone:
        url = gone.url
    write = makes(url, patience_s=0.3)
    said = raised(Unreachable, lambda: write.write(some(1)))
    assert said.startswith("1 predictions for project 7 cannot be written: ")
    assert "cannot be reached (" in said
    assert "cannot be reached (" in raised(Unreachable, write.project)


def test_what_label_studio_refuses_is_not_tried_again(
    studio: Project, makes: Makes
) -> None:
    studio.add(*"abc")
    studio.faults = [lambda _: answer(400), lambda _: answer(413)]
    write = makes(studio)
    assert "answered 400; write them one by one" in raised(
        Refused, lambda: write.write(some(1, 2))
    )
    said = raised(Refused, lambda: write.write(some(1)))
    assert said.startswith("the prediction for task 1 cannot be written: ")
    assert "stored none" in raised(
        Refused, lambda: write.write(some(1, 2, result="unfit"))
    )
    assert posts(studio) == 3
    assert studio.stored == []


def test_the_reason_is_given_for_a_prediction_that_does_not_fit_the_label_config(
    studio: Project, makes: Makes
) -> None:
    studio.add("a")
    studio.faults = [lambda _: answer(201, {"created": 0})]
    made = {"result": [{**RESULT, "from_name": "gone"}], "model_version": "m-1"}
    write = makes(studio)
    said = raised(Refused, lambda: write.write([Predicted(1, made)]))
    assert "it does not fit the label config: " in said
    assert "'from_name' 'gone' not found" in said
    studio.faults = [lambda _: answer(400)]
    fits = [Predicted(1, {"result": [RESULT], "model_version": "m-1"})]
    said = raised(Refused, lambda: write.write(fits))
    assert "its task was deleted" in said


def test_partially_written_predictions_are_read_back(
    studio: Project, makes: Makes
) -> None:
    studio.add(*"ab")
    write = makes(studio)
    both = [*some(1), *some(2, result="unfit")]
    said = raised(ResultUnknown, lambda: write.write(both))
    assert "says that it stored 1; read back which are stored" in said
    assert write.predicted("m-1", [1, 2]) == {1}


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "personal access"), (403, "a member of"), (404, "is the Label Studio of")],
)
def test_a_key_or_project_that_is_refused_ends_it(
    studio: Project, makes: Makes, status: int, remedy: str
) -> None:
    studio.faults = [lambda _: answer(status)] * 4
    read = makes(studio)
    assert remedy in raised(PreannotationError, read.project)
    assert remedy in raised(PreannotationError, lambda: list(read.pages(Selection())))
    assert remedy in raised(PreannotationError, lambda: read.write(some(1)))
    assert len(studio.requests) == 3


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_redirect_of_a_post_is_not_followed(
    studio: Project, makes: Makes, status: int
) -> None:
    with Project() as elsewhere:
        studio.faults = [lambda _: answer(status, Location=elsewhere.url)]
        write = makes(studio)
        said = raised(PreannotationError, lambda: write.write(some(1)))
        assert elsewhere.requests == []
    assert "a redirect to" in said


# What is deleted


def test_predictions_of_the_version_are_deleted_and_no_others(
    studio: Project, makes: Makes
) -> None:
    studio.add(*"abc")
    studio.predict(1, "m-1", "m-10", "m-1")
    studio.predict(2, "m-1")
    studio.predict(3, "m-1")
    studio.faults = [
        lambda _: None,
        lambda _: answer(500),
        lambda request: studio.route(request) and answer(502),
    ]
    makes(studio).delete("m-1", [1, 2])
    left = [(one["task"], one["model_version"]) for one in studio.stored]
    assert left == [(1, "m-10"), (3, "m-1")]


def test_a_few_predictions_are_deleted_at_a_time(studio: Project, makes: Makes) -> None:
    barrier = Barrier(4)

    def together(_: Request) -> None:
        barrier.wait(5)

    studio.add(*"abcd")
    for task in (1, 2, 3, 4):
        studio.predict(task, "m-1")
    studio.faults = [lambda _: None, *[together] * 4]
    makes(studio).delete("m-1", [1, 2, 3, 4])
    assert studio.stored == []


def test_predictions_that_cannot_be_deleted_are_reported(
    studio: Project, makes: Makes
) -> None:
    studio.add("a")
    studio.predict(1, "m-1")
    studio.faults = [lambda _: None, lambda _: answer(403)]
    write = makes(studio)
    said = raised(PreannotationError, lambda: write.delete("m-1", [1]))
    assert "prediction 1 of task 1 cannot be deleted" in said


# Patience


def test_pauses_grow_and_each_is_logged_once_without_the_key(
    studio: Project,
    makes: Makes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(session, "_PAUSES_S", (0.5, 15.0))
    monkeypatch.setattr(time, "sleep", slept.append)
    caplog.set_level(logging.DEBUG)
    studio.add("a")
    studio.faults = [lambda _: answer(503)] * 11
    assert ids(makes(studio, REFRESH, patience_s=3600.0).pages(Selection())) == [1]
    assert slept == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 11
    assert "; retrying in 0.5 s: the tasks of project 7" in warnings[0]
    for key in (REFRESH, *studio.accepted):
        assert key.removeprefix("Bearer ") not in caplog.text
