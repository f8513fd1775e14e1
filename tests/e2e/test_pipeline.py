"""A pipeline of transformers, served by ``lsml-bento start`` alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.adapters import tiny_models
from tests.e2e.processes import Server, eventually, free_port
from tests.e2e.serving import BIN, backend_environ

LABEL_CONFIG = """\
<View>
  <Labels name="label" toName="text">
    <Label value="Person" predicted_values="PER"/>
  </Labels>
  <Text name="text" value="$text"/>
</View>
"""
PROJECT = "1.1700000000"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    home = tmp_path_factory.mktemp("home")
    tiny_models.keyword_tagger(home / "people", {"ana": "B-PER", "li": "B-PER"})
    port = free_port()
    environ = backend_environ(home, HOME=str(home))
    del environ["LSML_HOME"]
    command = [str(BIN / "lsml-bento"), "start", "-p", str(port)]
    command += ["--pipeline", "token-classification", "--model", "people"]
    log = home / "server.log"
    server = Server("a pipeline", command, port, log, environ, cwd=home)
    with server:
        yield server, home


def set_up(server: Server, label_config: str) -> httpx.Response:
    """The answer of ``/setup`` once the model is made."""
    answers: list[httpx.Response] = []

    def is_made() -> bool:
        body = {"project": PROJECT, "schema": label_config}
        answers.append(httpx.post(f"{server.url}/setup", json=body, timeout=10))
        return answers[-1].status_code != 503

    eventually(is_made, server.tail, timeout_s=60)
    return answers[-1]


def test_a_pipeline_is_served_without_code(served: tuple[Server, Path]) -> None:
    server, home = served
    made = set_up(server, LABEL_CONFIG)
    assert made.status_code == 200, made.text
    version = made.json()["model_version"]
    assert version.startswith("people-")
    body: dict[str, Any] = {
        "project": PROJECT,
        "label_config": LABEL_CONFIG,
        "tasks": [{"id": n, "data": {"text": "so ana, li"}} for n in range(40)],
    }
    answer = httpx.post(f"{server.url}/predict", json=body, timeout=30)
    results = answer.json()["results"]
    assert len(results) == 40
    for slot in results:
        values = [region["value"] for region in slot["result"]]
        assert [(v["start"], v["end"]) for v in values] == [(3, 6), (8, 10)]
        assert slot["model_version"] == version
    assert httpx.get(f"{server.url}/health").json() == {
        "status": "UP",
        "model_class": "PipelineModel",
    }
    state = home / ".lsml" / "token-classification-people" / "state.db"
    assert state.exists()


def test_setup_gives_the_reason_when_the_labels_do_not_match(
    served: tuple[Server, Path],
) -> None:
    server, home = served
    refused = set_up(server, LABEL_CONFIG.replace(' predicted_values="PER"', ""))
    assert refused.status_code == 500
    assert refused.json()["error"] == (
        'no label of <Labels name="label"> matches a label of the model '
        f"{home / 'people'}: the label config has Person, the model has PER; map them "
        'with predicted_values, for example <Label value="Person" '
        'predicted_values="PER"/>'
    )


def test_no_worker_is_started(served: tuple[Server, Path]) -> None:
    server, _ = served
    commands = [" ".join(process.cmdline()) for process in server.tree()]
    assert len(commands) == 2
    assert not any("lsml_bento.processes.worker" in command for command in commands)
