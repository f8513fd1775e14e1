"""What BentoML's own clients, dashboards and workers meet."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.processes import Server
from tests.e2e.serving import BACKENDS, ECHO, serve_command

LABEL_CONFIG = (ECHO / "label_config.xml").read_text()

pytestmark = pytest.mark.e2e

CLIENT = """
import json, sys, bentoml
url, arguments = sys.argv[1], json.loads(sys.argv[2])
with bentoml.SyncHTTPClient(url) as client:
    print(json.dumps(client.predict_tasks(**arguments)))
"""
"""In a process of its own: BentoML's client leaves warnings and directories behind."""


def task(number: int, sleep_s: float = 0) -> dict[str, Any]:
    return {"id": number, "data": {"text": f"text {number}", "sleep_s": sleep_s}}


def test_the_bentoml_client_gets_one_typed_prediction_per_task(
    echo_server: Server,
) -> None:
    arguments = {
        "tasks": [task(1), task(2)],
        "project": "7",
        "label_config": LABEL_CONFIG,
    }
    command = [sys.executable, "-c", CLIENT, echo_server.url, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    predictions = json.loads(done.stdout)

    assert [p["result"][0]["value"]["text"][:2] for p in predictions] == [
        ["1", "text 1"],
        ["2", "text 2"],
    ]
    assert {p["model_version"] for p in predictions} == {"echo-1"}


def test_the_typed_api_says_what_is_wrong_with_a_task(echo_server: Server) -> None:
    answer = httpx.post(f"{echo_server.url}/predict_tasks", json={"tasks": [{"id": 1}]})

    assert answer.status_code == 422
    assert answer.json() == [{"error": "tasks[0].data: Field required"}]


def test_the_openapi_page_shows_the_typed_api_and_label_studio_s_routes(
    echo_server: Server,
) -> None:
    page = httpx.get(f"{echo_server.url}/docs")
    links = re.findall(r'(?:src|href|url: )="?\'?([^"\']+)', page.text)
    paths = httpx.get(f"{echo_server.url}/docs.json").json()["paths"]

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "docs.json" in page.text
    assert len(links) == 2
    for link in links:
        assert httpx.get(f"{echo_server.url}/{link}").status_code == 200, link
    assert {"/predict_tasks", "/predict", "/setup", "/webhook"} <= {*paths}
    schema = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert "tasks" in schema["schema"]["properties"]


def test_bentoml_depends_is_told_how_to_call_a_backend(echo_server: Server) -> None:
    answer = httpx.post(
        f"{echo_server.url}/predict_tasks",
        content=b"\x80\x04.",
        headers={"Content-Type": "application/vnd.bentoml+pickle"},
    )

    assert answer.status_code == 415
    assert "bentoml.depends sends pickles" in answer.json()["error"]
    assert "bentoml.SyncHTTPClient(url)" in answer.json()["error"]


def test_pickles_are_refused_on_every_route(echo_server: Server) -> None:
    for path in ("predict_tasks", "predict", "setup", "webhook", "train", "nothing"):
        answer = httpx.post(
            f"{echo_server.url}/{path}",
            content=b"\x80\x04.",
            headers={"Content-Type": "application/vnd.bentoml+pickle"},
        )

        assert answer.status_code == 415, path
        assert "send application/json" in answer.json()["error"]


def test_a_body_without_a_content_length_is_refused(
    echo_server: Server,
) -> None:
    answer = httpx.post(
        f"{echo_server.url}/predict_tasks",
        content=iter([b'{"tasks":', b"[]}"]),
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code == 413
    assert "Content-Length" in answer.json()["error"]


def test_bentoml_routes_answer_404_in_json(
    echo_server: Server,
) -> None:
    answer = httpx.get(f"{echo_server.url}/nothing")

    assert answer.status_code == 404
    assert answer.json() == {"error": "GET '/nothing': no such path"}


def test_metrics_have_the_batch_sizes_and_queue_waits_of_bentoml_dashboards(
    echo_server: Server,
) -> None:
    body = {"project": "1.17", "label_config": LABEL_CONFIG, "tasks": [task(1)]}
    assert httpx.post(f"{echo_server.url}/predict", json=body).status_code == 200

    metrics = httpx.get(f"{echo_server.url}/metrics").text

    assert 'bentoml_service_adaptive_batch_size_bucket{le="8.0"' in metrics
    assert 'lsml_queue_wait_seconds_count{lane="single"}' in metrics
    assert 'lsml_queue_tasks{lane="bulk"}' in metrics


def test_each_worker_sees_its_own_gpus(tmp_path: Path) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    body = {"project": "1.17", "label_config": "<View/>", "tasks": [task(1)]}
    seen: dict[int, str] = {}
    with serve_command(BACKENDS / "gpus", tmp_path, environ=environ) as server:
        until = time.monotonic() + 30
        while len(seen) < 2 and time.monotonic() < until:
            answer = httpx.post(f"{server.url}/predict", json=body).json()
            value = answer["results"][0]["result"][0]["value"]
            seen[value["pid"]] = value["devices"]

    assert sorted(seen.values()) == ["0,2", "1,3"]


def test_a_predict_that_never_returns_does_not_keep_the_server_from_ending(
    tmp_path: Path,
) -> None:
    body = {"project": "1.17", "label_config": LABEL_CONFIG, "tasks": [task(1, 600)]}
    environ = {"LSML_PREDICT_DEADLINE_S": "1"}
    with serve_command(ECHO, tmp_path, environ=environ) as server:
        answer = httpx.post(f"{server.url}/predict", json=body, timeout=10)
        began = time.monotonic()
        server.signal()
        server.wait()

        assert answer.status_code == 504
        assert time.monotonic() - began < 10
        assert "predict() is stuck" in server.log()
