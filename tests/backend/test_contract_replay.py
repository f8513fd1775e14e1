"""Every request that Label Studio 1.23.2 was recorded to send, sent to a backend.

Source: ``tests/payloads``, recorded against a stub whose answers were wrong on purpose:
only the requests count. The stub's mount points (``/img``, ``/pre``, ``/u``) are left
out of the paths; ``/custom`` is a webhook at another URL and ``/sick`` where a redirect
of ``/health`` led.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.doubles import Client, Echo, client_of, one_sentence

PAYLOADS = Path(__file__).parents[1] / "payloads"
RECORDED = sorted(path.stem for path in PAYLOADS.glob("*.json"))[1:]
"""Without 000, which holds what Label Studio answered to its own callers."""

ROUTES = {
    "/health": "/health",
    "/sick": "/health",
    "/setup": "/setup",
    "/predict": "/predict",
    "/webhook": "/webhook",
    "/custom": "/webhook",
    "/versions": "/versions",
    "/train": "/train",
}


def untrimmed(items: list[Any]) -> list[Any]:
    """A list as it was sent: the fixtures name how many items they left out."""
    if not items or not isinstance(items[-1], str):
        return items
    left_out = re.match(r"\.\.\. (\d+) more items", items[-1])
    if left_out is None:
        return items
    whole = items[:-1]
    for number in range(int(left_out[1])):
        whole.append({**whole[0], "id": 10_000 + number, "data": {"text": f"{number}"}})
    return whole


def request_of(name: str) -> tuple[str, str, dict[str, str], Any]:
    """Method, route, headers and body of a recorded request."""
    request = json.loads((PAYLOADS / f"{name}.json").read_text())["request"]
    route = ROUTES["/" + request["path"].rpartition("/")[2]]
    body = request["body"]
    if isinstance(body, dict) and "tasks" in body:
        body["tasks"] = untrimmed(body["tasks"])
    headers = {
        key: value
        for key, value in request["headers"].items()
        if key not in ("Host", "Content-Length", "Connection")
    }
    return request["method"], route, headers, body


def send(client: Client, name: str) -> httpx.Response:
    method, route, headers, body = request_of(name)
    content = b"" if body is None else json.dumps(body).encode()
    return client.request(method, route, headers=headers, content=content)


def named(*routes: str) -> list[str]:
    return [name for name in RECORDED if request_of(name)[1] in routes]


@pytest.fixture(scope="module")
def backend() -> Iterator[Client]:
    """One backend for the whole recording, as it was."""
    client = client_of(Echo)
    yield client
    client.close()


def test_the_whole_recording_is_here() -> None:
    routes = Counter(request_of(name)[:2] for name in RECORDED)

    assert routes == {
        ("GET", "/health"): 24,
        ("POST", "/setup"): 41,
        ("POST", "/predict"): 67,
        ("POST", "/webhook"): 38,
        ("GET", "/versions"): 5,
        ("POST", "/train"): 1,
    }


@pytest.mark.parametrize("name", named("/health"))
def test_every_health_check_finds_the_backend_up(backend: Client, name: str) -> None:
    answer = send(backend, name)

    assert answer.status_code == 200
    assert answer.json() == {"status": "UP", "model_class": "Echo"}


@pytest.mark.parametrize("name", named("/setup"))
def test_every_setup_is_answered_with_one_version(backend: Client, name: str) -> None:
    answer = send(backend, name)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"model_version": "echo-1"}


@pytest.mark.parametrize("name", named("/predict"))
def test_every_predict_gets_one_slot_per_task_of_the_version_of_setup(
    backend: Client, name: str
) -> None:
    _, _, _, body = request_of(name)
    version = backend.version(project=body["project"], schema=body["label_config"])

    answer = send(backend, name)

    assert answer.status_code == 200
    assert list(answer.json()) == ["results"]
    results = answer.json()["results"]
    assert len(results) == len(body["tasks"])
    for task, slot in zip(body["tasks"], results, strict=True):
        assert set(slot) == {"result", "score", "model_version"}
        assert slot["model_version"] == version == "echo-1"
        assert math.isfinite(slot["score"])
        said = [region["value"]["choices"] for region in slot["result"]]
        assert said == [[str(task["data"].get("text"))]]


def test_250_selected_tasks_come_in_one_request_and_are_answered_in_it(
    backend: Client,
) -> None:
    results = send(backend, "020-dm-retrieve-250-predict").json()["results"]

    assert len(results) == 250
    said = [slot["result"][0]["value"]["choices"][0] for slot in results]
    assert said == ["text 0", "text 1", *map(str, range(248))]


@pytest.mark.parametrize("name", named("/webhook"))
def test_every_event_is_taken_with_an_object(backend: Client, name: str) -> None:
    answer = send(backend, name)

    assert answer.status_code == 200
    assert list(answer.json()) == ["status"]


class Learner(Echo):
    """Has a ``fit``, so that events become jobs."""

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        raise AssertionError("a server trains nothing itself")


@pytest.fixture
def learner() -> Iterator[Client]:
    client = client_of(Learner)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("037-webhook-annotation-created-webhook", "ANNOTATION_CREATED"),
        ("038-webhook-annotation-updated-webhook", "ANNOTATION_UPDATED"),
        (
            "041-webhook-predictions-to-annotations-webhook",
            "ANNOTATIONS_CREATED",
        ),
        ("040-webhook-annotation-deleted-webhook", "ANNOTATIONS_DELETED"),
        ("053-train-webhook", "START_TRAINING"),
    ],
)
def test_an_event_that_teaches_something_is_answered_with_its_job(
    learner: Client, name: str, event: str
) -> None:
    answer = send(learner, name)

    assert answer.status_code == 201
    job = learner.get(f"/api/jobs/{answer.json()['job']}").json()
    assert (job["status"], job["event"], job["attempts"]) == ("queued", event, 0)
    assert learner.get("/api/jobs").json()["jobs"][0]["id"] == job["id"]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("039-webhook-annotation-skipped-webhook", "nothing new"),
        ("043-webhook-project-updated-webhook", "not trained on"),
        ("048-webhook-send-payload-false-custom-header-custom", "no project"),
    ],
)
def test_an_event_that_teaches_nothing_says_why(
    learner: Client, name: str, status: str
) -> None:
    answer = send(learner, name)

    assert (answer.status_code, answer.json()) == (200, {"status": status})
    assert learner.get("/api/jobs").json() == {"jobs": []}


@pytest.mark.parametrize("name", named("/versions"))
def test_versions_are_a_list_that_holds_the_one_that_serves(
    backend: Client, name: str
) -> None:
    assert backend.version() == "echo-1"

    answer = send(backend, name)

    assert answer.status_code == 200
    assert answer.json() == {"versions": ["echo-1"]}


def test_the_training_request_of_older_versions_is_taken(backend: Client) -> None:
    answer = send(backend, "169-legacy-train-flag-off-train")

    assert answer.status_code == 200
    assert answer.json() == {"status": "not trained on"}


def test_the_training_request_of_older_versions_makes_a_job(learner: Client) -> None:
    job = send(learner, "169-legacy-train-flag-off-train").json()["job"]

    status = learner.post("/job_status", {"job": job}).json()
    assert (status["job_status"], status["error"]) == ("queued", None)
    assert learner.get("/is_training").json() == {"is_training": True}
    learner.post(f"/api/jobs/{job}/cancel")
    status = learner.post("/job_status", {"job": job}).json()
    assert status["job_status"] == "failed"
    assert status["error"] == "the job was cancelled"
    assert status["ended_at"]
    assert learner.get("/is_training").json() == {"is_training": False}


@pytest.fixture(scope="module")
def protected() -> Iterator[Client]:
    """A backend that asks for what the recorded Label Studio was told to send."""
    header = request_of("149-auth-ok-health")[2]["Authorization"]
    user, _, password = base64.b64decode(header.split()[1]).decode().partition(":")
    client = client_of(Echo, BASIC_AUTH_USER=user, BASIC_AUTH_PASS=password)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("147-auth-missing-health", 200),
        ("148-auth-wrong-health", 200),
        ("149-auth-ok-health", 200),
        ("150-auth-ok-setup", 200),
        ("152-auth-ok-setup", 200),
        ("153-auth-predict-predict", 200),
        ("154-auth-train-webhook", 200),
        ("155-auth-annotation-webhook-401-webhook", 401),
        ("156-auth-userinfo-in-url-u_setup", 200),
        ("157-auth-userinfo-webhook-webhook", 401),
        ("158-auth-userinfo-webhook-u_webhook", 200),
    ],
)
def test_credentials_are_asked_for_as_label_studio_sends_them(
    protected: Client, name: str, status: int
) -> None:
    answer = send(protected, name)

    assert answer.status_code == status
    if status == 401:
        assert "http://user:password@host" in one_sentence(answer)
        assert answer.headers["www-authenticate"].startswith("Basic ")
