"""A backend asked over HTTP: a real one, and one that is told how to fail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lsml_bento.adapters.backend_http import BackendEngine
from lsml_bento.inference import Inference
from lsml_bento.preannotation import Answer, PreannotationError, Unreachable
from lsml_bento.types import Project, Task
from tests.doubles import CONFIG, choice

Reply = Callable[[str, dict[str, Any]], tuple[int, Any]]
ONE = Project("1", 1795426489)


@contextmanager
def backend(reply: Reply) -> Iterator[tuple[str, list[Any]]]:
    """A server that answers what it is told; its URL, and what it was asked."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            status, answer = reply(self.path, body)
            sent = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tasks_of(*texts: str) -> list[Task]:
    return [{"id": n, "data": {"text": text}} for n, text in enumerate(texts, 1)]


def predict(engine: BackendEngine, *texts: str) -> tuple[str, list[Answer]]:
    async def go() -> tuple[str, list[Answer]]:
        inference = Inference(engine, 4)
        try:
            version = await engine.prepare(ONE, CONFIG)
            return version, await inference.predict(tasks_of(*texts))
        finally:
            await inference.close()

    return asyncio.run(go())


def read(answer: Answer) -> object:
    """A slot, or what its error says."""
    return json.loads(answer) if isinstance(answer, bytes) else str(answer)


def slot(text: str) -> dict[str, Any]:
    return {"result": [choice(text)], "score": 0.5, "model_version": "v1"}


def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """As a backend of ours: a failure is [], and a reason where nothing is left."""
    if path == "/setup":
        return 200, {"model_version": "v1"}
    texts = [task["data"]["text"] for task in body["tasks"]]
    if all(text == "bad" for text in texts):
        return 500, {"error": "predict() raised ValueError: bad"}
    empty = {"bad", "none"}
    return 200, {"results": [[] if t in empty else slot(t) for t in texts]}


def test_it_is_asked_as_label_studio_asks() -> None:
    with backend(answer) as (url, asked):
        version, [found] = predict(BackendEngine(url), "a")

    assert version == "v1"
    assert read(found) == slot("a")
    assert asked == [
        ("/setup", None, {"project": str(ONE), "schema": CONFIG}),
        (
            "/predict",
            None,
            {
                "tasks": tasks_of("a"),
                "project": str(ONE),
                "label_config": CONFIG,
                "params": {},
            },
        ),
    ]


def test_a_task_that_failed_is_told_from_one_without_a_prediction() -> None:
    with backend(answer) as (url, _):
        _, found = predict(BackendEngine(url), "a", "bad", "none", "bad", "b")

    assert [read(one) for one in found] == [
        slot("a"),
        "the backend answered 500: predict() raised ValueError: bad",
        [],
        "the backend answered 500: predict() raised ValueError: bad",
        slot("b"),
    ]


def test_no_results_at_all_are_no_predictions() -> None:
    def none(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"model_version": "v1", "results": []}

    with backend(none) as (url, asked):
        _, found = predict(BackendEngine(url), "a", "b")

    assert found == [b"[]", b"[]"]
    assert len(asked) == 2


def test_user_and_password_come_from_the_url_or_the_environment() -> None:
    with backend(answer) as (url, asked):
        named = url.replace("http://", "http://us%40er:pass@")
        engine = BackendEngine(named, ("other", "other"))
        predict(engine, "a")
        predict(BackendEngine(url, ("user", "pass")), "a")

    assert engine.url == url
    assert {header for _, header, _ in asked[:2]} == {"Basic dXNAZXI6cGFzcw=="}
    assert {header for _, header, _ in asked[2:]} == {"Basic dXNlcjpwYXNz"}


def test_one_that_is_away_is_waited_for() -> None:
    calls: list[str] = []

    def late(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        calls.append(path)
        return answer(path, body) if len(calls) != 2 else (503, {"error": "busy"})

    with backend(late) as (url, _):
        _, [found] = predict(BackendEngine(url), "a")

    assert read(found) == slot("a")
    assert calls == ["/setup", "/predict", "/predict"]


def test_one_that_stays_away_stops_the_run() -> None:
    with backend(answer) as (url, _):
        pass
    with pytest.raises(Unreachable, match=rf"{url} does not answer \(ConnectError\)"):
        predict(BackendEngine(url, patience_s=0.1), "a")
    down = pytest.raises(Unreachable, match="answered 503 to /setup: down")
    with backend(lambda *_: (503, {"error": "down"})) as (url, _), down:
        predict(BackendEngine(url, patience_s=0.1), "a")


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (401, {}, "answered 401: set BASIC_AUTH_USER"),
        (404, {}, "answered 404 to /setup"),
        (500, {"error": "no class"}, "answered 500 to /setup: no class"),
        (200, {}, "names no model_version in its answer"),
    ],
)
def test_what_is_no_backend_is_told(status: int, body: object, sentence: str) -> None:
    told = pytest.raises(PreannotationError, match=sentence)
    with backend(lambda *_: (status, body)) as (url, _), told:
        predict(BackendEngine(url), "a")


@pytest.mark.parametrize("url", ["localhost:9090", "ftp://x", "http://", "http://x:y"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(PreannotationError, match="--backend takes the address"):
        BackendEngine(url)
