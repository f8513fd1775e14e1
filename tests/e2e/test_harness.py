"""The harness itself: what it must never do silently."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e import label_studio
from tests.e2e.processes import ROOT, Server, ServerError, free_port


def sleeper(tmp_path: Path, program: str, port: int | None = None) -> Server:
    command = [sys.executable, "-c", program]
    log = tmp_path / "server.log"
    return Server("sleeper", command, port or free_port(), log, {"PATH": "/usr/bin"})


SERVE = """
import http.server, subprocess, sys
class Up(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                 start_new_session=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Up).serve_forever()
"""


def test_a_missing_label_studio_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(label_studio, "ENVIRONMENT", tmp_path)
    missing = pytest.raises(label_studio.LabelStudioMissingError, match="make setup")
    with missing, label_studio.running(tmp_path):
        pass


def test_a_server_that_ends_at_start_shows_its_log(tmp_path: Path) -> None:
    server = sleeper(tmp_path, "raise SystemExit('no such weights')")
    with pytest.raises(ServerError, match="no such weights"):
        server.start()


def test_another_process_on_the_port_is_not_mistaken_for_the_server(
    tmp_path: Path,
) -> None:
    port = free_port()
    stranger = sleeper(tmp_path / "stranger", SERVE, port)
    stranger.command = [*stranger.command, str(port)]
    stranger.start()
    server = sleeper(tmp_path, "import time; time.sleep(30)", port)
    with pytest.raises(ServerError, match="gave no /health"):
        server.start(timeout_s=1)
    stranger.kill()
    assert server.tree() == []
    assert stranger.tree() == []


def test_a_process_that_outlives_its_server_is_an_error_and_is_killed(
    tmp_path: Path,
) -> None:
    server = sleeper(tmp_path, SERVE)
    server.command = [*server.command, str(server.port)]
    server.start()
    pids = [process.pid for process in server.tree()]
    assert len(pids) == 2
    with pytest.raises(ServerError, match="left processes"):
        server.stop(timeout_s=0.5)
    assert not any(psutil.pid_exists(pid) and is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    """True unless the process only waits for its parent to notice its end."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_installing_twice_does_nothing() -> None:
    command = [sys.executable, "-m", "tests.e2e.label_studio", "install"]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert "done in 0.0 s" in run.stdout


def test_an_unknown_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert label_studio.main(["remove"]) == 2
    assert "install|template" in capsys.readouterr().out
