"""The bentos that the repository builds: what is in them, and that it suffices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e import pins
from tests.e2e.bentos import Built
from tests.e2e.processes import ROOT, Server, eventually
from tests.e2e.serving import BIN, EXAMPLE, start_command
from tests.e2e.test_gpt2 import LEARNT
from tests.e2e.test_gpt2 import Annotator as Writer

BUILD_S = 30
NER = {
    "__init__.py",
    *("backend.py", "data.py", "decoding.py", "features.py", "learning.py", "model.py"),
    *("scores.py", "train.py", "base.safetensors", "sentences.txt", "lists.txt"),
}
GPT2 = {
    "__init__.py",
    *("data.py", "generation.py", "language_model.py", "learning.py", "model.py"),
    *("base/config.json", "base/generation_config.json", "base/model.safetensors"),
    *("base/tokenizer.json", "base/tokenizer_config.json"),
}
MODULES = {
    "pytorch_ner": "ner.backend",
    "gpt2": "text_generation.model",
}
PACKAGES = {"pytorch_ner": "ner", "gpt2": "text_generation"}
EXTRAS = {"pytorch_ner": "torch", "gpt2": "transformers"}

ALONE = """
import importlib, sys
root, *paths = sys.argv[2:]
sys.path[:] = paths + [path for path in sys.path if path != root]
module = importlib.import_module(sys.argv[1])
import lsml_bento
print(module.__file__, lsml_bento.__file__, sep="\\n")
"""
"""Imports a module where the repository is not on the path, as in an image."""


@pytest.fixture(params=["pytorch_ner", "gpt2"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bento(name: str, request: pytest.FixtureRequest) -> Built:
    fixture = {"pytorch_ner": "ner_bento", "gpt2": "gpt2_bento"}[name]
    made = request.getfixturevalue(fixture)
    assert isinstance(made, Built)
    return made


def test_the_build_is_fast_and_holds_only_what_runs(name: str, bento: Built) -> None:
    files = NER if name == "pytorch_ner" else GPT2
    [wheel] = (bento.path / "src" / "wheels").iterdir()

    assert bento.files == {
        "bentofile.yaml",
        f"examples/{name}/service.py",
        f"wheels/{wheel.name}",
        *(f"examples/{name}/{PACKAGES[name]}/{file}" for file in files),
    }
    assert wheel.name.startswith("lsml_bento-")
    assert bento.seconds < BUILD_S
    assert bento.tag.startswith(name.replace("_", "-") + ":")


def test_packages_have_the_versions_of_constraints_txt(name: str, bento: Built) -> None:
    extras = [EXTRAS[name]]
    committed = (ROOT / "bentos" / name / "requirements.txt").read_text()
    assert pins.missing(extras) == set(), "add them to constraints.txt"
    assert committed == pins.requirements(extras), "make it again, as it says itself"

    [wheel] = (bento.path / "src" / "wheels").iterdir()
    installed = (bento.path / "env" / "python" / "requirements.txt").read_text()
    lines = [line for line in installed.splitlines() if line[:1] not in {"#", ""}]
    pinned = [line for line in committed.splitlines() if line[:1] != "#"]
    running = f"bentoml=={version('bentoml')}"
    assert set(lines) == {*pinned, f"./wheels/{wheel.name}", running}


def test_the_code_imports_outside_the_repository(name: str, bento: Built) -> None:
    source = bento.path / "src"
    [wheel] = (source / "wheels").iterdir()
    paths = map(str, (ROOT, source / "examples" / name, wheel))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, MODULES[name], *paths],
        cwd=bento.path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    module, package = done.stdout.splitlines()
    assert Path(module).is_relative_to(source)
    assert Path(package).is_relative_to(wheel)


def test_the_image_has_a_state_directory_and_no_empty_variables(bento: Built) -> None:
    lines = bento.dockerfile.read_text().splitlines()

    [data] = [number for number, line in enumerate(lines) if "install -d" in line]
    assert lines[data].endswith("install -d -o 1034 -g 1034 -m 0775 /data")
    [packages] = [n for n, line in enumerate(lines) if "uv --directory" in line]
    [wheels] = [n for n, line in enumerate(lines) if "./src/wheels" in line]
    assert data < wheels < packages
    assert "ARG UV_TORCH_BACKEND=cpu" in lines
    assert not [line for line in lines if line.startswith("ENV") and line[-1] == "="]
    assert "FROM python:3.11-slim AS base-container" in lines


def hadolint(path: Path, *options: str) -> None:
    tool = BIN / "hadolint"
    assert tool.exists(), f"{tool} is missing: run `make setup`"
    command = [str(tool), "--no-color", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_generated_dockerfile_has_no_lint_errors(
    bento: Built,
) -> None:
    # Below an error it complains of lines that are BentoML's own.
    hadolint(bento.dockerfile, "--failure-threshold", "error")


@pytest.mark.parametrize("path", ["lsml_bento/template", "examples"])
def test_our_dockerfiles_have_no_lint_warnings(path: str) -> None:
    hadolint(ROOT / path / "Dockerfile")


def test_a_served_gpt2_tag_learns_and_stores_the_version_in_the_users_model_store(
    gpt2_bento: Built, tmp_path: Path
) -> None:
    environ = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    prompt = "How do I clean the Otter pack?"
    with (
        gpt2_bento.served(tmp_path, environ) as server,
        closing(Writer(server)) as writer,
    ):
        [slot] = writer.predict(prompt)
        assert slot["model_version"] == "gpt2-base"
        for pair in LEARNT[:5]:
            writer.accept(pair)
        job = writer.ended(writer.train())
        assert job["status"] == "succeeded", job
        assert writer.answers(prompt, job["version"])

    assert (tmp_path / ".lsml" / "gpt2" / "state.db").exists()
    [weights] = (gpt2_bento.home / "models").glob("gpt2*/*/weights")
    assert (weights / "model.safetensors").exists()


# A container, whose supervisor replaces no process


def serving(server: Server) -> list[psutil.Process]:
    """The processes that answer."""
    found = []
    for one in psutil.Process(server.pid).children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "_bentoml_impl.worker" in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_a_container_exits_when_its_only_serving_process_dies(tmp_path: Path) -> None:
    environ = {"BENTOML_CONTAINERIZED": "true"}
    server = start_command(EXAMPLE, tmp_path, environ=environ)
    server.start()
    try:
        [process] = serving(server)
        os.kill(process.pid, signal.SIGKILL)
        start = time.monotonic()
        assert server.wait(timeout_s=15) != 0
        assert time.monotonic() - start < 10
    finally:
        server.kill()


def test_a_container_replaces_one_of_several_serving_processes(tmp_path: Path) -> None:
    environ = {"BENTOML_CONTAINERIZED": "true", "WORKERS": "2"}
    with start_command(EXAMPLE, tmp_path, environ=environ) as server:
        first, other = serving(server)
        os.kill(first.pid, signal.SIGKILL)
        eventually(
            lambda: len({one.pid for one in serving(server)} - {first.pid}) == 2,
            lambda: str(serving(server)),
        )
        assert other.is_running()
        assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200
