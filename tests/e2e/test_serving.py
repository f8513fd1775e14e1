"""``bentoml serve`` under load, at a hang-up and at its end."""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import orjson
import pytest

from tests.e2e.processes import ROOT, Server
from tests.e2e.serving import ECHO, EXAMPLE, serve_command, start_command

LABEL_CONFIG = (ECHO / "label_config.xml").read_text()
CLIENTS = 16
EVENTS = sorted((ROOT / "tests" / "payloads").glob("*webhook*.json"))


def predict_body(first: int, tasks: int = 1, sleep_s: float = 0) -> dict[str, Any]:
    """A request of Label Studio's whose tasks have ids from ``first`` on."""
    return {
        "project": "1.1700000000",
        "label_config": LABEL_CONFIG,
        "params": {"login": None, "password": None, "context": None},
        "tasks": [
            {"id": i, "data": {"text": f"🐉 {i}", "sleep_s": sleep_s}}
            for i in range(first, first + tasks)
        ],
    }


def texts_of(answer: httpx.Response) -> list[list[str]]:
    """What the echo says of every task: id, text, tasks so far, process."""
    assert answer.status_code == 200, answer.text
    results = orjson.loads(answer.content)["results"]
    assert {result["model_version"] for result in results} == {"echo-1"}
    return [result["result"][0]["value"]["text"] for result in results]


def echoed(answer: httpx.Response) -> list[list[str]]:
    """The id and the text that came back for every task."""
    return [texts[:2] for texts in texts_of(answer)]


def own(first: int, tasks: int = 1) -> list[list[str]]:
    """What ``echoed`` must be."""
    return [[str(i), f"🐉 {i}"] for i in range(first, first + tasks)]


@dataclass
class Load:
    """What 16 clients met.

    Args:
        url: the backend's.
        requests: of all clients together.
        keep_alive: whether a client keeps its connection; Label Studio does not, and
            new connections spread over all workers.
    """

    url: str
    requests: int
    keep_alive: bool = True
    wrong: list[str] = field(default_factory=list)
    workers: set[str] = field(default_factory=set)

    def run(self) -> "Load":
        """Send all requests."""
        asyncio.run(self._run())
        return self

    async def _run(self) -> None:
        numbers = iter(range(self.requests))
        limits = httpx.Limits(
            max_connections=CLIENTS,
            max_keepalive_connections=CLIENTS if self.keep_alive else 0,
        )
        async with httpx.AsyncClient(
            base_url=self.url, limits=limits, timeout=60
        ) as http:
            await asyncio.gather(*(self._client(http, numbers) for _ in range(CLIENTS)))

    async def _client(self, http: httpx.AsyncClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            first, tasks = number * 3, 1 + number % 3
            content = orjson.dumps(predict_body(first, tasks))
            answer = await http.post("/predict", content=content)
            if answer.status_code != 200 or echoed(answer) != own(first, tasks):
                self.wrong.append(f"{number}: {answer.status_code} {answer.text[:200]}")
            else:
                self.workers.add(texts_of(answer)[0][3])


@pytest.fixture
def quick_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sniffio that is there: httpcore 1.0 looks for it ten times a request.

    Where it is not installed, the search costs half of the client's time.
    """
    sniffio = ModuleType("sniffio")
    vars(sniffio)["current_async_library"] = lambda: "asyncio"
    monkeypatch.setitem(sys.modules, "sniffio", sniffio)


@pytest.mark.usefixtures("quick_httpx")
def test_16_clients_get_4000_correct_answers(echo_server: Server) -> None:
    load = Load(echo_server.url, 4000).run()
    assert load.wrong == []
    assert len(load.workers) == 1


@pytest.mark.usefixtures("quick_httpx")
def test_two_workers_answer_16_clients_and_finish_requests_at_sigterm(
    tmp_path: Path,
) -> None:
    server = serve_command(ECHO, tmp_path, "two_workers:svc")
    server.start()
    try:
        load = Load(server.url, 1000, keep_alive=False).run()
        answers = asyncio.run(in_flight_at_the_end(server))
    finally:
        server.stop()
    assert load.wrong == []
    assert len(load.workers) == 2
    assert answers == [own(i * 10, 4) for i in range(12)]


def test_the_keyword_example_runs_with_bentoml_serve(tmp_path: Path) -> None:
    config = (EXAMPLE / "label_config.xml").read_text()
    body = {
        "project": "1.1700000000",
        "label_config": config,
        "tasks": [{"id": 1, "data": {"text": "🐉 a dragon"}}],
    }
    with serve_command(EXAMPLE, tmp_path) as server:
        answer = httpx.post(f"{server.url}/predict", json=body).json()
    [prediction] = answer["results"]
    spans = [
        (region["value"]["start"], region["value"]["end"])
        for region in prediction["result"]
    ]
    assert spans == [(0, 1), (4, 10)]
    assert prediction["model_version"] == "keyword-1"


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_a_recorded_event_is_accepted(echo_server: Server, path: Path) -> None:
    request = orjson.loads(path.read_bytes())["request"]
    answer = httpx.post(f"{echo_server.url}/webhook", json=request["body"], timeout=1)
    assert answer.is_success, answer.text
    assert isinstance(answer.json(), dict)


def test_work_for_a_disconnected_client_is_dropped(echo_server: Server) -> None:
    before = echo_count(echo_server, 50_000)
    started = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{echo_server.url}/predict",
            json=predict_body(60_000, tasks=400, sleep_s=0.2),
            timeout=0.5,
        )
    after = echo_count(echo_server, 70_000)
    assert time.monotonic() - started < 5
    assert after - before < 100, "50 batches of 0.2 s were queued"
    time.sleep(1)
    assert echo_count(echo_server, 80_000) - after < 20


def echo_count(echo_server: Server, task: int) -> int:
    """How many tasks the backend has predicted, one more included."""
    answer = httpx.post(
        f"{echo_server.url}/predict", json=predict_body(task), timeout=10
    )
    return int(texts_of(answer)[0][2])


async def in_flight_at_the_end(server: Server) -> list[list[list[str]]]:
    """Answers to 12 requests that were under way when the server was told to end."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await http.post("/predict", json=predict_body(0))
        under_way = [
            asyncio.ensure_future(
                http.post("/predict", json=predict_body(i * 10, tasks=4, sleep_s=0.3))
            )
            for i in range(12)
        ]
        await asyncio.sleep(0.4)
        server.signal()
        return [echoed(answer) for answer in await asyncio.gather(*under_way)]


def test_requests_in_flight_at_ctrl_c_are_answered(tmp_path: Path) -> None:
    server = start_command(ECHO, tmp_path)
    server.stop_signal = signal.SIGINT
    server.start()
    try:
        answers = asyncio.run(in_flight_at_the_end(server))
    finally:
        server.stop()
    assert answers == [own(i * 10, 4) for i in range(12)]
