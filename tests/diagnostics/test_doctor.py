"""What ``lsml-bento doctor`` finds, with servers that answer wrongly on purpose."""

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
from lsml_bento.diagnostics import backend_calls
from lsml_bento.diagnostics.connection import Check
from lsml_bento.diagnostics.doctor import diagnose
from tests.adapters.test_label_studio_media import Request, Site, sends

# label-studio-sdk 2.1.2 calls pydantic's parse_obj when it exchanges a token.
pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method")

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
    """The routes of a Label Studio with one project."""
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
    """A backend that answers correctly."""
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


def test_all_checks_pass_when_everything_works(
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
    found = {check.name: check.message for check in checks}
    assert found["Label Studio's version"] == (
        f"Label Studio 1.23.2 answers at {studio.url}"
    )
    assert found["API key"] == "Label Studio accepts the legacy token"
    assert found["project"] == "project 7 (Moods) can be read"
    assert found["one media file"].startswith("task 3: 6 bytes")
    assert found["POST /setup"].endswith("model version v1")


def test_the_backend_gets_the_calls_of_label_studio(
    studio: Site, backend: Site
) -> None:
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


def test_a_user_in_the_backend_url_is_sent_with_every_call(backend: Site) -> None:
    url = backend.url.replace("//", "//me:secret@")
    checks = replay(backend, backend_url=url)
    sent = {request.authorization for request in backend.requests}
    assert sent == {"Basic bWU6c2VjcmV0"}
    assert "secret" not in str(checks)


# From here to Label Studio


@pytest.mark.parametrize(
    "url", ["label-studio:8080", "ftp://a", "http://", "http://a:b"]
)
def test_an_invalid_url_fails(url: str) -> None:
    [check] = diagnose(url)
    assert check.status == "fail"
    assert check.message == f"{url!r} is not an HTTP URL"


def test_an_unknown_host_fails() -> None:
    [check] = diagnose("http://no-such-host.invalid:8080")
    assert check.message == "unknown host name: no-such-host.invalid"
    assert check.remedy.startswith("set LABEL_STUDIO_URL")


def test_localhost_inside_a_container_is_explained() -> None:
    with Site() as site:
        port = site.port
    url = f"http://localhost:{port}"
    [inside] = diagnose(url, in_container=True)
    [outside] = diagnose(url, in_container=False)
    assert inside.message == outside.message
    assert outside.message == f"cannot connect to localhost:{port}: Connection refused"
    assert f"http://host.docker.internal:{port}" in inside.remedy
    assert "docker" not in outside.remedy


@pytest.mark.parametrize(
    ("answer", "message", "remedy"),
    [
        (
            sends(b"", 301, Location="https://ls.test/ls/api/version/"),
            "redirects to https://ls.test/ls, and redirects drop the API key",
            "set LABEL_STUDIO_URL to https://ls.test/ls",
        ),
        (
            sends(b"<html>"),
            "answers 200, but not as Label Studio does",
            "check the port and the path in LABEL_STUDIO_URL",
        ),
        (
            answers({"release": "1"}, 502),
            "answers 502, but not as Label Studio does",
            "check the port and the path in LABEL_STUDIO_URL",
        ),
        (
            sends(b"", Content_Length="9"),
            "does not answer as an HTTP server: RemoteProtocolError",
            "check http:// or https:// in LABEL_STUDIO_URL",
        ),
    ],
)
def test_a_server_that_is_not_label_studio_fails(
    studio: Site, answer: Any, message: str, remedy: str
) -> None:
    studio.routes["/api/version/"] = answer
    check = ask(studio)["Label Studio's version"]
    assert (check.status, check.remedy) == ("fail", remedy)
    assert check.message == f"{studio.url} {message}"


OFF = "Authentication token no longer valid: legacy token authentication is disabled"


@pytest.mark.parametrize(
    ("key", "routes", "status", "message"),
    [
        (None, {}, "warn", "no API key: uploaded files cannot be read"),
        (LEGACY, {}, "ok", "Label Studio accepts the legacy token"),
        (
            LEGACY,
            {"/api/current-user/whoami": answers({"detail": OFF}, 401)},
            "fail",
            "it is a legacy token, and legacy tokens are disabled in this organization "
            "(the default of new ones)",
        ),
        (
            LEGACY,
            {"/api/current-user/whoami": answers({"detail": "Invalid token."}, 401)},
            "fail",
            "Label Studio does not know the legacy token (401): it was reset, or "
            "belongs to another Label Studio",
        ),
        (pat(), {}, "ok", "Label Studio accepts the personal access token"),
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
        (pat("access"), {}, "fail", "it is an access token, valid for minutes only"),
        (
            LEGACY,
            {"/api/current-user/whoami": sends(b"", Content_Length="9")},
            "fail",
            "Label Studio did not answer: RemoteProtocolError",
        ),
    ],
)
def test_every_kind_of_key_is_explained(
    studio: Site, key: str | None, routes: dict[str, Any], status: str, message: str
) -> None:
    studio.routes |= routes
    checks = ask(studio, api_key=key)
    check = checks["API key"]
    assert (check.status, check.message) == (status, message)
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
    ("path", "answer", "status", "message"),
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
            "the project cannot be read: JSO",
        ),
    ],
)
def test_a_project_that_cannot_be_read_is_explained(
    studio: Site, path: str, answer: Any, status: str, message: str
) -> None:
    studio.routes[path] = answer
    check = ask(studio)["project"]
    assert check.status == status
    assert check.message.startswith(message)


def test_the_given_project_is_read(studio: Site) -> None:
    studio.routes["/api/projects/8/"] = answers({**PROJECT, "id": 8})
    studio.routes["/api/projects/8/tasks/"] = answers([TASK])
    check = ask(studio, project=8)["project"]
    assert check.message == "project 8 (Moods) can be read"
    assert "/api/projects/" not in [r.path.partition("?")[0] for r in studio.requests]


def test_a_media_file_that_cannot_be_read_fails(studio: Site, tmp_path: Path) -> None:
    studio.routes["/storage-data/uploaded/"] = sends(b"", 403)
    media = LabelStudioMedia(studio.url, LEGACY, None, tmp_path)
    check = ask(studio, media=media)["one media file"]
    media.close()
    assert check.status == "fail"
    assert check.message.startswith("task 3: Label Studio answered 404 to http://127")


def test_tasks_without_files_need_no_media(studio: Site, tmp_path: Path) -> None:
    studio.routes["/api/projects/7/tasks/"] = answers(
        [{"id": 1, "data": {"text": "a"}}]
    )
    media = LabelStudioMedia(studio.url, LEGACY, None, tmp_path)
    check = ask(studio, media=media)["one media file"]
    assert (check.status, check.message) == ("ok", "none of 1 tasks names a file")


# From Label Studio to the backend


def test_a_private_address_is_a_warning_with_the_settings_to_change(
    backend: Site,
) -> None:
    check = replay(backend)["the backend's address"]
    assert check.status == "warn"
    assert check.message == (
        "127.0.0.1 is 127.0.0.1, which Label Studio 1.23 blocks by default"
    )
    assert "ML_BLOCK_LOCAL_IP=false" in check.remedy
    assert "SSRF_PROTECTION_ENABLED=false" in check.remedy
    assert f"http://host.docker.internal:{backend.port}" in check.remedy


def test_a_public_address_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 9090))]
    check = backend_calls.check_address("http://127.0.0.1:9090", None)
    assert check.status == "warn"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    check = backend_calls.check_address("http://backend.test:9090", None)
    assert (check.status, check.remedy) == ("ok", "")
    assert check.message == "backend.test is 93.184.216.34, a public address"


@pytest.mark.parametrize(
    ("url", "message", "remedy"),
    [
        ("backend:9090", "'backend:9090' is not an HTTP URL", "use http://HOST:9090"),
        (
            "http://a.test/pre?x=1",
            "Label Studio drops the path of a URL with ? or #",
            "enter http://a.test/pre",
        ),
        (
            "http://no-such.invalid",
            "unknown host name: no-such.invalid",
            "check the host name",
        ),
        (
            "http://localhost:9090",
            "for Label Studio, localhost is its own machine or container, not this one",
            "enter an address of this machine that Label Studio can reach",
        ),
    ],
)
def test_addresses_that_cannot_work_fail(url: str, message: str, remedy: str) -> None:
    checks = by_name(diagnose("http://no-such-host.invalid", backend_url=url))
    check = checks["the backend's address"]
    assert (check.status, check.message, check.remedy) == ("fail", message, remedy)
    assert "GET /health" not in checks


@pytest.mark.parametrize(
    ("backends", "status", "message"),
    [
        ([], "warn", "http://127.0.0.1:"),
        ([{"url": "U", "state": "CO"}], "ok", "Label Studio shows Connected"),
        ([{"url": "U/", "state": "DI"}], "fail", "Label Studio shows Disconnected"),
        (
            [{"url": "U", "state": "ER", "error_message": "boom"}],
            "fail",
            "Label Studio shows Error: boom",
        ),
    ],
)
def test_the_state_in_label_studio_is_reported(
    studio: Site, backend: Site, backends: Any, status: str, message: str
) -> None:
    rows = [{**row, "url": row["url"].replace("U", backend.url)} for row in backends]
    studio.routes["/api/ml"] = answers(rows)
    check = ask(studio, backend_url=backend.url)["connected"]
    assert check.status == status
    assert check.message.startswith(message)


def test_a_second_backend_is_a_warning(studio: Site, backend: Site) -> None:
    rows = [{"url": "http://first.test"}, {"url": backend.url, "state": "CO"}]
    studio.routes["/api/ml"] = answers(rows)
    checks = diagnose(studio.url, api_key=LEGACY, backend_url=backend.url)
    connected = [check for check in checks if check.name == "connected"]
    assert [check.status for check in connected] == ["warn", "ok"]
    assert connected[0].message == (
        "Label Studio calls only the first backend, http://first.test"
    )


def test_a_backend_that_is_down_fails() -> None:
    with Site() as site:
        pass
    checks = replay(site)
    assert list(checks) == ["the backend's address", "GET /health"]
    assert checks["GET /health"].message == "the connection failed: ConnectError"


def test_without_a_sample_setup_and_predict_are_not_called(backend: Site) -> None:
    checks = replay(backend, label_config=None)
    assert checks["/setup and /predict"].status == "warn"
    assert [request.path for request in backend.requests] == ["/health", "/webhook"]


def test_a_label_config_that_does_not_parse_fails(backend: Site) -> None:
    assert replay(backend, label_config="<View>")["label config"].status == "fail"


def expect(site: Site, name: str, status: str, message: str, remedy: str = "") -> None:
    check = replay(site)[name]
    assert (check.status, check.message) == (status, message)
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
def test_a_call_that_takes_too_long_fails(
    backend: Site, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    for limit in ("HEALTH_S", "SETUP_S", "PREDICT_S", "WEBHOOK_S"):
        monkeypatch.setattr(backend_calls, limit, 0.3)
    quick, over = backend.routes[path], threading.Event()

    def slow(request: Request) -> Any:
        over.wait(2)
        return quick(request)

    backend.routes[path] = slow
    message = "no answer within 0.3 s, when Label Studio gives up"
    expect(backend, name, "fail", message, "lsml-bento check")
    over.set()


def test_the_time_limit_counts_the_whole_answer(
    backend: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 2))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    expect(
        backend,
        "GET /health",
        "fail",
        "no answer within 1 s, when Label Studio gives up",
    )


def test_time_limits_are_those_of_label_studio() -> None:
    assert (backend_calls.CONNECT_S, backend_calls.HEALTH_S) == (1.0, 1.0)
    assert (backend_calls.SETUP_S, backend_calls.WEBHOOK_S) == (3.0, 1.0)
    assert backend_calls.PREDICT_S == 100.0


@pytest.mark.parametrize("path", ["/health", "/setup", "/predict"])
def test_missing_basic_auth_is_explained(backend: Site, path: str) -> None:
    backend.routes[path] = answers({"error": "no"}, 401)
    name = f"{'GET' if path == '/health' else 'POST'} {path}"
    message = "the backend answers 401: user and password are missing or wrong"
    expect(backend, name, "fail", message, "BASIC_AUTH_USER and BASIC_AUTH_PASS")


def test_webhooks_without_basic_auth_are_explained(backend: Site) -> None:
    backend.routes["/webhook"] = answers({}, 401)
    message = "the backend answers 401: Label Studio sends webhooks without Basic auth"
    expect(backend, "POST /webhook", "fail", message, "http://USER:PASSWORD@HOST:PORT")


@pytest.mark.parametrize(
    ("path", "answer", "name", "message"),
    [
        ("/health", sends(b"ok"), "GET /health", "the answer is not JSON"),
        ("/health", answers({}, 503), "GET /health", "the backend answers 503"),
        (
            "/setup",
            answers({"error": "model.py, line 3"}, 500),
            "POST /setup",
            "the backend answers 500: model.py, line 3",
        ),
        (
            "/setup",
            answers([]),
            "POST /setup",
            "the answer has no valid model_version: None",
        ),
        (
            "/setup",
            answers({"model_version": 3}),
            "POST /setup",
            "the answer has no valid model_version: 3",
        ),
        (
            "/predict",
            answers({"results": {}}),
            "POST /predict",
            "the answer has no list of results: Label Studio saves nothing",
        ),
        (
            "/predict",
            answers({"results": [None]}),
            "POST /predict",
            "task 1: the prediction is null, not an object: Label Studio answers "
            "500 and does not open the task; use [] for none",
        ),
        (
            "/predict",
            answers({"results": [{**PREDICTION, "result": [3, {}]}]}),
            "POST /predict",
            "task 1, region 0: a region is 3, not an object (and 1 more)",
        ),
    ],
)
def test_answers_that_label_studio_rejects_fail(
    backend: Site, path: str, answer: Any, name: str, message: str
) -> None:
    backend.routes[path] = answer
    expect(backend, name, "fail", message)


def test_another_model_version_than_that_of_setup_is_a_warning(backend: Site) -> None:
    other = {**PREDICTION, "model_version": "v2"}
    backend.routes["/predict"] = answers({"results": [[other, PREDICTION]]})
    expect(
        backend,
        "POST /predict",
        "warn",
        "its model version is v1, v2, /setup's is v1: Label Studio adds the same "
        "predictions at every retrieval",
        "the same model_version in both",
    )


def test_a_webhook_may_have_an_empty_answer(backend: Site) -> None:
    backend.routes["/webhook"] = sends(b"")
    assert replay(backend)["POST /webhook"].status == "ok"


def test_a_container_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with Site() as site:
        url = f"http://127.0.0.1:{site.port}"
    [check] = diagnose(url)
    assert "host.docker.internal" in check.remedy


def test_checks_are_made_one_by_one(studio: Site) -> None:
    made: Callable[[], Check] = diagnose(studio.url).__next__
    assert made().name == "reach Label Studio"
    assert studio.requests == []
