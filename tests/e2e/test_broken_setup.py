"""A model whose ``setup`` raises: Label Studio shows it, and shows its repair."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.client import LabelStudioApi, Project
from tests.e2e.processes import Server, eventually
from tests.e2e.serving import BACKENDS, start_command

FRAGILE = BACKENDS / "fragile"
LABEL_CONFIG = """
<View>
  <Text name="text" value="$text"/>
  <Choices name="choice" toName="text"><Choice value="one"/></Choices>
</View>
"""
REASON = "the weights are on another disk"


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file exists, ``setup`` raises with its text."""
    return tmp_path_factory.mktemp("switch") / "broken"


@pytest.fixture(scope="module")
def backend(switch: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = {"FRAGILE_SWITCH": str(switch)}
    home = tmp_path_factory.mktemp("fragile")
    with start_command(FRAGILE, home, environ=environ) as server:
        yield server


@pytest.fixture
def project(label_studio: LabelStudioApi, switch: Path) -> Iterator[Project]:
    yield label_studio.create_project("fragile", LABEL_CONFIG)
    switch.unlink(missing_ok=True)


def health(backend: Server) -> str:
    answer = httpx.get(f"{backend.url}/health", timeout=1)
    assert answer.status_code == 200
    return str(answer.json()["status"])


def test_a_backend_that_cannot_be_set_up_is_refused_and_recovers(
    project: Project, backend: Server, switch: Path
) -> None:
    switch.write_text(REASON)
    refused = project.try_connect(backend.url)
    assert refused.status_code == 400
    assert "doesn't look like a valid ML backend" in refused.text
    assert health(backend) == "UP"
    assert REASON in backend.log()

    switch.unlink()
    eventually(
        lambda: project.try_connect(backend.url).status_code == 201, backend.tail
    )
    assert project.backends()[0]["model_version"] == "fragile-1"


def test_a_connected_backend_shows_the_error_and_recovers_at_the_next_call(
    project: Project, backend: Server, switch: Path
) -> None:
    project.add_tasks(["a text"])
    connection = project.connect(backend.url)
    assert connection.created["state"] == "CO"

    switch.write_text(REASON)
    more = LABEL_CONFIG.replace("</Choices>", '<Choice value="two"/></Choices>')
    project.change(label_config=more)
    record = connection.check()
    assert record["state"] == "ER"
    assert "500 Server Error" in record["error_message"]
    assert health(backend) == "UP"

    switch.unlink()
    eventually(lambda: connection.check()["state"] == "CO", backend.tail)
    assert connection.check()["error_message"] is None
    project.retrieve_predictions()
    assert len(project.predictions()) == 1


def test_the_reason_is_in_the_answer_without_a_traceback(
    backend: Server, switch: Path
) -> None:
    switch.write_text(REASON)
    body = {"project": "9.1", "schema": LABEL_CONFIG.replace("one", "three")}
    answer = httpx.post(f"{backend.url}/setup", json=body, timeout=5)
    switch.unlink()
    assert answer.status_code in {500, 503}
    assert REASON in answer.json()["error"]
    assert "Traceback" not in answer.text
