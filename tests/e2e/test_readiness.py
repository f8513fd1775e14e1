"""A server takes traffic once its class is imported, and tries to import it unasked."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.e2e.processes import eventually, healthy
from tests.e2e.serving import serve_command

SERVICE = """
from lsml_bento import create_service

svc = create_service("model:Late", name="late")
"""
MODEL = """
from pathlib import Path

from lsml_bento import LabelStudioMLBase

if not Path(__file__).with_name("repaired").exists():
    raise OSError("the weights are on another disk")


class Late(LabelStudioMLBase):
    pass
"""


def test_a_server_is_not_ready_until_its_class_imports(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "late"
    directory.mkdir()
    (directory / "service.py").write_text(SERVICE)
    (directory / "model.py").write_text(MODEL)

    with serve_command(directory, tmp_path / "home") as server:
        eventually(
            lambda: "the weights are on another disk" in server.log(), server.tail
        )
        assert healthy(server.port, "/livez")
        assert healthy(server.port, "/health"), "Label Studio connects all the same"
        assert not healthy(server.port, "/readyz")

        (directory / "repaired").touch()

        eventually(lambda: healthy(server.port, "/readyz"), server.tail, 15)
        assert healthy(server.port, "/livez")
        assert server.log().count("cannot be imported") == 1, "each try says it again"


SLOW = """
import time
from pathlib import Path

from lsml_bento import LabelStudioMLBase

while not Path(__file__).with_name("loaded").exists():
    time.sleep(0.05)


class Late(LabelStudioMLBase):
    pass
"""


def test_health_refuses_while_the_class_is_imported(tmp_path: Path) -> None:
    directory = tmp_path / "late"
    directory.mkdir()
    (directory / "service.py").write_text(SERVICE)
    (directory / "model.py").write_text(SLOW)
    server = serve_command(directory, tmp_path / "home")
    server.launch()
    try:
        eventually(lambda: healthy(server.port, "/livez"), server.tail, 30)
        answer = httpx.get(f"{server.url}/health")
        assert answer.status_code == 503
        said = "Late is being imported: connect in a few seconds"
        assert answer.json() == {"error": said}
        assert "Ready: " not in server.log()

        (directory / "loaded").touch()

        server.wait_until_healthy()
        eventually(lambda: "Ready: " in server.log(), server.tail)
        assert healthy(server.port, "/readyz")
        assert server.log().count("Ready: Late answers Label Studio process=") == 1
    finally:
        server.stop()
