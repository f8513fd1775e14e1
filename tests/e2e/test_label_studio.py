"""A real Label Studio works with the keyword example."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.client import Json, LabelStudioApi
from tests.e2e.processes import Server, eventually
from tests.e2e.recorder import Recorder

VERSION = "keyword-1"
EMPTY_CONTEXT: Json = {"result": []}


@pytest.fixture
def recorder(keyword_backend: Server) -> Iterator[Recorder]:
    """The keyword backend behind a proxy that notes what Label Studio asks."""
    with Recorder(keyword_backend.url) as proxy:
        yield proxy


def labelled(prediction: Json) -> list[tuple[str, str]]:
    """The text and the label of every region."""
    values = [region["value"] for region in prediction["result"]]
    return [(value["text"], value["labels"][0]) for value in values]


def region_of(text: str, word: str, label: str) -> Json:
    """A finished region as Label Studio's front end sends it."""
    start = text.index(word)
    value = {"start": start, "end": start + len(word), "text": word, "labels": [label]}
    return {
        "id": "aB3",
        "from_name": "label",
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
        "value": value,
    }


def test_a_backend_connects_and_shows_its_model_version(
    label_studio: LabelStudioApi, keyword_backend: Server, keyword_config: str
) -> None:
    project = label_studio.create_project("connect", keyword_config)
    connection = project.connect(keyword_backend.url)
    assert connection.created["state"] == "CO"
    assert connection.created["readable_state"] == "Connected"
    assert connection.created["model_version"] == VERSION
    assert connection.created["error_message"] is None
    assert [webhook["url"] for webhook in project.webhooks()] == [
        f"{keyword_backend.url}/webhook"
    ]


def test_250_tasks_are_predicted_in_one_action_and_only_once(
    label_studio: LabelStudioApi, recorder: Recorder, keyword_config: str
) -> None:
    project = label_studio.create_project("250 tasks", keyword_config)
    texts = [f"{'🐉' * (i % 3)} the dragon of New York, {i}" for i in range(250)]
    by_task = dict(zip(project.add_tasks(texts), texts, strict=True))
    created = project.connect(recorder.url).created

    answer = project.retrieve_predictions()
    predictions = project.predictions()

    assert answer["detail"] == "Retrieved 250 predictions"
    [asked] = recorder.calls("/predict")
    assert len(asked.body["tasks"]) == 250
    assert len(asked.answer["results"]) == 250
    assert sorted(p["task"] for p in predictions) == sorted(by_task)
    assert {p["model_version"] for p in predictions} == {created["model_version"]}
    for prediction in predictions:
        text = by_task[prediction["task"]]
        found = labelled(prediction)
        assert found[-2:] == [("dragon", "Creature"), ("New York", "Place")]
        for region in prediction["result"]:
            value = region["value"]
            assert text[value["start"] : value["end"]] == value["text"]

    project.retrieve_predictions()
    assert len(recorder.calls("/predict")) == 1
    assert len(project.predictions()) == 250


def test_opening_a_task_requests_a_prediction(
    label_studio: LabelStudioApi, recorder: Recorder, keyword_config: str
) -> None:
    project = label_studio.create_project("open a task", keyword_config)
    [task] = project.add_tasks(["a castle with a unicorn"])
    project.connect(recorder.url)

    [prediction] = project.open_task(task)["predictions"]

    expected = [("castle", "Place"), ("unicorn", "Creature")]
    assert labelled(prediction) == expected
    assert prediction["model_version"] == VERSION
    assert prediction["score"] == 1.0
    assert [len(call.body["tasks"]) for call in recorder.calls("/predict")] == [1]


def test_a_drawn_region_is_suggested_wherever_its_text_occurs(
    label_studio: LabelStudioApi, keyword_backend: Server, keyword_config: str
) -> None:
    text = "🐉 An elf met an elf, and the Elf sang."
    project = label_studio.create_project("interactive", keyword_config)
    [task] = project.add_tasks([text])
    connection = project.connect(keyword_backend.url, is_interactive=True)

    finished = region_of(text, "elf", "Creature")
    answer = connection.suggest(task, {"result": [finished]})

    assert set(answer) == {"data"}
    assert labelled(answer["data"]) == [("elf", "Creature"), ("Elf", "Creature")]
    offsets = [region["value"]["start"] for region in answer["data"]["result"]]
    assert offsets == [text.index("elf", 6), text.index("Elf")]
    assert project.predictions() == []


@pytest.mark.parametrize("context", [None, EMPTY_CONTEXT, {"result": [{"value": {}}]}])
def test_an_interactive_request_without_a_region_is_not_an_error(
    label_studio: LabelStudioApi,
    keyword_backend: Server,
    keyword_config: str,
    context: Json | None,
) -> None:
    project = label_studio.create_project("nothing to suggest", keyword_config)
    [task] = project.add_tasks(["nothing to see here"])
    connection = project.connect(keyword_backend.url, is_interactive=True)
    assert connection.suggest(task, context)["data"]["result"] == []


def test_the_send_test_request_button_shows_a_prediction(
    label_studio: LabelStudioApi, keyword_backend: Server, keyword_config: str
) -> None:
    project = label_studio.create_project("test request", keyword_config)
    project.add_tasks(["one dragon"])
    answer = project.connect(keyword_backend.url).test_request()
    assert answer.status_code == 200
    [prediction] = answer.json()["response"]
    assert labelled(prediction) == [("dragon", "Creature")]


def test_new_labels_of_a_project_apply_at_the_next_retrieval(
    label_studio: LabelStudioApi, keyword_backend: Server, keyword_config: str
) -> None:
    project = label_studio.create_project("new labels", keyword_config)
    project.add_tasks(["a dragon and a wizard"])
    connection = project.connect(keyword_backend.url)
    project.retrieve_predictions()
    [before] = project.predictions()

    old = '<Label value="Place"'
    assert old in keyword_config
    new = '<Label value="Wizard"/>' + old
    project.change(label_config=keyword_config.replace(old, new))
    [task] = project.add_tasks(["a dragon and a wizard"])
    project.retrieve_predictions()
    [after] = [p for p in project.predictions() if p["task"] == task]

    assert labelled(before) == [("dragon", "Creature")]
    assert labelled(after) == [("dragon", "Creature"), ("wizard", "Wizard")]
    assert connection.check()["state"] == "CO"


def test_every_event_of_a_project_is_accepted(
    label_studio: LabelStudioApi, recorder: Recorder, keyword_config: str
) -> None:
    project = label_studio.create_project("events", keyword_config)
    connection = project.connect(recorder.url)
    text = "a dragon"
    first, second = project.add_tasks([text, text])
    annotation = project.annotate(first, [region_of(text, "dragon", "Creature")])
    path = f"/api/annotations/{annotation['id']}/"
    label_studio.call("PATCH", path, json={"result": []})
    label_studio.call("DELETE", path)
    label_studio.call("DELETE", f"/api/tasks/{second}/")
    project.change(title="events, renamed")

    expected = [
        "TASKS_CREATED",
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "TASKS_DELETED",
        "PROJECT_UPDATED",
    ]
    assert recorder.events() == [(action, 200) for action in expected]
    assert all(list(call.answer) == ["status"] for call in recorder.calls("/webhook"))
    assert connection.check()["state"] == "CO"


def test_a_submitted_annotation_reaches_the_backend(
    label_studio: LabelStudioApi, keyword_backend: Server, keyword_config: str
) -> None:
    project = label_studio.create_project("submit", keyword_config)
    project.connect(keyword_backend.url)
    [task] = project.add_tasks(["a dragon"])
    before = events_of(keyword_backend)
    project.annotate(task, [region_of("a dragon", "dragon", "Creature")])
    eventually(lambda: events_of(keyword_backend) == before + 1, keyword_backend.tail)


def events_of(backend: Server) -> int:
    """How many events a backend has stored, as its metrics say."""
    metrics = httpx.get(f"{backend.url}/metrics").text
    found = re.search(r"^lsml_webhook_seconds_count(?:{.*})? (.+)$", metrics, re.M)
    return int(float(found[1])) if found else 0


def test_the_start_training_button_gets_an_answer(
    label_studio: LabelStudioApi, recorder: Recorder, keyword_config: str
) -> None:
    project = label_studio.create_project("start training", keyword_config)
    connection = project.connect(recorder.url)
    connection.train()
    assert recorder.events() == [("START_TRAINING", 200)]
    assert connection.check()["error_message"] is None


def test_label_studio_can_list_the_versions(
    label_studio: LabelStudioApi, keyword_backend: Server, keyword_config: str
) -> None:
    project = label_studio.create_project("versions", keyword_config)
    assert VERSION in project.connect(keyword_backend.url).versions()["versions"]


def test_no_access_token_is_in_the_log(
    label_studio: LabelStudioApi,
    recorder: Recorder,
    keyword_config: str,
    keyword_backend: Server,
) -> None:
    project = label_studio.create_project("secrets", keyword_config)
    project.connect(recorder.url)
    token = recorder.calls("/setup")[0].body["access_token"]
    assert len(token) > 20
    assert token not in keyword_backend.log()
    assert httpx.get(f"{keyword_backend.url}/metrics").status_code == 200
