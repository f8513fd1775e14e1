"""What ``lsml-bento doctor`` finds, with servers that misbehave on purpose."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from lsml_bento.adapters.label_studio_media import LabelStudioMedia
from lsml_bento.diagnostics import doctor
from lsml_bento.diagnostics.doctor import Check, diagnose
from tests.adapters.test_label_studio_media import Request, Site, sends

LEGACY = "0123456789abcdef0123456789abcdef01234567"
CONFIG = """<View><Text name="text" value="$text"/>
<Choices name="mood" toName="text"><Choice value="good"/></Choices></View>"""
PROJECT = {
    "id": 7,
    "title": "Moods",
    "created_at": "2026-11-23T13:47:09.000000Z",
    "label_config": CONFIG,
    "task_number": 1,
}
TASK = {"id": 3, "data": {"text": "fine", "image": ["/data/upload/7/a.png"]}}
REGION = {
    "id": "a",
    "from_name": "mood",
    "to_name": "text",
    "type": "choices",
    "value": {"choices": ["good"]},
}
PREDICTION = {"result": [REGION], "score": 0.5, "model_version": "v1"}


def answers(body: object, status: int = 200, **headers: str) -> Any:
    return sends(json.dumps(body).encode(), status, **headers)


def pat(kind: str = "refresh", lives_s: float = 10**8) -> str:
    claims = {"token_type": kind, "exp": int(time.time() + lives_s)}
    return jwt.encode(claims, "k" * 32, algorithm="HS256")


@pytest.fixture
def studio() -> Iterator[Site]:
    """A Label Studio with one project, as far as the doctor asks."""
    with Site() as site:
        site.routes |= {
            "/api/version/": answers({"release": "1.23.2"}),
            "/api/current-user/whoami": answers({"id": 1}),
            "/api/token/refresh/": answers({"access": "short-lived"}),
            "/api/projects/": answers({"results": [{"id": 6}, PROJECT]}),
            "/api/projects/7/": answers(PROJECT),
            "/api/projects/7/tasks/": answers([TASK]),
            "/api/ml": answers([]),
            "/storage-data/uploaded/": sends(b"pixels"),
        }
        yield site


@pytest.fixture
def backend() -> Iterator[Site]:
    """A backend that answers as it should."""
    with Site() as site:
        site.routes |= {
            "/health": answers({"status": "UP"}),
            "/setup": answers({"model_version": "v1"}),
            "/predict": answers({"results": [PREDICTION]}),
            "/webhook": answers({}),
        }
        yield site


def by_name(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def ask(studio: Site, **options: Any) -> dict[str, Check]:
    defaults = {"api_key": LEGACY, "in_container": False}
    return by_name(diagnose(studio.url, **{**defaults, **options}))


def replay(backend: Site, **options: Any) -> dict[str, Check]:
    defaults = {"backend_url": backend.url, "label_config": CONFIG}
    return by_name(diagnose(None, **{**defaults, **options}))


def test_when_all_is_well_every_hop_says_so(
    studio: Site, backend: Site, tmp_path: Path
) -> None:
    studio.routes["/api/ml"] = answers([{"url": backend.url, "state": "CO"}])
    media = LabelStudioMedia(studio.url, LEGACY, None, tmp_path)
    checks = list(
        diagnose(studio.url, api_key=LEGACY, media=media, backend_url=backend.url + "/")
    )
    media.close()
    assert [(check.name, check.status) for check in checks] == [
        ("reach Label Studio", "ok"),
        ("Label Studio's version", "ok"),
        ("API key", "ok"),
        ("project", "ok"),
        ("one media file", "ok"),
        ("the backend's address", "warn"),
        ("connected", "ok"),
        ("GET /health", "ok"),
        ("POST /setup", "ok"),
        ("POST /webhook", "ok"),
        ("POST /predict", "ok"),
    ]
    found = {check.name: check.sentence for check in checks}
    assert found["Label Studio's version"] == (
        f"Label Studio 1.23.2 answers at {studio.url}"
    )
    assert found["API key"] == "Label Studio takes the legacy token"
    assert found["project"] == "project 7 (Moods) can be read"
    assert found["one media file"].startswith("task 3: 6 bytes")
    assert found["POST /setup"].endswith("model version v1")


def test_the_backend_is_asked_as_label_studio_asks(studio: Site, backend: Site) -> None:
    ask(studio, backend_url=backend.url, basic_auth=("me", "secret"))
    asked = {request.path: request for request in backend.requests}
    assert list(asked) == ["/health", "/setup", "/webhook", "/predict"]
    setup = json.loads(asked["/setup"].body)
    assert setup["project"] == "7.1795441629"
    assert setup["schema"] == CONFIG
    predict = json.loads(asked["/predict"].body)
    assert predict["tasks"] == [TASK]
    assert predict["params"]["context"] is None
    sent = {path: request.authorization for path, request in asked.items()}
    assert sent == dict.fromkeys(asked, "Basic bWU6c2VjcmV0") | {"/webhook": None}


def test_a_user_in_the_backends_address_goes_with_every_call(backend: Site) -> None:
    url = backend.url.replace("//", "//me:secret@")
    checks = replay(backend, backend_url=url)
    sent = {request.authorization for request in backend.requests}
    assert sent == {"Basic bWU6c2VjcmV0"}
    assert "secret" not in str(checks)


# From here to Label Studio


@pytest.mark.parametrize(
    "url", ["label-studio:8080", "ftp://a", "http://", "http://a:b"]
)
def test_what_is_no_address_is_told(url: str) -> None:
    [check] = diagnose(url)
    assert check.status == "fail"
    assert check.sentence == f"{url!r} is no address"


def test_a_host_that_does_not_exist_is_told() -> None:
    [check] = diagnose("http://no-such-host.invalid:8080")
    assert check.sentence == "no such host name: no-such-host.invalid"
    assert check.remedy.startswith("set LABEL_STUDIO_URL")


def test_localhost_inside_a_container_is_explained() -> None:
    with Site() as site:
        port = site.port
    url = f"http://localhost:{port}"
    [inside] = diagnose(url, in_container=True)
    [outside] = diagnose(url, in_container=False)
    assert inside.sentence == outside.sentence
    assert outside.sentence == f"no connection to localhost:{port}: Connection refused"
    assert f"http://host.docker.internal:{port}" in inside.remedy
    assert "docker" not in outside.remedy


@pytest.mark.parametrize(
    ("answer", "sentence", "remedy"),
    [
        (
            sends(b"", 301, Location="https://ls.test/ls/api/version/"),
            "sends us to https://ls.test/ls: the API key does not follow",
            "set LABEL_STUDIO_URL to https://ls.test/ls",
        ),
        (
            sends(b"<html>"),
            "answers 200, but not as Label Studio does",
            "check the port and the sub-path in LABEL_STUDIO_URL",
        ),
        (
            answers({"release": "1"}, 502),
            "answers 502, but not as Label Studio does",
            "check the port and the sub-path in LABEL_STUDIO_URL",
        ),
        (
            sends(b"", Content_Length="9"),
            "does not speak HTTP as expected: RemoteProtocolError",
            "check http:// or https:// in LABEL_STUDIO_URL",
        ),
    ],
)
def test_what_is_no_label_studio_is_told(
    studio: Site, answer: Any, sentence: str, remedy: str
) -> None:
    studio.routes["/api/version/"] = answer
    check = ask(studio)["Label Studio's version"]
    assert (check.status, check.remedy) == ("fail", remedy)
    assert check.sentence == f"{studio.url} {sentence}"


OFF = "Authentication token no longer valid: legacy token authentication is disabled"


@pytest.mark.parametrize(
    ("key", "routes", "status", "sentence"),
    [
        (None, {}, "warn", "no API key: uploaded files can not be read"),
        (LEGACY, {}, "ok", "Label Studio takes the legacy token"),
        (
            LEGACY,
            {"/api/current-user/whoami": answers({"detail": OFF}, 401)},
            "fail",
            "it is a legacy token, and legacy tokens are off in this organization (the "
            "default of new ones)",
        ),
        (
            LEGACY,
            {"/api/current-user/whoami": answers({"detail": "Invalid token."}, 401)},
            "fail",
            "Label Studio does not know the legacy token (401): it was reset, or "
            "belongs to another Label Studio",
        ),
        (pat(), {}, "ok", "Label Studio takes the personal access token"),
        (
            pat(),
            {"/api/token/refresh/": answers({"detail": "Token is blacklisted"}, 401)},
            "fail",
            "Label Studio answered 401 to the personal access token: it was revoked, "
            "or belongs to another Label Studio",
        ),
        (
            pat(),
            {"/api/current-user/whoami": answers({}, 401)},
            "fail",
            "the personal access token was exchanged, but its access token gets 401",
        ),
        (pat(lives_s=-9), {}, "fail", "the personal access token has expired"),
        (pat("access"), {}, "fail", "it is an access token, which lives for minutes"),
        (
            LEGACY,
            {"/api/current-user/whoami": sends(b"", Content_Length="9")},
            "fail",
            "asking about it failed: RemoteProtocolError",
        ),
    ],
)
def test_every_kind_of_key_is_explained(
    studio: Site, key: str | None, routes: dict[str, Any], status: str, sentence: str
) -> None:
    studio.routes |= routes
    checks = ask(studio, api_key=key)
    check = checks["API key"]
    assert (check.status, check.sentence) == (status, sentence)
    assert ("project" in checks) is (status == "ok")
    assert not key or key not in str(checks)


def test_a_personal_access_token_is_sent_as_its_access_token(studio: Site) -> None:
    key = pat()
    ask(studio, api_key=key)
    sent = {r.path.partition("?")[0]: r.authorization for r in studio.requests}
    assert sent["/api/projects/7/"] == "Bearer short-lived"
    assert sent["/api/token/refresh/"] is None
    assert json.loads(studio.requests[1].body) == {"refresh": key}


@pytest.mark.parametrize(
    ("path", "answer", "status", "sentence"),
    [
        (
            "/api/projects/",
            answers({"results": []}),
            "warn",
            "no project with tasks was ",
        ),
        (
            "/api/projects/7/",
            answers({}, 404),
            "fail",
            "Label Studio answers 404 for pro",
        ),
        ("/api/projects/7/tasks/", answers({}, 404), "warn", "project 7 has no tasks"),
        ("/api/projects/7/tasks/", answers([]), "warn", "project 7 has no tasks"),
        (
            "/api/projects/7/",
            sends(b"no JSON"),
            "fail",
            "reading it failed: JSONDecodeE",
        ),
    ],
)
def test_what_keeps_a_project_from_being_read_is_told(
    studio: Site, path: str, answer: Any, status: str, sentence: str
) -> None:
    studio.routes[path] = answer
    check = ask(studio)["project"]
    assert check.status == status
    assert check.sentence.startswith(sentence)


def test_the_project_that_was_named_is_read(studio: Site) -> None:
    studio.routes["/api/projects/8/"] = answers({**PROJECT, "id": 8})
    studio.routes["/api/projects/8/tasks/"] = answers([TASK])
    check = ask(studio, project=8)["project"]
    assert check.sentence == "project 8 (Moods) can be read"
    assert "/api/projects/" not in [r.path.partition("?")[0] for r in studio.requests]


def test_a_file_that_can_not_be_read_is_told_with_the_hop(
    studio: Site, tmp_path: Path
) -> None:
    studio.routes["/storage-data/uploaded/"] = sends(b"", 403)
    media = LabelStudioMedia(studio.url, LEGACY, None, tmp_path)
    check = ask(studio, media=media)["one media file"]
    media.close()
    assert check.status == "fail"
    assert check.sentence.startswith("task 3: Label Studio answered 404 to http://127")


def test_tasks_without_files_need_no_media(studio: Site, tmp_path: Path) -> None:
    studio.routes["/api/projects/7/tasks/"] = answers(
        [{"id": 1, "data": {"text": "a"}}]
    )
    media = LabelStudioMedia(studio.url, LEGACY, None, tmp_path)
    check = ask(studio, media=media)["one media file"]
    assert (check.status, check.sentence) == ("ok", "none of 1 tasks names a file")


# From Label Studio to the backend


def test_a_private_address_names_the_switches_of_label_studio(backend: Site) -> None:
    check = replay(backend)["the backend's address"]
    assert check.status == "warn"
    assert check.sentence == (
        "127.0.0.1 is 127.0.0.1, which Label Studio 1.23 blocks unless told otherwise"
    )
    assert "ML_BLOCK_LOCAL_IP=false" in check.remedy
    assert "SSRF_PROTECTION_ENABLED=false" in check.remedy
    assert f"http://host.docker.internal:{backend.port}" in check.remedy


def test_a_public_address_needs_no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 9090))]
    check = doctor._backend_address("http://127.0.0.1:9090", None)
    assert check.status == "warn"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    check = doctor._backend_address("http://backend.test:9090", None)
    assert (check.status, check.remedy) == ("ok", "")
    assert check.sentence == "backend.test is 93.184.216.34, a public address"


@pytest.mark.parametrize(
    ("url", "sentence", "remedy"),
    [
        ("backend:9090", "'backend:9090' is no address", "use http://HOST:9090"),
        (
            "http://a.test/pre?x=1",
            "Label Studio drops the path of an address with ? or #",
            "enter http://a.test/pre",
        ),
        ("http://no-such.invalid", "no such host name: no-such.invalid", "check it"),
        (
            "http://localhost:9090",
            "localhost is Label Studio's own machine or container, not this one",
            "enter an address of this machine that Label Studio's machine reaches",
        ),
    ],
)
def test_addresses_that_can_not_work_are_told(
    url: str, sentence: str, remedy: str
) -> None:
    checks = by_name(diagnose("http://no-such-host.invalid", backend_url=url))
    check = checks["the backend's address"]
    assert (check.status, check.sentence, check.remedy) == ("fail", sentence, remedy)
    assert "GET /health" not in checks


@pytest.mark.parametrize(
    ("backends", "status", "sentence"),
    [
        ([], "warn", "the project has 0 backends, and none is "),
        ([{"url": "U", "state": "CO"}], "ok", "Label Studio says Connected"),
        ([{"url": "U/", "state": "DI"}], "fail", "Label Studio says Disconnected"),
        (
            [{"url": "U", "state": "ER", "error_message": "boom"}],
            "fail",
            "Label Studio says Error: boom",
        ),
    ],
)
def test_what_label_studio_itself_says_is_told(
    studio: Site, backend: Site, backends: Any, status: str, sentence: str
) -> None:
    rows = [{**row, "url": row["url"].replace("U", backend.url)} for row in backends]
    studio.routes["/api/ml"] = answers(rows)
    check = ask(studio, backend_url=backend.url)["connected"]
    assert check.status == status
    assert check.sentence.startswith(sentence)


def test_a_second_backend_is_told_that_it_is_not_asked(
    studio: Site, backend: Site
) -> None:
    rows = [{"url": "http://first.test"}, {"url": backend.url, "state": "CO"}]
    studio.routes["/api/ml"] = answers(rows)
    checks = diagnose(studio.url, api_key=LEGACY, backend_url=backend.url)
    connected = [check for check in checks if check.name == "connected"]
    assert [check.status for check in connected] == ["warn", "ok"]
    assert connected[0].sentence == (
        "Label Studio asks the project's first backend only: http://first.test"
    )


def test_a_backend_that_is_down_is_told() -> None:
    with Site() as site:
        pass
    checks = replay(site)
    assert list(checks) == ["the backend's address", "GET /health"]
    assert checks["GET /health"].sentence == "the connection failed: ConnectError"


def test_without_a_sample_setup_and_predict_are_not_tried(backend: Site) -> None:
    checks = replay(backend, label_config=None)
    assert checks["/setup and /predict"].status == "warn"
    assert [request.path for request in backend.requests] == ["/health", "/webhook"]


def test_a_label_config_that_does_not_parse_is_told(backend: Site) -> None:
    assert replay(backend, label_config="<View>")["label config"].status == "fail"


def says(site: Site, name: str, status: str, sentence: str, remedy: str = "") -> None:
    check = replay(site)[name]
    assert (check.status, check.sentence) == (status, sentence)
    assert remedy in check.remedy


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/health", "GET /health"),
        ("/setup", "POST /setup"),
        ("/webhook", "POST /webhook"),
        ("/predict", "POST /predict"),
    ],
)
def test_a_call_that_label_studio_would_not_wait_for_is_told(
    backend: Site, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    for limit in ("_HEALTH_S", "_SETUP_S", "_PREDICT_S", "_WEBHOOK_S"):
        monkeypatch.setattr(doctor, limit, 0.3)
    quick, over = backend.routes[path], threading.Event()

    def slow(request: Request) -> Any:
        over.wait(2)
        return quick(request)

    backend.routes[path] = slow
    sentence = "no answer in 0.3 s, after which Label Studio hangs up"
    says(backend, name, "fail", sentence, "lsml-bento check")
    over.set()


def test_an_answer_in_pieces_is_too_slow_as_well(
    backend: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 2))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    says(
        backend,
        "GET /health",
        "fail",
        "no answer in 1 s, after which Label Studio hangs up",
    )


def test_label_studios_limits_are_the_recorded_ones() -> None:
    limits = (doctor._CONNECT_S, doctor._HEALTH_S, doctor._SETUP_S)
    assert limits == (1.0, 1.0, 3.0)
    assert (doctor._PREDICT_S, doctor._WEBHOOK_S) == (100.0, 1.0)


@pytest.mark.parametrize("path", ["/health", "/setup", "/predict"])
def test_missing_basic_auth_is_explained(backend: Site, path: str) -> None:
    backend.routes[path] = answers({"error": "no"}, 401)
    name = f"{'GET' if path == '/health' else 'POST'} {path}"
    sentence = "it answers 401: user and password are missing or wrong"
    says(backend, name, "fail", sentence, "BASIC_AUTH_USER and BASIC_AUTH_PASS")


def test_webhooks_without_basic_auth_are_explained(backend: Site) -> None:
    backend.routes["/webhook"] = answers({}, 401)
    sentence = "it answers 401: Label Studio sends no basic auth with its webhooks"
    says(backend, "POST /webhook", "fail", sentence, "http://USER:PASSWORD@HOST:PORT")


@pytest.mark.parametrize(
    ("path", "answer", "name", "sentence"),
    [
        ("/health", sends(b"ok"), "GET /health", "its answer is not JSON"),
        ("/health", answers({}, 503), "GET /health", "it answers 503"),
        (
            "/setup",
            answers({"error": "model.py, line 3"}, 500),
            "POST /setup",
            "it answers 500: model.py, line 3",
        ),
        (
            "/setup",
            answers([]),
            "POST /setup",
            "it answers without a model_version: None",
        ),
        (
            "/setup",
            answers({"model_version": 3}),
            "POST /setup",
            "it answers without a model_version: 3",
        ),
        (
            "/predict",
            answers({"results": {}}),
            "POST /predict",
            "it answers without a list of results: Label Studio saves nothing",
        ),
        (
            "/predict",
            answers({"results": [None]}),
            "POST /predict",
            "task 1: the prediction is null, not an object: Label Studio fails with "
            "500 and does not open the task; [] means none",
        ),
        (
            "/predict",
            answers({"results": [{**PREDICTION, "result": [3, {}]}]}),
            "POST /predict",
            "task 1, region 0: a region is 3, not an object (and 1 more)",
        ),
    ],
)
def test_answers_that_label_studio_does_not_understand_are_told(
    backend: Site, path: str, answer: Any, name: str, sentence: str
) -> None:
    backend.routes[path] = answer
    says(backend, name, "fail", sentence)


def test_a_version_other_than_setups_is_a_warning(backend: Site) -> None:
    other = {**PREDICTION, "model_version": "v2"}
    backend.routes["/predict"] = answers({"results": [[other, PREDICTION]]})
    says(
        backend,
        "POST /predict",
        "warn",
        "its model version is v1, v2, /setup's is v1: Label Studio adds the same "
        "predictions at every retrieval",
        "the same model_version in both",
    )


def test_a_webhook_may_answer_nothing(backend: Site) -> None:
    backend.routes["/webhook"] = sends(b"")
    assert replay(backend)["POST /webhook"].status == "ok"


def test_a_container_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with Site() as site:
        url = f"http://127.0.0.1:{site.port}"
    [check] = diagnose(url)
    assert "host.docker.internal" in check.remedy


def test_checks_come_one_by_one(studio: Site) -> None:
    made: Callable[[], Check] = diagnose(studio.url).__next__
    assert made().name == "reach Label Studio"
    assert studio.requests == []
