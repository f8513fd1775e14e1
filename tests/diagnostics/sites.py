"""A Label Studio and a backend with fixed answers, and the doctor's checks of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import jwt

from lsml_bento.diagnostics.connection import Check
from lsml_bento.diagnostics.doctor import diagnose
from tests.adapters.test_label_studio_media import Site, sends

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


def by_name(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def ask(studio: Site, **options: Any) -> dict[str, Check]:
    defaults = {"api_key": LEGACY, "in_container": False}
    return by_name(diagnose(studio.url, **{**defaults, **options}))


def replay(backend: Site, **options: Any) -> dict[str, Check]:
    defaults = {"backend_url": backend.url, "label_config": CONFIG}
    return by_name(diagnose(None, **{**defaults, **options}))
