"""What the doctor finds in the calls of Label Studio to a backend."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from lsml_bento.diagnostics import backend_calls
from lsml_bento.diagnostics.doctor import diagnose
from tests.adapters.test_label_studio_media import Request, Site, sends
from tests.diagnostics.sites import (
    LEGACY,
    PREDICTION,
    answers,
    ask,
    by_name,
    replay,
)


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
