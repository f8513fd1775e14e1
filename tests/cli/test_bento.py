"""A new backend as a bento: built in its directory, served from another one."""

import shutil
from pathlib import Path

import httpx
import pytest
import yaml

from tests.cli.commands import BIN, call, environ
from tests.e2e.processes import Server, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bento")


@pytest.fixture(scope="module")
def env(home: Path) -> dict[str, str]:
    return environ(BENTOML_HOME=str(home / "bentoml"), HOME=str(home))


@pytest.fixture(scope="module")
def bento(created: Path, home: Path, env: dict[str, str]) -> Path:
    """The directory of the built bento."""
    assert shutil.which("uv", path=env["PATH"]), "uv is missing: run `make setup`"
    project = home / "project"
    shutil.copytree(created, project, ignore=shutil.ignore_patterns(".lsml"))
    done = call([BIN / "bentoml", "build"], cwd=project, env=env, timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = (home / "bentoml" / "bentos" / "my-backend").glob("*/bento.yaml")
    return built.parent


def test_its_image_installs_the_wheel_that_came_along(bento: Path) -> None:
    [wheel] = (bento / "src" / "wheels").iterdir()
    locked = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    assert f"./wheels/{wheel.name}" in locked
    assert any(line.startswith("label-studio-sdk==") for line in locked)
    image = (bento / "env" / "docker" / "Dockerfile").read_text()
    assert image.index("./src/wheels ./src/wheels") < image.index("uv --directory")
    assert image.count("./src/wheels ./src/wheels") == 1
    assert "install -d -o 1034 -g 1034 -m 0775 /data" in image


def test_its_image_keeps_state_where_a_volume_is_mounted(bento: Path) -> None:
    image = (bento / "env" / "docker" / "Dockerfile").read_text().splitlines()
    held = yaml.safe_load((bento / "bento.yaml").read_text())["envs"]
    for name, place in {
        "LSML_HOME": "/data",
        "LSML_MODEL_STORE": "/data/models",
    }.items():
        assert f"ARG {name}={place}" in image
        # `bentoml containerize` goes by these.
        assert {"name": name, "value": place, "stage": "all"} in held


def test_it_holds_what_is_served_and_no_state(bento: Path) -> None:
    held = {path.name for path in (bento / "src").iterdir()}
    assert held == {
        "README.md",
        "bentofile.yaml",
        "label_config.xml",
        "model.py",
        "requirements.txt",
        "service.py",
        "wheels",
    }


def test_its_tag_is_served_from_another_directory(
    bento: Path, home: Path, env: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    command = [str(BIN / "bentoml"), "serve", "my-backend:latest", "-p", str(port)]
    with Server("bento", command, port, tmp_path / "log", env, cwd=tmp_path) as server:
        body = {
            "tasks": [{"id": 1, "data": {"text": "so negative"}}],
            "project": "1.1700000000",
            "label_config": (bento / "src" / "label_config.xml").read_text(),
        }
        answer = httpx.post(f"{server.url}/predict", json=body).json()
    [slot] = answer["results"]
    assert slot["result"][0]["value"] == {"choices": ["Negative"]}
    assert slot["model_version"] == "new-model-1"
    # The image's variables say nothing of a server outside of one.
    assert (home / ".lsml" / "my-backend" / "state.db").exists()
    listed = call([BIN / "lsml-bento", "jobs", "list", "--dir", bento], env=env)
    assert listed.returncode == 0, listed.stderr
    assert "No jobs yet" in listed.stdout
