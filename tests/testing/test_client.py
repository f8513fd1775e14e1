"""``lsml_bento.testing``: the routes of a backend, in the process of a test."""

import threading
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.errors import SettingsError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.testing import Client, client_for
from tests.cli.commands import LABEL_CONFIG, MODEL, write

SETUP = {"project": "1.1700000000", "schema": LABEL_CONFIG}
BODY = {
    "project": "1.1700000000",
    "label_config": LABEL_CONFIG,
    "tasks": [{"id": 1, "data": {"text": "a"}}],
}


class Counting(LabelStudioMLBase):
    """Counts its predictions in state."""

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        self.set("count", (self.get("count") or 0) + 1)
        return [{"result": [], "score": self.get("count")} for _ in tasks]


def test_a_class_answers_as_it_would_behind_a_server() -> None:
    with client_for(Counting, environ={}) as client:
        assert client.get("/health").json()["model_class"] == "Counting"
        assert client.post("/setup", json=SETUP).json() == {"model_version": "0.0.1"}
        scores = [
            client.post("/predict", json=BODY).json()["results"][0]["score"]
            for _ in range(2)
        ]
    assert scores == [1.0, 2.0]


def test_every_client_has_a_state_of_its_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for _ in range(2):
        with client_for(Counting, environ={"LSML_HOME": str(home)}) as client:
            [slot] = client.post("/predict", json=BODY).json()["results"]
            assert slot["score"] == 1.0
    assert not home.exists()


def test_a_module_is_found_in_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", ["kept"])
    write(tmp_path, chooser_for_a_test=MODEL)
    with client_for("chooser_for_a_test:Chooser", tmp_path, {}) as client:
        assert client.post("/setup", json=SETUP).json() == {
            "model_version": "chooser-1"
        }


def test_settings_come_from_the_environment_given() -> None:
    environ = {"BASIC_AUTH_USER": "ann", "BASIC_AUTH_PASS": "word"}
    with client_for(Counting, environ=environ) as client:
        assert client.post("/setup", json=SETUP).status_code == 401
        answer = client.post("/setup", json=SETUP, auth=("ann", "word"))
        assert answer.status_code == 200
    with pytest.raises(SettingsError, match="BASIC_AUTH_PASS"):
        client_for(Counting, environ={"BASIC_AUTH_USER": "ann"})


def test_closing_twice_is_closing_once_and_ends_the_thread() -> None:
    before = threading.active_count()
    client = client_for(Counting, environ={})
    client.get("/health")
    client.close()
    client.close()
    assert threading.active_count() <= before


def test_an_app_that_breaks_is_an_answer() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"broken"})
        raise RuntimeError("after the answer")

    with Client(app) as client:
        answer = client.request("GET", "/")
    assert (answer.status_code, answer.text) == (500, "broken")
