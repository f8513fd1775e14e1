"""A GPU that fails for good costs the request that met it, and no other."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.e2e.processes import Server, eventually
from tests.e2e.serving import serve_command

SERVICE = """
from lsml_bento import create_service

svc = create_service("model:Brittle", name="brittle")
"""
MODEL = """
import os

from lsml_bento import LabelStudioMLBase

LOST = "CUDA error: device-side assert triggered"


class Brittle(LabelStudioMLBase):
    def predict(self, tasks, context=None, **kwargs):
        if any(task["data"]["text"] == "too long" for task in tasks):
            os.environ["LOST"] = "1"
        if "LOST" in os.environ:
            raise RuntimeError(LOST)  # as each call of torch does from then on
        return [{"result": [], "score": os.getpid()} for _ in tasks]
"""


def predict(server: Server, text: str) -> httpx.Response:
    task = {"id": 1, "data": {"text": text}}
    body = {"tasks": [task], "project": "1.1", "label_config": "<View/>"}
    return httpx.post(f"{server.url}/predict", json=body, timeout=20)


def process_of(server: Server) -> float | None:
    """The process that predicts; None while none does."""
    try:
        answer = predict(server, "short")
    except httpx.HTTPError:
        return None
    return answer.json()["results"][0]["score"] if answer.is_success else None


def test_a_process_that_lost_its_gpu_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "brittle"
    directory.mkdir()
    (directory / "service.py").write_text(SERVICE)
    (directory / "model.py").write_text(MODEL)

    with serve_command(directory, tmp_path / "home") as server:
        first = process_of(server)
        assert first is not None

        lost = predict(server, "too long")

        assert lost.status_code == 500
        assert "this process cannot use the GPU any more" in lost.text
        eventually(lambda: process_of(server) not in {None, first}, server.tail, 30)
        assert "GPU lost: this process ends" in server.log()
