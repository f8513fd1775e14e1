"""Backends served the way a user serves them, each with a home of its own."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.processes import ROOT, Server, free_port

BIN = Path(sys.executable).parent
EXAMPLE = ROOT / "examples" / "keyword"
BACKENDS = Path(__file__).parent / "backends"

LEGACY = ROOT / "tests" / "legacy" / "keyword_backend"
LEGACY_CONFIG = """
<View>
  <Text name="text" value="$text"/>
  <Choices name="mood" toName="text">
    <Choice value="happy"/>
    <Choice value="sad"/>
  </Choices>
</View>
"""
"""Of that backend, which has no file with it."""
ECHO = BACKENDS / "echo"
FOREIGN = ("LSML_", "LABEL_STUDIO_", "BASIC_AUTH_", "BENTOML_", "PYTEST_")
NAMES = {"WORKERS", "THREADS", "PORT", "MODEL_DIR", "LOG_LEVEL", "REDIS_URL"}


def start_command(
    directory: Path,
    home: Path,
    *options: str,
    environ: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Server:
    """``lsml-bento start DIRECTORY -p PORT``, not started; a free port by default."""
    port = port or free_port()
    command = [_tool("lsml-bento"), "start", str(directory), "-p", str(port), *options]
    name = f"lsml-bento start {directory.name}"
    return _server(name, command, port, home, home, environ)


def serve_command(
    directory: Path,
    home: Path,
    target: str = "service:svc",
    environ: Mapping[str, str] | None = None,
) -> Server:
    """``bentoml serve service:svc -p PORT`` in the directory, not started yet."""
    port = free_port()
    command = [_tool("bentoml"), "serve", target, "-p", str(port)]
    name = f"bentoml serve {directory.name}/{target}"
    return _server(name, command, port, home, directory, environ)


def backend_environ(home: Path, **more: str) -> dict[str, str]:
    """The caller's environment without its settings, and homes below ``home``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) and name not in NAMES
    }
    own = {
        "LSML_HOME": str(home / "lsml"),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
        "NO_PROXY": "*",
    }
    return {**kept, **own, **more}


def _tool(name: str) -> str:
    path = BIN / name
    assert path.exists(), f"{path} is missing: run `make setup`"
    return str(path)


def _server(
    name: str,
    command: list[str],
    port: int,
    home: Path,
    cwd: Path,
    environ: Mapping[str, str] | None,
) -> Server:
    home.mkdir(parents=True, exist_ok=True)
    return Server(
        name=name,
        command=command,
        port=port,
        log_file=home / "server.log",
        environ=backend_environ(home, **(environ or {})),
        cwd=cwd,
    )
