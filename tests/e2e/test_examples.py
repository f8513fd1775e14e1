"""An example works from any directory, with lsml-bento installed as a wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import bentoml
import httpx
import pytest

from lsml_bento.scaffold.wheel import write_wheel
from tests.e2e.processes import ROOT, Server, free_port
from tests.e2e.serving import BIN, backend_environ

EXAMPLES = {
    "keyword": "A dragon",
    "pytorch_ner": "Ana Silva flew to Porto",
    "gpt2": "How do I clean the Otter pack?",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with a wheel; only libraries come from ours."""
    directory = tmp_path_factory.mktemp("installed")
    environment = directory / "venv"
    make = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(make, check=True)
    wheel = write_wheel(directory)
    python = environment / "bin" / "python"
    install = [str(BIN / "uv"), "pip", "install", "--quiet", "--no-deps", "--offline"]
    subprocess.run([*install, "--python", str(python), str(wheel)], check=True)
    [packages] = environment.glob("lib/*/site-packages")
    libraries = Path(bentoml.__file__).parents[1]
    (packages / "libraries.pth").write_text(f"{libraries}\n")
    return python.parent


@pytest.fixture(params=EXAMPLES)
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the example as a user makes one to start from."""
    left_out = shutil.ignore_patterns(".lsml", "__pycache__")
    copy = tmp_path / str(request.param)
    shutil.copytree(ROOT / "examples" / str(request.param), copy, ignore=left_out)
    return copy


def test_a_copied_example_is_checked_and_served_with_a_wheel(
    installed: Path, copied: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    environ = backend_environ(home, **OFFLINE)

    where = [
        str(installed / "python"),
        "-c",
        "import lsml_bento as m; print(m.__file__)",
    ]
    done = subprocess.run(where, cwd=tmp_path, capture_output=True, check=True)
    assert Path(done.stdout.decode().strip()).is_relative_to(installed.parent)

    done = subprocess.run(
        [installed / "lsml-bento", "check", copied],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()

    port = free_port()
    command = [str(installed / "lsml-bento"), "start", str(copied), "-p", str(port)]
    log = tmp_path / "server.log"
    with Server(copied.name, command, port, log, environ, cwd=tmp_path) as server:
        key = "prompt" if copied.name == "gpt2" else "text"
        body = {
            "tasks": [{"id": 1, "data": {key: EXAMPLES[copied.name]}}],
            "project": "1.1700000000",
            "label_config": (copied / "label_config.xml").read_text(),
        }
        answer = httpx.post(f"{server.url}/predict", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        [slot] = answer.json()["results"]
        assert slot["result"], server.tail()
