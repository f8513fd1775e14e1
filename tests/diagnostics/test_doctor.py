"""The doctor checks both directions of the connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lsml_bento.adapters.label_studio_media import LabelStudioMedia
from lsml_bento.diagnostics.connection import Check
from lsml_bento.diagnostics.doctor import diagnose
from tests.adapters.test_label_studio_media import Site
from tests.diagnostics.sites import (
    CONFIG,
    LEGACY,
    TASK,
    answers,
    ask,
    replay,
)


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


def test_a_label_config_that_does_not_parse_fails(backend: Site) -> None:
    assert replay(backend, label_config="<View>")["label config"].status == "fail"


def test_checks_are_made_one_by_one(studio: Site) -> None:
    made: Callable[[], Check] = diagnose(studio.url).__next__
    assert made().name == "reach Label Studio"
    assert studio.requests == []
