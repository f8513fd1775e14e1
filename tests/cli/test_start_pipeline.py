"""``lsml-bento start --pipeline``: what it hands on, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lsml_bento.pipelines import PIPELINES, pipeline_name
from tests.cli.commands import MODEL, call, environ, refused, run, write
from tests.e2e.processes import free_port

NER = ("--pipeline", "token-classification")


def usage_error(*arguments: object, **env: str) -> str:
    """The last line of a usage error."""
    done = run("start", *arguments, env=environ(**env))
    assert done.returncode == 2, done.stderr
    return done.stderr.splitlines()[-1]


def test_start_without_a_directory_or_pipeline_is_a_usage_error() -> None:
    assert usage_error() == (
        "Error: name the directory of a backend, or a transformers pipeline: "
        "--pipeline PIPELINE --model MODEL"
    )


def test_a_pipeline_needs_a_model() -> None:
    assert usage_error(*NER) == (
        "Error: name the model of the pipeline token-classification: --model"
    )


def test_a_pipeline_is_configured_by_variables() -> None:
    said = usage_error(LSML_PIPELINE="text-classification")
    assert said == "Error: name the model of the pipeline text-classification: --model"


def test_an_unknown_pipeline_is_a_usage_error_that_lists_the_known_ones() -> None:
    said = usage_error("--pipeline", "translation", "--model", "m")
    assert all(name in said for name in PIPELINES)


@pytest.mark.parametrize("option", ["pipeline", "model", "device", "name"])
def test_a_directory_and_a_pipeline_cannot_be_combined(
    tmp_path: Path, option: str
) -> None:
    write(tmp_path, model=MODEL)
    said = usage_error(tmp_path, f"--{option}", "text-generation")
    assert said == (
        f"Error: --{option} is for a pipeline and cannot be combined with {tmp_path}"
    )


@pytest.mark.parametrize("model", ["./gone", "/gone", "~/gone"])
def test_a_model_that_does_not_exist_is_an_error(tmp_path: Path, model: str) -> None:
    env = environ(HOME=str(tmp_path))
    said = refused(run("start", *NER, "--model", model, cwd=tmp_path, env=env))
    assert said.endswith(
        "gone is not a directory with a config.json: name one that save_pretrained() "
        "wrote, or a model on the Hugging Face Hub"
    )


def test_a_directory_without_a_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = refused(run("start", *NER, "--model", "empty", cwd=tmp_path))
    assert said.startswith("empty is not a directory with a config.json: ")


def test_missing_libraries_are_an_error_with_the_command_that_installs_them(
    tmp_path: Path,
) -> None:
    code = (
        "import sys\n"
        "from lsml_bento.cli import main\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        f"main(['start', *{NER!r}, '--model', 'a/b'])\n"
    )
    done = call([sys.executable, "-c", code], cwd=tmp_path)
    assert refused(done) == (
        "a pipeline needs transformers and torch: pip install "
        "'lsml-bento[transformers]'"
    )


def test_a_pipeline_ignores_the_current_directory(
    tmp_path: Path,
) -> None:
    write(tmp_path, model="import label_studio_ml\n")
    write(tmp_path / "bentoml", __init__="", __main__="")  # in the server's place
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    port = free_port()
    done = run("start", *NER, "--model", "m", "-p", port, cwd=tmp_path)
    assert done.stderr == (
        f"Starting token-classification-m on http://localhost:{port}\n"
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("dslim/bert-base-NER", "token-classification-bert-base-ner"),
        ("org/model@v1.2", "token-classification-model"),
        ("/models/My Model/", "token-classification-my-model"),
        ("a" * 80, "token-classification-" + "a" * 42),
    ],
)
def test_a_backend_is_named_after_its_pipeline_and_model(model: str, name: str) -> None:
    assert pipeline_name("token-classification", model) == name
