"""A directory written for ``label_studio_ml`` runs as it is."""

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.client import LabelStudioApi
from tests.e2e.processes import Server
from tests.e2e.serving import (
    LEGACY,
    LEGACY_CONFIG,
    backend_environ,
    start_command,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since a directory of a user stands alone."""
    copy = tmp_path_factory.mktemp("legacy") / "keyword_backend"
    shutil.copytree(LEGACY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where its ``fit`` may keep models."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def backend(
    directory: Path, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    server = start_command(directory, home, "--model-dir", models.name)
    server.cwd = models.parent
    server.stop_signal = signal.SIGINT
    with server:
        yield server


def digests(directory: Path) -> dict[str, str]:
    """The files of a directory and what they hold."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path.is_file()
    }


def test_the_server_logs_once_that_it_replaces_label_studio_ml(backend: Server) -> None:
    health = httpx.get(f"{backend.url}/health").json()
    assert health["model_class"] == "KeywordClassifier"
    assert backend.log().count("label_studio_ml") == 1


def test_each_process_knows_the_absolute_path_of_the_model_dir(
    backend: Server, models: Path
) -> None:
    environments = [process.environ() for process in backend.tree()]
    assert {e["MODEL_DIR"] for e in environments} == {str(models)}


def test_the_backend_connects_and_predicts_with_its_own_version(
    label_studio: LabelStudioApi, backend: Server
) -> None:
    project = label_studio.create_project("legacy", LEGACY_CONFIG)
    tasks = project.add_tasks(["I am happy", "so sad", "neither"])
    assert project.connect(backend.url).created["model_version"] == "0.0.1"

    project.retrieve_predictions()

    predictions = {p["task"]: p for p in project.predictions()}
    chosen = [predictions[t]["result"][0]["value"]["choices"] for t in tasks]
    assert chosen == [["happy"], ["sad"], ["sad"]]
    assert {p["model_version"] for p in predictions.values()} == {"0.0.1"}
    assert {p["score"] for p in predictions.values()} == {0.8}


def test_the_files_are_unchanged(directory: Path, backend: Server) -> None:
    assert backend.listens()
    assert digests(directory) == digests(LEGACY)


def test_the_tests_of_the_directory_pass(directory: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_api.py"],
        cwd=directory,
        env=backend_environ(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed" in run.stdout
