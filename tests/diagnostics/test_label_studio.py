"""What the doctor finds on the way to Label Studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.adapters.label_studio_media import LabelStudioMedia
from lsml_bento.diagnostics.doctor import diagnose
from tests.adapters.test_label_studio_media import Site, sends
from tests.diagnostics.sites import (
    LEGACY,
    PROJECT,
    TASK,
    answers,
    ask,
    pat,
)

# label-studio-sdk 2.1.2 calls pydantic's parse_obj when it exchanges a token.
pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method")


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
    assert check.message.startswith("task 3: Label Studio answered 404 to 'http://127")


def test_tasks_without_files_need_no_media(studio: Site, tmp_path: Path) -> None:
    studio.routes["/api/projects/7/tasks/"] = answers(
        [{"id": 1, "data": {"text": "a"}}]
    )
    media = LabelStudioMedia(studio.url, LEGACY, None, tmp_path)
    check = ask(studio, media=media)["one media file"]
    assert (check.status, check.message) == ("ok", "none of 1 tasks names a file")


def test_a_container_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with Site() as site:
        url = f"http://127.0.0.1:{site.port}"
    [check] = diagnose(url)
    assert "host.docker.internal" in check.remedy
