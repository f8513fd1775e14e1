"""Servers that answer correctly; tests change their routes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters.test_label_studio_media import Site, sends
from tests.diagnostics.sites import PREDICTION, PROJECT, TASK, answers


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
