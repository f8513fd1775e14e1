"""What ``lsml-bento check`` finds in correct and in faulty models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lsml_bento.contract import Context, Task
from lsml_bento.diagnostics.check import ModelReport, check_model, sample_tasks
from lsml_bento.diagnostics.results import Finding, check_results
from lsml_bento.errors import LabelConfigError, MediaError, WrongCount
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.invoke import Slot, render

TEXT = """<View><Text name="text" value="$text"/>
<Labels name="label" toName="text">
  <Label value="Person"/><Label value="Place"/>
</Labels>
<Choices name="mood" toName="text"><Choice value="good"/><Choice value="bad"/></Choices>
</View>"""
IMAGE = """<View><Image name="img" value="$image"/>
<RectangleLabels name="box" toName="img"><Label value="Car"/></RectangleLabels>
<PolygonLabels name="poly" toName="img"><Label value="Car"/></PolygonLabels>
<KeyPointLabels name="key" toName="img"><Label value="Car"/></KeyPointLabels>
<BrushLabels name="brush" toName="img"><Label value="Car"/></BrushLabels></View>"""

Answer = Callable[[Task, Context | None], Any]


def span(task: Task, start: int = 0, end: int = 4, **changes: Any) -> dict[str, Any]:
    value = {"start": start, "end": end, "labels": ["Person"]}
    value["text"] = task["data"]["text"][start:end]
    names = {"from_name": "label", "to_name": "text", "type": "labels"}
    return {"id": f"r{start}", **names, "value": value, **changes}


def box(**changes: Any) -> dict[str, Any]:
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["Car"]}
    names = {"from_name": "box", "to_name": "img", "type": "rectanglelabels"}
    return {"id": "b", **names, "value": {**value, **changes}}


def predicting(answer: Answer) -> Any:
    def predict(tasks: list[Task], context: Context | None) -> list[Slot | Exception]:
        return render([answer(task, context) for task in tasks], len(tasks), "v1")

    return predict


def regions(*given: Any) -> dict[str, Any]:
    return {"result": list(given), "score": 0.5}


def messages(report: ModelReport, severity: str = "error") -> list[str]:
    return [f.message for f in report.findings if f.severity == severity]


def errors_of(make: Callable[[Task], Any], config: str = TEXT) -> list[str]:
    return messages(
        check_model(config, predicting(lambda task, _: regions(make(task))))
    )


def test_a_model_that_answers_correctly_has_no_findings() -> None:
    report = check_model(TEXT, predicting(lambda task, _: regions(span(task))))
    assert report.findings == []
    assert report.ok
    assert (report.tasks, report.predictions, report.regions) == (4, 4, 4)
    assert report.single_s is not None
    assert report.batch_s is not None


def test_sample_tasks_have_other_texts_and_every_label() -> None:
    texts = [task["data"]["text"] for task in sample_tasks(TEXT, 5)]
    assert len(set(texts)) == 5
    assert texts[1] == "About Person, Place, good, bad."
    assert "🐉" in "".join(texts)
    assert sample_tasks("<View/>", 1) == [{"id": 1, "data": {}, "annotations": []}]


REPEATER = """<View><Repeater on="$document" indexFlag="{{idx}}" mode="pagination">
  <Image name="page_{{idx}}" value="$document[{{idx}}].page"/>
  <RectangleLabels name="labels_{{idx}}" toName="page_{{idx}}">
    <Label value="Title"/><Label value="Date"/>
  </RectangleLabels>
  <TextArea name="text_{{idx}}" toName="page_{{idx}}" perRegion="true"/>
</Repeater></View>"""


def pages(task: Task) -> list[dict[str, Any]]:
    """A box and its text for each page of a task."""
    found = []
    for n, _ in enumerate(task["data"]["document"]):
        box = {"x": 5, "y": 5, "width": 30, "height": 10, "rotation": 0}
        region = {"id": f"r{n}", "to_name": f"page_{n}"}
        for name, kind, value in (
            ("labels", "rectanglelabels", {"rectanglelabels": ["Title"]}),
            ("text", "textarea", {"text": ["page"]}),
        ):
            names = {"from_name": f"{name}_{n}", "type": kind}
            found.append({**region, **names, "value": {**box, **value}})
    return found


@pytest.mark.parametrize("flag", ["{{idx}}", "@page@"])
def test_regions_of_a_repeater_are_accepted(flag: str) -> None:
    config = REPEATER.replace("{{idx}}", flag)
    report = check_model(config, predicting(lambda task, _: regions(*pages(task))))
    assert report.findings == []
    assert report.regions == 4 * 2 * 2

    config = config.replace(f' indexFlag="{flag}"', "")
    found = check_results(config, [regions()], sample_tasks(config, 1))
    assert [one for one in found if one.severity == "error"] == []


def test_a_repeater_has_no_more_names_than_the_task_has_items() -> None:
    [task] = sample_tasks(REPEATER, 1)
    made = pages({**task, "data": {"document": [1, 2, 3]}})
    found = check_results(REPEATER, [regions(*made)], [task])
    assert [f.message for f in found if f.severity == "error"] == [
        f"task 1, region {4 + n}: from_name '{name}_2' is not in the label config, "
        "which has labels_0, text_0, labels_1, text_1: Label Studio does not show it"
        for n, name in enumerate(("labels", "text"))
    ]


def test_samples_are_nested_as_label_studio_reads_them() -> None:
    [task] = sample_tasks(REPEATER, 1)
    first, second = task["data"]["document"]
    assert list(first) == ["page"]
    assert first == second

    config = """<View><Text name="t" value="$doc.body"/><Text name="u" value="$a[1].b"/>
    <Text name="v" value="Say: $doc.title"/><Text name="w" value="a constant"/>
    <Image name="i" valueList="$images"/>
    <TimeSeries name="ts" value="$series" timeColumn="t" timeFormat="%Y-%m-%d">
      <Channel column="c"/></TimeSeries>
    <Choices name="c" toName="t" value="$options"/></View>"""
    data = sample_tasks(config, 2)[1]["data"]
    assert data["doc"] == {
        "body": "About .",
        "title": "About .",
    }
    assert data["a"] == [None, {"b": "About ."}]
    assert isinstance(data["images"], list)
    assert data["series"].startswith("/samples/time-series.csv?")
    assert isinstance(data["options"], list)
    assert list(data) == ["doc", "a", "images", "series", "options"]


def test_offsets_in_a_nested_text_are_checked() -> None:
    config = TEXT.replace("$text", "$doc.body")
    task: Task = {"id": 1, "data": {"doc": {"body": "Zoë met Ana"}}}
    value = {"start": 0, "end": 30, "text": "Zoë", "labels": ["Person"]}
    names = {"id": "a", "from_name": "label", "to_name": "text", "type": "labels"}
    predict = predicting(lambda task, _: regions({**names, "value": value}))
    assert "the text's length" in messages(check_model(config, predict, [task]))[0]


def test_a_label_config_that_does_not_parse_is_rejected() -> None:
    with pytest.raises(LabelConfigError):
        check_model("<View>", predicting(lambda task, _: None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"from_name": "tag"},
            "from_name 'tag' is not in the label config, which has label, mood: Label "
            "Studio does not show it",
        ),
        (
            {"from_name": ["label"]},
            "from_name ['label'] is not in the label config, which has label, mood: "
            "Label Studio does not show it",
        ),
        (
            {"to_name": "txt"},
            "to_name 'txt' should be text for 'label': Label Studio does not show it",
        ),
        (
            {"type": "choices"},
            "label-studio-sdk rejects it: Type 'choices' does not match expected type "
            "'labels' for control 'label'",
        ),
        ({"type": 3}, "type 3 is not a string: Label Studio rejects it"),
        ({"value": None}, "value is NoneType, not an object"),
        (
            {"value": {"start": 0, "end": 2, "labels": ["Person", "Dog"]}},
            "'Dog' is not in the label config, where 'label' has Person, Place: Label "
            "Studio does not show it, or rejects the whole batch",
        ),
        (
            {"value": {"start": 0, "end": 2}},
            "label-studio-sdk rejects it: Invalid value for control 'label'. Got: "
            "{'start': 0, 'end': 2}. Valid options: expected fields: ['start', 'end', "
            "'labels']; valid labels: ['Person', 'Place']",
        ),
        (
            {"value": {"start": 0, "end": 2, "labels": ["Person"], "text": "Zo"}},
            "text is 'Zo' where the task has 'To': count offsets in code points of the "
            "text in the task",
        ),
        (
            {"value": {"start": 4, "end": 2, "labels": ["Person"]}},
            "start 4 and end 2 are not 0 <= start < end <= 47, the text's length in "
            "code points: Label Studio does not show it",
        ),
        (
            {"value": {"start": 4, "end": 48, "labels": ["Person"]}},
            "start 4 and end 48 are not 0 <= start < end <= 47, the text's length in "
            "code points: Label Studio does not show it",
        ),
        (
            {"value": {"start": "0", "end": 2.0, "labels": ["Person"]}},
            "start '0' and end 2.0 must be integers",
        ),
    ],
)
def test_a_wrong_region_is_explained(changes: dict[str, Any], message: str) -> None:
    task = sample_tasks(TEXT, 1)
    predict = predicting(lambda task, _: regions(span(task, **changes)))
    report = check_model(TEXT, predict, task)
    assert [s for s in messages(report) if s.startswith("task 1, region 0")] == [
        f"task 1, region 0: {message}"
    ]


def test_missing_keys_are_errors() -> None:
    assert errors_of(lambda task: {"from_name": "label", "value": {}})[0] == (
        "task 1, region 0: to_name and type missing: Label Studio does not show it "
        "(3 more)"
    )
    assert errors_of(lambda task: "Person")[0].startswith(
        'task 1, region 0: a region is "Person", not an object'
    )


def test_offsets_after_an_emoji_count_code_points() -> None:
    task = {"id": 1, "data": {"text": "🐉 met Zoë"}}
    good = predicting(lambda task, _: regions(span(task, 6, 9)))
    assert check_model(TEXT, good, [task]).findings == []
    utf16 = {"start": 7, "end": 10, "labels": ["Person"], "text": "Zoë"}
    bad = predicting(lambda task, _: regions(span(task, value=utf16)))
    assert "not 0 <= start < end <= 9" in messages(check_model(TEXT, bad, [task]))[0]


def test_offsets_of_a_text_behind_a_url_are_not_checked() -> None:
    task = {"id": 1, "data": {"text": "https://example.com/a.txt"}}
    far = {"start": 100, "end": 200, "labels": ["Person"]}
    predict = predicting(lambda task, _: regions(span(task, value=far)))
    assert check_model(TEXT, predict, [task]).findings == []


@pytest.mark.parametrize(
    ("region", "found"),
    [
        (box(x=640), "x 640: coordinates are in percent of the image, not in pixels"),
        (box(x=-320), "x -320: coordinates are in percent of the image, not in pixels"),
        (box(x=1500, rotation=30), "x 1500: coordinates are in percent of the image"),
        (box(width=-1), "width -1 is not a size: use a number that is not negative"),
        (box(height="20"), "height '20' is not a number"),
        (box(y=None), "y None is not a number"),
        (
            {
                **box(points=[[1, 2], [3, 400], [5, 6]], polygonlabels=["Car"]),
                "from_name": "poly",
                "type": "polygonlabels",
            },
            "point 1 400: coordinates are in percent of the image, not in pixels",
        ),
        (
            {
                **box(brushlabels=["Car"], format="rle", rle=[1, 2]),
                "from_name": "brush",
                "type": "brushlabels",
            },
            "a mask without original_width and original_height is not drawn",
        ),
    ],
)
def test_coordinates_are_percent(region: dict[str, Any], found: str) -> None:
    assert found in errors_of(lambda task: region, IMAGE)[0]


@pytest.mark.parametrize(
    ("region", "found"),
    [
        (box(x=-0.04), "x -0.04 is outside the image"),
        (box(x=50, width=100.03), "width 100.03 is outside the image"),
        (box(x=120, y=-3), "x 120, y -3 is outside the image"),
        (box(x=110, width=310, rotation=90), "x 110, width 310 is outside the image"),
        (
            {
                **box(points=[[-0.2, 2], [3, 100.4], [5, 6]], polygonlabels=["Car"]),
                "from_name": "poly",
                "type": "polygonlabels",
            },
            "point 0 -0.2, point 1 100.4 is outside the image",
        ),
        (
            {
                **box(keypointlabels=["Car"], x=-3),
                "from_name": "key",
                "type": "keypointlabels",
            },
            "x -3 is outside the image",
        ),
    ],
)
def test_a_shape_that_reaches_over_the_edge_is_a_warning(
    region: dict[str, Any], found: str
) -> None:
    report = check_model(IMAGE, predicting(lambda task, _: regions(region)))
    assert report.ok, report.findings
    assert found in messages(report, "warning")[0]


def test_a_box_that_exceeds_the_image_is_a_warning() -> None:
    predict = predicting(lambda task, _: regions(box(x=90)))
    report = check_model(IMAGE, predict)
    assert report.ok
    assert "x + width is over 100: outside the image" in messages(report, "warning")[0]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (12.5, "score 12.5 is not between 0 and 1"),
        (-0.1, "score -0.1 is not between 0 and 1"),
        ("high", "score is 'high'"),
        (True, "score is True"),
    ],
)
def test_scores_are_between_0_and_1(score: object, message: str) -> None:
    slot = {"result": [], "score": score, "model_version": "v1"}
    [finding] = check_results(TEXT, [slot], sample_tasks(TEXT, 1))
    assert finding.severity == "error"
    assert finding.message.startswith(f"task 1: {message}")


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        (None, "the prediction is null, not an object: Label Studio answers 500"),
        ({"score": 1}, "the prediction has no result: Label Studio skips it"),
        (
            {"result": None},
            "result is null, not a list: Label Studio rejects the whole",
        ),
        ({"result": {}}, "result is {}, not a list: Label Studio rejects the whole"),
        (
            {"result": [], "score": 1, "model_version": None},
            "model_version is null: Label Studio rejects the whole batch",
        ),
    ],
)
def test_predictions_that_label_studio_rejects_are_errors(
    slot: object, message: str
) -> None:
    [finding] = check_results(TEXT, [slot], sample_tasks(TEXT, 1))
    assert finding.message.startswith(f"task 1: {message}")


def test_a_missing_score_is_a_note() -> None:
    slot = {"result": [], "model_version": "v1"}
    assert check_results(TEXT, [slot, [slot, slot]], sample_tasks(TEXT, 2)) == [
        Finding(
            "note",
            "task 1: no score: the Data Manager cannot sort by it (2 more)",
        )
    ]


def test_a_wrong_count_of_results_is_an_error() -> None:
    [finding] = check_results(TEXT, [[]], sample_tasks(TEXT, 2))
    assert finding.message == (
        "all tasks: 1 results for 2 tasks: Label Studio drops all"
    )


def test_regions_with_the_same_id_become_one() -> None:
    twice = predicting(lambda task, _: regions(span(task), span(task)))
    assert messages(check_model(TEXT, twice))[0].startswith(
        "task 1: 2 regions of 'label' have the same id and become one"
    )
    choice = {"from_name": "mood", "to_name": "text", "type": "choices", "id": "r0"}
    choice["value"] = {"choices": ["good"]}  # type: ignore[assignment]
    shared = predicting(lambda task, _: regions(span(task), choice))
    assert check_model(TEXT, shared).findings == []


def test_missing_ids_are_a_note() -> None:
    predict = predicting(lambda task, _: regions(span(task, id=None)))
    report = check_model(TEXT, predict)
    assert report.ok
    assert "Label Studio generates one" in messages(report, "note")[0]


def test_a_relation_to_a_missing_region_is_an_error() -> None:
    relation = {
        "type": "relation",
        "from_id": "r0",
        "to_id": "no",
        "direction": "right",
    }
    predict = predicting(lambda task, _: regions(span(task), relation))
    assert "'to_id' 'no' not found" in messages(check_model(TEXT, predict))[0]
    fine = {**relation, "to_id": "r5"}
    predict = predicting(lambda task, _: regions(span(task), span(task, 5, 8), fine))
    assert check_model(TEXT, predict).findings == []


def test_an_exception_of_the_model_is_an_error_with_its_type() -> None:
    def predict(tasks: list[Task], context: Context | None) -> list[Slot | Exception]:
        raise KeyError("text")

    report = check_model(TEXT, predict)
    assert not report.ok
    assert report.batch_s is None
    assert messages(report) == [
        "task 1: predict raised KeyError: 'text' (4 more)",
    ]


def test_a_wrong_count_is_reported_once() -> None:
    def predict(tasks: list[Task], context: Context | None) -> list[Slot | Exception]:
        if len(tasks) > 1:
            raise WrongCount(len(tasks), 1)
        return render([regions(span(tasks[0]))], 1, "v1")

    assert messages(check_model(TEXT, predict)) == [
        "all tasks in one call: predict() got 4 tasks and returned 1 predictions: "
        "return one per task, in order, [] for none"
    ]


def test_a_short_list_of_slots_is_an_error() -> None:
    assert messages(check_model(TEXT, lambda tasks, context: []))[0].startswith(
        "task 1: predict got 1 tasks and returned 0 predictions"
    )


def test_a_task_that_fails_is_an_error_and_the_others_are_checked() -> None:
    def predict(tasks: list[Task], context: Context | None) -> list[Slot | Exception]:
        slots = render([regions(span(task)) for task in tasks], len(tasks), "v1")
        return [
            ValueError("odd") if task["id"] == 2 else slot
            for task, slot in zip(tasks, slots, strict=True)
        ]

    report = check_model(TEXT, predict)
    assert report.predictions == 3
    assert messages(report) == [
        "task 2: predict raised ValueError: odd (1 more)",
    ]


def test_a_sample_file_that_cannot_be_read_is_a_warning() -> None:
    report = check_model(IMAGE, lambda tasks, _: [MediaError("no host")] * len(tasks))
    assert report.ok
    assert messages(report, "warning")[0].startswith(
        "task 1: cannot read the sample's file; use tasks of your own: no host"
    )


@pytest.mark.parametrize("nothing", [None, [], regions()])
def test_a_model_without_regions_is_a_warning(nothing: Any) -> None:
    report = check_model(TEXT, predicting(lambda task, _: nothing))
    assert messages(report, "warning") == [
        "all tasks: predict returned no regions for any of them"
    ]


def test_predictions_that_are_mixed_up_in_a_batch_are_an_error() -> None:
    def predict(tasks: list[Task], context: Context | None) -> list[Slot | Exception]:
        end = [regions(span(task, 0, 4 + task["id"])) for task in tasks]
        return render(end[::-1], len(tasks), "v1")

    assert messages(check_model(TEXT, predict))[0] == (
        "task 1: in a call with others it gets the prediction of task 4: keep the "
        "tasks' order"
    )


def test_predictions_that_differ_in_a_batch_are_a_warning() -> None:
    def predict(tasks: list[Task], context: Context | None) -> list[Slot | Exception]:
        found = [regions(span(task, 0, 3 + len(tasks))) for task in tasks]
        return render(found, len(tasks), "v1")

    assert messages(check_model(TEXT, predict), "warning") == [
        "task 1: it gets another prediction in a call with others (3 more)"
    ]


def test_the_last_digits_and_the_ids_may_differ() -> None:
    calls: list[int] = []

    def answer(task: Task, context: Context | None) -> Any:
        calls.append(1)
        return {
            "result": [span(task, id=str(len(calls)))],
            "score": 0.5 + 1e-6 * len(calls),
        }

    assert check_model(TEXT, predicting(answer)).findings == []


def test_a_model_that_is_not_deterministic_is_noted_and_not_compared() -> None:
    calls: list[int] = []

    def answer(task: Task, context: Context | None) -> Any:
        calls.append(1)
        return regions(span(task, 0, 1 + len(calls)))

    report = check_model(TEXT, predicting(answer))
    assert [f.message for f in report.findings] == [
        "task 1: not deterministic: two calls returned different predictions"
    ]


def test_tasks_are_copied_for_each_call() -> None:
    def predict(tasks: list[Task], context: Context | None) -> list[Slot | Exception]:
        slots = render([regions(span(task)) for task in tasks], len(tasks), "v1")
        for task in tasks:
            task["data"].clear()
        return slots

    assert check_model(TEXT, predict).findings == []


def test_suggestions_are_requested_with_a_region_of_the_model() -> None:
    contexts: list[Context | None] = []

    def answer(task: Task, context: Context | None) -> Any:
        contexts.append(context)
        if context and len(context["result"]) == 1:
            raise RuntimeError("no suggestions here")
        return regions(span(task))

    def predict(tasks: list[Task], context: Context | None) -> list[Slot | Exception]:
        return predicting(answer)(tasks, context)  # type: ignore[no-any-return]

    report = check_model(TEXT, predict)
    assert [c["result"][0]["is_positive"] for c in contexts if c] == [True]
    assert report.ok
    assert messages(report, "warning") == [
        "a suggestion: predict raised RuntimeError: no suggestions here"
    ]


def test_wrong_suggestions_are_errors() -> None:
    def answer(task: Task, context: Context | None) -> Any:
        return regions(span(task, from_name="tag") if context else span(task))

    assert messages(check_model(TEXT, predicting(answer)))[0].startswith(
        "a suggestion, region 0: from_name 'tag' is not in the label config"
    )


def test_several_predictions_of_a_task_are_all_checked() -> None:
    report = check_model(TEXT, predicting(lambda task, _: [regions(span(task))] * 2))
    assert report.ok
    assert (report.predictions, report.regions) == (8, 8)


def test_a_correct_box_is_accepted() -> None:
    answer = regions(box())
    assert check_model(IMAGE, predicting(lambda task, _: answer)).findings == []
    assert json.loads(json.dumps(answer)) == answer


class OfOld(LabelStudioMLBase):
    def fit(self, completions: Any, workdir: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        pass


class Needy(LabelStudioMLBase):
    def fit(self, event: str, data: Any, epochs: int) -> Any:  # type: ignore[override]
        pass


@pytest.mark.parametrize(
    ("model", "severity", "said"),
    [
        (OfOld, "note", "training: fit has the shape of label_studio_ml 1.0: it gets"),
        (Needy, "error", "'epochs'): write fit(self, event, data, **kwargs)"),
    ],
)
def test_a_fit_of_another_shape_is_reported(
    model: type[LabelStudioMLBase], severity: str, said: str
) -> None:
    predict = predicting(lambda task, _: regions(span(task)))
    [message] = messages(check_model(TEXT, predict, model_class=model), severity)
    assert said in message
