"""The part of Label Studio's REST API that the tests use."""

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

Json = dict[str, Any]


class LabelStudioApi:
    """Calls to one Label Studio, as its first user.

    Source: https://api.labelstud.io, and what 1.23.2 answered when it was recorded.
    """

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Token {token}"}
        self.url = url
        self._http = httpx.Client(base_url=url, headers=headers, timeout=110)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One call, whatever its status."""
        return self._http.request(method, path, **options)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One call that must succeed; its JSON."""
        response = self.request(method, path, **options)
        assert response.is_success, f"{method} {path}: {response.text[:2000]}"
        return response.json() if response.content else None

    def create_project(self, title: str, label_config: str) -> "Project":
        """A new project; titles need three characters or more."""
        body = {"title": title, "label_config": label_config}
        return Project(self, self.call("POST", "/api/projects/", json=body)["id"])


@dataclass
class Project:
    """One project of a Label Studio."""

    api: LabelStudioApi
    id: int

    def add_tasks(self, texts: Sequence[str]) -> list[int]:
        """Import one task a text; the ids in the order of the texts."""
        body = [{"data": {"text": text}} for text in texts]
        path = f"/api/projects/{self.id}/import"
        query = {"return_task_ids": True}
        answer = self.api.call("POST", path, params=query, json=body)
        ids: list[int] = answer["task_ids"]
        return ids

    def try_connect(self, url: str, **fields: Any) -> httpx.Response:
        """Ask Label Studio to add a backend, whatever it answers."""
        body = {"project": self.id, "url": url, "title": "backend", **fields}
        return self.api.request("POST", "/api/ml", json=body)

    def connect(self, url: str, **fields: Any) -> "Connection":
        """Add a backend; fields as in Label Studio's own form."""
        return self._added(self.try_connect(url, **fields))

    def connect_patiently(self, url: str, **fields: Any) -> "Connection":
        """Add a backend that answers 503 for a while, as one that imports torch."""
        deadline = time.monotonic() + 60
        response = self.try_connect(url, **fields)
        while "503" in response.text and time.monotonic() < deadline:
            time.sleep(0.5)
            response = self.try_connect(url, **fields)
        return self._added(response)

    def _added(self, response: httpx.Response) -> "Connection":
        assert response.status_code == 201, response.text
        record = response.json()
        return Connection(self, record["id"], record)

    def backends(self) -> list[Json]:
        """What the Model page of the settings shows; asks every backend first."""
        answer: list[Json] = self.api.call("GET", f"/api/ml?project={self.id}")
        return answer

    def retrieve_predictions(self, tasks: Sequence[int] | None = None) -> Json:
        """The Data Manager's action on some tasks, all by default."""
        everything = {"all": True, "excluded": []}
        chosen = {"all": False, "included": list(tasks or [])}
        query = {"id": "retrieve_tasks_predictions", "project": self.id}
        body = {
            "selectedItems": everything if tasks is None else chosen,
            "ordering": [],
            "filters": {"conjunction": "and", "items": []},
            "project": str(self.id),
        }
        answer: Json = self.api.call("POST", "/api/dm/actions", params=query, json=body)
        return answer

    def predictions(self) -> list[Json]:
        """All stored predictions of the project."""
        query = {"project": self.id}
        answer: list[Json] = self.api.call("GET", "/api/predictions/", params=query)
        return answer

    def open_task(self, task: int) -> Json:
        """What the labelling screen loads."""
        answer: Json = self.api.call("GET", f"/api/tasks/{task}")
        return answer

    def annotate(self, task: int, regions: Sequence[Json]) -> Json:
        """Submit an annotation."""
        path = f"/api/tasks/{task}/annotations/"
        answer: Json = self.api.call("POST", path, json={"result": list(regions)})
        return answer

    def change(self, **fields: Any) -> Json:
        """Change settings, the label config among them."""
        answer: Json = self.api.call("PATCH", f"/api/projects/{self.id}/", json=fields)
        return answer

    def webhooks(self) -> list[Json]:
        """The webhooks that Label Studio made for the project's backends."""
        query = {"project": self.id}
        answer: list[Json] = self.api.call("GET", "/api/webhooks/", params=query)
        return answer

    def protect_webhooks(self, user: str, password: str) -> None:
        """Give every webhook of the project the header of basic auth."""
        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        for webhook in self.webhooks():
            body = {"headers": {"Authorization": f"Basic {secret}"}}
            self.api.call("PATCH", f"/api/webhooks/{webhook['id']}/", json=body)


@dataclass
class Connection:
    """A backend as Label Studio knows it."""

    project: Project
    id: int
    created: Json = field(repr=False)

    def check(self) -> Json:
        """Ask Label Studio to look at the backend now; the record after it."""
        answer: Json = self.project.api.call("GET", f"/api/ml/{self.id}")
        return answer

    def suggest(self, task: int, context: Json | None) -> Json:
        """What the labelling screen asks while a person draws regions."""
        path = f"/api/ml/{self.id}/interactive-annotating"
        body = {"task": task, "context": context}
        answer: Json = self.project.api.call("POST", path, json=body)
        return answer

    def train(self) -> Json:
        """The button "Start training"; the record after it, without a new check."""
        self.project.api.call("POST", f"/api/ml/{self.id}/train", json={})
        return self.record()

    def record(self) -> Json:
        """The record as stored."""
        [mine] = [b for b in self.project.backends() if b["id"] == self.id]
        return mine

    def test_request(self) -> httpx.Response:
        """The button "Send test request"."""
        path = f"/api/ml/{self.id}/predict/test"
        return self.project.api.request("POST", path, params={"random": "true"})

    def versions(self) -> Json:
        """The versions that the settings page offers."""
        answer: Json = self.project.api.call("GET", f"/api/ml/{self.id}/versions")
        return answer
