"""Real things that stand in for a server and for a user's model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
from starlette.types import ASGIApp

from lsml_bento.adapters.edge import EdgeMiddleware
from lsml_bento.adapters.label_studio_http import contract_app
from lsml_bento.backend.backend import Backend
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import NoMedia
from lsml_bento.processes.backend import build_backend
from lsml_bento.settings import Settings
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import State

Answer = TypeVar("Answer")

CONFIG = (
    '<View><Text name="text" value="$text"/>'
    '<Choices name="sentiment" toName="text" choice="single">'
    '<Choice value="Positive"/><Choice value="Negative"/></Choices></View>'
)
OTHER_CONFIG = CONFIG.replace("Negative", "Neutral")

PROJECT = "1.1795426489"


def choice(value: str) -> dict[str, Any]:
    """A region of ``CONFIG``."""
    return {
        "from_name": "sentiment",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": [value]},
    }


class Echo(LabelStudioMLBase):
    """Answers each task with its own text, so that a mix-up shows."""

    def setup(self) -> None:
        self.set("model_version", "echo-1")

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: Any = None,
        **kwargs: Any,
    ) -> list[Any]:
        return [
            {"result": [choice(str(task["data"].get("text")))], "score": 0.5}
            for task in tasks
        ]


def texts(*words: str, project: object = PROJECT) -> dict[str, Any]:
    """The body of a ``/predict`` for tasks 1, 2, .. with these texts."""
    return {
        "tasks": [
            {"id": number, "data": {"text": word}}
            for number, word in enumerate(words, start=1)
        ],
        "project": project,
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }


def interactive(word: str, context: object, project: object = PROJECT) -> Any:
    """The body of a ``/predict`` of an annotator who waits."""
    return {**texts(word, project=project), "params": {"context": context}}


def setup_body(
    project: object = PROJECT, schema: object = CONFIG, extra_params: object = None
) -> dict[str, Any]:
    """The body of ``/setup`` as Label Studio sends it."""
    return {
        "project": project,
        "schema": schema,
        "hostname": "http://localhost:8080",
        "access_token": "a-secret-access-token",
        "extra_params": extra_params,
    }


class Client:
    """Calls a backend's routes in this process; an exception in them is raised here."""

    def __init__(
        self, backend: Backend, settings: Settings, app: ASGIApp | None = None
    ) -> None:
        self.backend = backend
        self.contract = contract_app(settings.max_body_mib)
        self.contract.state.backend = backend
        self.app = app or EdgeMiddleware(
            self.contract,
            self.contract,
            settings.max_body_mib,
            settings.root_path,
            settings.basic_auth,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://backend"
        )

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine on the backend's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        # A path alone would be joined as a link is: "//predict" names a host there.
        url = f"http://backend{path}"
        return self.run(self.http.request(method, url, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> httpx.Response:
        if "content" not in options:
            options["json"] = body
        return self.request("POST", path, **options)

    def results(self, body: dict[str, Any]) -> list[Any]:
        """The slots of a ``/predict`` that succeeds."""
        answer = self.post("/predict", body)
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert isinstance(results, list)
        return results

    def version(self, **options: Any) -> str:
        """The version of a ``/setup`` that succeeds."""
        answer = self.post("/setup", setup_body(**options))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["model_version"])

    def together(self, *bodies: dict[str, Any]) -> list[httpx.Response]:
        """The answers of ``/predict`` requests that are sent at the same time."""

        async def send() -> list[httpx.Response]:
            sent = [self.http.post("/predict", json=body) for body in bodies]
            return await asyncio.gather(*sent)

        return self.run(send())

    def close(self) -> None:
        self.run(self.http.aclose())
        self.run(self.backend.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def client_of(
    model: str | type[LabelStudioMLBase],
    state: State | None = None,
    directory: Path | None = None,
    **environ: str,
) -> Client:
    """A client of a backend with its state in memory."""
    settings = Settings.from_env(environ)
    source = ModelSource(model, directory)
    backend = build_backend(source, state or MemoryState(), NoMedia(), settings)
    return Client(backend, settings)


def one_sentence(answer: httpx.Response) -> str:
    """The reason of an error, checked to be fit for a client to see."""
    body = json.loads(answer.content)
    assert list(body) == ["error"]
    reason = body["error"]
    assert isinstance(reason, str)
    assert reason
    assert len(reason) < 1_000
    assert "\n" not in reason
    assert "Traceback" not in reason
    assert answer.headers["content-type"] == "application/json"
    return reason
