"""Annotating a backend without a Label Studio, and asking what became of it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import httpx

from tests.doubles import CONFIG, PROJECT, setup_body
from tests.e2e.processes import Server, eventually

CREATED_AT = datetime.fromtimestamp(int(PROJECT.partition(".")[2]), timezone.utc)


class Annotator:
    """Sends a server what Label Studio sends, and reads what it answers.

    Args:
        server: serves a class that learns.
    """

    def __init__(self, server: Server) -> None:
        self._http = httpx.Client(base_url=server.url, timeout=20)

    def close(self) -> None:
        self._http.close()

    def setup(self, **options: Any) -> str:
        answer = self._http.post("/setup", json=setup_body(**options))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["model_version"])

    def annotate(self, number: int, minute: int = 0, **data: Any) -> str:
        """The id of the job that annotation and task ``number`` led to."""
        moment = f"2026-11-24T09:{minute:02d}:00Z"
        stamps = {"created_at": moment, "updated_at": moment}
        body = {
            "action": "ANNOTATION_CREATED",
            "annotation": {"id": number, "task": number, "result": [], **stamps},
            "task": {
                "id": number,
                "data": {"text": f"text {number}", **data},
                **stamps,
            },
            "project": {
                "id": int(PROJECT.partition(".")[0]),
                "created_at": CREATED_AT.isoformat(),
                "label_config": CONFIG,
            },
        }
        answer = self._http.post("/webhook", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job"])

    def job(self, job: str) -> dict[str, Any]:
        answer = self._http.get(f"/api/jobs/{job}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ended(self, job: str, timeout_s: float = 90) -> dict[str, Any]:
        """The job once it has ended."""
        ends = {"succeeded", "failed", "cancelled"}
        eventually(
            lambda: self.job(job)["status"] in ends,
            lambda: str(self.job(job)),
            timeout_s,
        )
        return self.job(job)

    def predict(self) -> tuple[str, str]:
        """What the model says, and the version that it names."""
        body = {
            "tasks": [{"id": 1, "data": {"text": "x"}}],
            "project": PROJECT,
            "label_config": CONFIG,
            "params": {},
        }
        answer = self._http.post("/predict", json=body)
        assert answer.status_code == 200, answer.text
        [slot] = answer.json()["results"]
        [said] = slot["result"][0]["value"]["choices"]
        return said, slot["model_version"]

    def versions(self) -> list[dict[str, Any]]:
        name = PROJECT.partition(".")[0]
        answer = self._http.get(f"/api/projects/{name}/versions")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["versions"]
        return found

    def activate(self, version: str) -> httpx.Response:
        name = PROJECT.partition(".")[0]
        return self._http.post(f"/api/projects/{name}/versions/{version}/activate")

    def serves(self, said: str, version: str, timeout_s: float = 5) -> None:
        """Wait until a version is served."""
        eventually(
            lambda: self.predict() == (said, version),
            lambda: f"{self.predict()} in place of {(said, version)}",
            timeout_s,
        )
