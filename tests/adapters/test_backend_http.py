"""A backend that is called over HTTP, and how its failures are reported."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lsml_bento.adapters.backend_http import BackendEngine
from lsml_bento.contract import Project, Task
from lsml_bento.preannotation.engine import Answer, Batches
from lsml_bento.preannotation.pipeline import predictions_of
from lsml_bento.preannotation.selection import (
    PreannotationError,
    Unreachable,
    VersionChanged,
)
from tests.doubles import CONFIG, choice

Reply = Callable[[str, dict[str, Any]], tuple[int, Any]]
ONE = Project("1", 1795426489)


@contextmanager
def backend(reply: Reply) -> Iterator[tuple[str, list[Any]]]:
    """A server with the given replies: its URL and the requests that it got."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            status, answer = reply(self.path, body)
            sent = json.dumps(answer).replace('"HUGE"', "1e999").encode()
            with suppress(OSError):  # the client may have hung up
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
        batches = Batches(engine, 4)
        try:
            version = await engine.prepare(ONE, CONFIG)
            return version, await batches.predict(tasks_of(*texts))
        finally:
            await batches.close()

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


def test_requests_are_those_of_label_studio() -> None:
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


def test_a_failed_task_differs_from_one_without_a_prediction() -> None:
    with backend(answer) as (url, _):
        _, found = predict(BackendEngine(url), "a", "bad", "none", "bad", "b")

    assert [read(one) for one in found] == [
        slot("a"),
        "the backend answered 500: predict() raised ValueError: bad",
        [],
        "the backend answered 500: predict() raised ValueError: bad",
        slot("b"),
    ]


def test_empty_results_mean_no_predictions() -> None:
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


def test_an_unavailable_backend_is_retried() -> None:
    calls: list[str] = []

    def late(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        calls.append(path)
        return answer(path, body) if len(calls) != 2 else (503, {"error": "busy"})

    with backend(late) as (url, _):
        _, [found] = predict(BackendEngine(url), "a")

    assert read(found) == slot("a")
    assert calls == ["/setup", "/predict", "/predict"]


def test_a_backend_that_stays_unavailable_ends_the_run() -> None:
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
        (200, {}, "returned no model_version"),
    ],
)
def test_other_servers_are_refused(status: int, body: object, sentence: str) -> None:
    told = pytest.raises(PreannotationError, match=sentence)
    with backend(lambda *_: (status, body)) as (url, _), told:
        predict(BackendEngine(url), "a")


@pytest.mark.parametrize("url", ["localhost:9090", "ftp://x", "http://", "http://x:y"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(PreannotationError, match="--backend must be the URL"):
        BackendEngine(url)


# Versions


def test_predictions_get_the_version_that_setup_returns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def twice(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        status, found = answer(path, body)
        return status, {**found, "model_version": "INITIAL"}

    with backend(twice) as (url, asked):
        version, found = predict(BackendEngine(url), *("a" * 40))

    assert version == "INITIAL"
    made = [one for slot in found for one in predictions_of(slot, version)]  # type: ignore[arg-type]
    assert {one["model_version"] for one in made} == {"INITIAL"}
    assert [path for path, _, _ in asked].count("/setup") <= 3  # two calls at a time
    [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "name version 'v1', but /setup names 'INITIAL'" in warning


def test_a_version_change_ends_the_run() -> None:
    serving = ["v1"]

    def swaps(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/setup":
            return 200, {"model_version": serving[0]}
        serving[:] = ["v2"]
        found = slot("a") | {"model_version": "v2"}
        return 200, {"results": [found for _ in body["tasks"]]}

    told = pytest.raises(
        VersionChanged, match="switched from 'v1' to 'v2' during the run: run"
    )
    with backend(swaps) as (url, _), told:
        predict(BackendEngine(url), "a", "b")


def test_nan_and_infinity_become_null() -> None:
    def odd(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        scores = iter([float("nan"), float("inf"), "HUGE", 0.5])
        made = [slot("a") | {"score": next(scores)} for _ in body.get("tasks", [])]
        return 200, {"model_version": "v1", "results": made}

    with backend(odd) as (url, _):
        _, found = predict(BackendEngine(url), *"abcd")

    scores = [read(one)["score"] for one in found]  # type: ignore[index]
    assert scores == [None, None, None, 0.5]


# Slow ones


def slow(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """0.1 s a task, and one that never ends."""
    for task in body.get("tasks", []):
        time.sleep(2 if task["data"]["text"] == "endless" else 0.1)
    return answer(path, body)


def test_a_slow_backend_gets_smaller_batches() -> None:
    with backend(slow) as (url, asked):
        _, found = predict(BackendEngine(url, timeout_s=0.3), *"abcdefgh")

    assert [read(one) for one in found] == [slot(text) for text in "abcdefgh"]
    sizes = [len(body["tasks"]) for path, _, body in asked if path == "/predict"]
    assert sorted(sizes) == [2, 2, 2, 2, 4, 4]


def test_a_task_that_times_out_does_not_fail_others() -> None:
    with backend(slow) as (url, _):
        engine = BackendEngine(url, timeout_s=0.3)
        _, found = predict(engine, "a", "endless", "c", "none")

    assert [read(one) for one in found] == [
        slot("a"),
        "the backend did not answer in 0.3 s for this task alone",
        slot("c"),
        [],
    ]


def test_batches_grow_again_once_the_backend_answers_in_time() -> None:
    hangs = [True]

    def once(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/predict" and hangs:
            hangs.clear()
            time.sleep(0.5)
        time.sleep(0.02)
        return answer(path, body)

    with backend(once) as (url, asked):
        predict(BackendEngine(url, timeout_s=0.3), *("a" * 200))

    sizes = [len(body["tasks"]) for path, _, body in asked if path == "/predict"]
    assert set(sizes) == {2, 4}
    assert sizes[-1] == 4


def test_a_backend_that_never_answers_is_unreachable() -> None:
    def hangs(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.5 if path == "/predict" else 0)
        return answer(path, body)

    told = pytest.raises(Unreachable, match=r"did not answer in 0.1 s to /predict")
    with backend(hangs) as (url, _), told:
        predict(BackendEngine(url, timeout_s=0.1, patience_s=0.25), *"abcd")


def test_empty_answers_are_retried_a_few_at_a_time() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def counted(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        nonlocal running, most
        if len(body.get("tasks", [])) == 1:
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.05)
            with lock:
                running -= 1
        return answer(path, body)

    with backend(counted) as (url, _):
        engine = BackendEngine(url)

        async def go() -> Sequence[object]:
            await engine.prepare(ONE, CONFIG)
            found = await engine.predict(tasks_of("a", *["none"] * 20, "bad"))
            await engine.close()
            return found

        found = asyncio.run(go())

    assert found[1:21] == [b"[]"] * 20
    assert "answered 500" in str(found[21])
    assert 1 < most <= 8
