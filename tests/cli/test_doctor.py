"""``lsml-bento doctor``: a table of checks and an exit code."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.commands import LABEL_CONFIG, environ, refused, run
from tests.e2e.processes import free_port

REGION = {
    "id": "a",
    "from_name": "sentiment",
    "to_name": "text",
    "type": "choices",
    "value": {"choices": ["Neutral"]},
}
ANSWERS = {
    "/health": {"status": "UP"},
    "/setup": {"model_version": "v1"},
    "/webhook": {},
    "/predict": {
        "results": [{"result": [REGION], "score": 0.5, "model_version": "v1"}]
    },
}


class Backend(BaseHTTPRequestHandler):
    """A backend that answers correctly."""

    def do_GET(self) -> None:
        body = json.dumps(ANSWERS[self.path]).encode()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def backend() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Backend) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_backend_gets_the_calls_of_label_studio(backend: str, tmp_path: Path) -> None:
    config = tmp_path / "config.xml"
    config.write_text(LABEL_CONFIG)
    options = ["--backend-url", backend, "--label-config", config]
    done = run("doctor", *options, env={**environ(), "COLUMNS": "400"})
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row.split("│") for row in done.stdout.splitlines() if "│" in row]
    statuses = {row[1].strip(): row[2].strip() for row in rows}
    assert statuses == {
        "the backend's address": "warn",
        "GET /health": "ok",
        "POST /setup": "ok",
        "POST /webhook": "ok",
        "POST /predict": "ok",
    }
    assert "ML_BLOCK_LOCAL_IP=false" in done.stdout
    assert "SSRF_PROTECTION_ENABLED=false" in done.stdout
    assert done.stdout.splitlines()[-1] == "5 checks: 0 failed, 1 warnings"


def test_an_unreachable_label_studio_fails_with_a_remedy() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    env = {**environ(), "COLUMNS": "400"}
    done = run("doctor", "--label-studio", url, env=env)
    assert done.returncode == 1
    assert "Connection refused" in done.stdout
    assert "LABEL_STUDIO_URL" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 checks: 1 failed, 0 warnings"
    assert done.stderr == ""


def test_nothing_to_check_is_an_error() -> None:
    assert refused(run("doctor")) == (
        "there is nothing to check: pass --label-studio URL, --backend-url URL or both"
    )


def test_a_missing_label_config_is_an_error() -> None:
    options = ["--backend-url", "http://127.0.0.1:1", "--label-config", "gone.xml"]
    sentence = refused(run("doctor", *options))
    assert sentence.startswith("the label config gone.xml cannot be read: No such file")


def test_the_label_studio_of_the_environment_is_checked() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run("doctor", env=environ(LABEL_STUDIO_URL=url))
    assert done.returncode == 1
    assert "reach Label Studio" in done.stdout
