"""``lsml-bento preannotate`` as a person runs it, with tasks out of files."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lsml_bento.cli import main
from lsml_bento.versions.registry import Version, promote
from tests.adapters.test_backend_http import backend
from tests.adapters.test_label_studio_api import LEGACY, answer
from tests.adapters.test_label_studio_predictions import Project as Studio
from tests.cli.commands import LABEL_CONFIG, MODEL, Run, environ, refused, run
from tests.cli.place import ONE, Place
from tests.cli.test_start import server

FAILING = MODEL.replace(
    "        region =",
    "        if any(task['data']['text'] == 'bad' for task in tasks):\n"
    "            raise ValueError('a bad text')\n"
    "        region =",
)
SLOW = MODEL.replace(
    "        region =", "        __import__('time').sleep(0.1)\n        region ="
)


def place_of(directory: Path, model: str = MODEL) -> Place:
    place = Place(directory / "backend", model=model)
    place.name = "chooser"
    (place.directory / "label_config.xml").write_text(LABEL_CONFIG)
    return place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return place_of(tmp_path)


def write_tasks(place: Place, *texts: str) -> None:
    lines = [json.dumps({"data": {"text": text}}) + "\n" for text in texts]
    (place.directory.parent / "tasks.jsonl").write_text("".join(lines))


def preannotate(place: Place, *arguments: object, target: object = "backend") -> Run:
    """From the directory that the backend's is in."""
    given = ["--tasks", "tasks.jsonl", "--output", "out.jsonl", *arguments]
    return run(
        "preannotate",
        *([] if target is None else [target]),
        *given,
        cwd=place.directory.parent,
        env=place.environ,
    )


def output(place: Place) -> list[dict[str, Any]]:
    lines = (place.directory.parent / "out.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_file_is_predicted_into_another_file(place: Place) -> None:
    write_tasks(place, *(f"text {n}" for n in range(70)))

    done = preannotate(place)

    path = place.directory.parent / "out.jsonl"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("70 tasks predicted by chooser-1 (")
    assert done.stdout.endswith(f" tasks/s): {path}\n")
    assert [row["data"]["text"] for row in output(place)] == [
        f"text {n}" for n in range(70)
    ]
    [prediction] = output(place)[-1]["predictions"]
    assert prediction["model_version"] == "chooser-1"
    assert prediction["result"][0]["value"] == {"choices": ["Neutral"]}
    kept = path.read_bytes()

    again = preannotate(place)

    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == f"Nothing to do: {path} already has every task.\n"
    assert path.read_bytes() == kept
    assert not place.home.joinpath("state.db").exists()


def test_failed_tasks_are_listed_and_retried(tmp_path: Path) -> None:
    place = place_of(tmp_path, FAILING)
    write_tasks(place, "a", "bad", "c", "bad")
    with (tmp_path / "tasks.jsonl").open("a") as file:
        file.write("{broken\n")

    done = preannotate(place)

    failed = tmp_path / "out.jsonl.failed.jsonl"
    assert done.returncode == 1
    assert "2 tasks predicted by chooser-1" in done.stdout
    assert ", 3 failed: " in done.stdout
    reason = "predict() raised ValueError: a bad text (model.py, line 10)"
    assert done.stderr.splitlines() == [
        f"  line 2: {reason}",
        f"  line 4: {reason}",
        "  line 5: invalid JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
        f"All failures: {failed}",
    ]
    assert [len(row["predictions"]) for row in output(place)] == [1, 0, 1, 0]

    (place.directory / "model.py").write_text(MODEL)
    again = preannotate(place, "--json")

    assert again.returncode == 1
    report = json.loads(again.stdout)
    assert (report["predicted"], report["failed"]) == (2, 1)
    assert report["failures"][0]["where"] == "line 5"
    assert [len(row["predictions"]) for row in output(place)] == [1, 1, 1, 1]


def test_sigterm_writes_finished_batches_and_the_next_run_continues(
    tmp_path: Path,
) -> None:
    place = place_of(tmp_path, SLOW)
    write_tasks(place, *(f"text {n}" for n in range(200)))
    arguments = ["preannotate", ".", "--batch-size", "4"]
    arguments += ["--tasks", "../tasks.jsonl", "--output", "../out.jsonl"]
    with place.running(*arguments) as running:
        checkpoint = tmp_path / "out.jsonl.checkpoint"
        while not checkpoint.exists():
            assert running.process.poll() is None, running.log
        assert running.end(signal.SIGTERM) == 128 + signal.SIGTERM
        assert "Interrupted. Run the same command again to continue" in running.log
    written = len(output(place))
    assert 0 < written < 200
    assert json.loads(checkpoint.read_text())["done"] == written
    (place.directory / "model.py").write_text(MODEL)

    done = preannotate(place)

    assert done.returncode == 0
    assert done.stdout.startswith(f"{200 - written} tasks predicted")
    assert [row["data"]["text"] for row in output(place)] == [
        f"text {n}" for n in range(200)
    ]


def test_a_dry_run_writes_nothing(place: Place) -> None:
    write_tasks(place, *"abcde")

    done = preannotate(place, "--dry-run", "--limit", 3)

    assert done.returncode == 0
    assert done.stdout.startswith("3 tasks predicted by chooser-1")
    assert done.stdout.endswith("nothing was written\n")
    assert not (place.directory.parent / "out.jsonl").exists()


def test_a_class_is_named_and_a_project_names_the_version(place: Place) -> None:
    write_tasks(place, "a")
    with place.state() as state:
        state.write(ONE, {"label_config": LABEL_CONFIG, "model_version": "chooser-1"})
        made = Version(version="chooser-2", created_at=1.0, label_config=LABEL_CONFIG)
        state.change(lambda change: promote(change, ONE, made))

    done = preannotate(place, "--project", "1")

    assert done.stdout.startswith("1 tasks predicted by chooser-2"), done.stderr
    unknown = refused(preannotate(place, "--project", "7", "--overwrite"))
    assert "project '7' is not known" in unknown
    options = ["--label-config", "label_config.xml", "--tasks", "../tasks.jsonl"]
    options += ["--output", "../other.jsonl"]
    named = place.run("preannotate", "model:Chooser", *options)
    assert named.stdout.startswith("1 tasks predicted by chooser-1"), named.stderr


def test_another_label_config_needs_another_output(place: Place) -> None:
    write_tasks(place, "a")
    preannotate(place)
    config = LABEL_CONFIG.replace("Positive", "Negative")
    (place.directory / "label_config.xml").write_text(config)

    path = place.directory.parent / "out.jsonl"
    assert refused(preannotate(place)) == (
        f"{path} holds predictions for another label config: choose another output, "
        "or pass --overwrite"
    )
    assert preannotate(place, "--overwrite").returncode == 0


def test_predictions_that_do_not_fit_the_label_config_are_listed(place: Place) -> None:
    write_tasks(place, "a", "b")
    config = LABEL_CONFIG.replace("Neutral", "Mixed")
    (place.directory / "label_config.xml").write_text(config)

    done = preannotate(place)

    assert done.returncode == 1
    assert "2 of 2 checked do not fit the label config: " in done.stdout
    found = [line for line in done.stderr.splitlines() if "does not fit" in line]
    assert [line.split(" is not in")[0] for line in found] == [
        f"  does not fit: task {n}, region 0: 'Neutral'" for n in (1, 2)
    ]
    assert [len(row["predictions"]) for row in output(place)] == [1, 1]


def test_unreadable_files_are_one_sentence(place: Place) -> None:
    here = place.directory.parent
    assert refused(preannotate(place)) == (
        f"the tasks in {here / 'tasks.jsonl'} cannot be read: No such file or directory"
    )
    write_tasks(place, "a")
    assert refused(preannotate(place, "--label-config", "none.xml")).startswith(
        f"the label config {here / 'none.xml'} cannot be read: No such file"
    )
    assert "neither a model.py nor" in refused(preannotate(place, target="."))
    nowhere = here / "tasks.jsonl" / "out.jsonl"
    assert refused(preannotate(place, "--output", nowhere)) == (
        f"cannot write beside {nowhere}.checkpoint: File exists"
    )
    environ = {**place.environ, "LABEL_STUDIO_URL": "http://127.0.0.1:9"}
    for env, name in ((place.environ, "URL"), (environ, "API_KEY")):
        done = run("preannotate", place.directory, "--project", "1", env=env)
        assert refused(done).startswith(f"LABEL_STUDIO_{name} is not set: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "pass the DIR of a backend, or --backend URL"),
        (["."], "pass --project N or --tasks FILE"),
        ([".", "--backend", "http://x", "--project", "1"], "not both"),
        ([".", "--project", "one"], "a project's id is a number"),
        ([".", "--tasks", "t.jsonl"], "pass the --output FILE"),
        ([".", "--project", "1", "--output", "o"], "--output requires --tasks FILE"),
        (
            [".", "--tasks", "t", "--output", "o", "--watch"],
            "--watch requires a Label Studio project",
        ),
        ([".", "--project", "1", "--filter", "{"], "--filter: invalid JSON"),
        ([".", "--project", "1", "--filter", "none"], "none: No such file"),
        ([".", "--project", "1", "--filter", "{}"], "must be of the form"),
    ],
)
def test_invalid_options_are_refused(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(main, ["preannotate", *arguments])

    assert done.exit_code == 2
    assert sentence in done.output


def test_a_running_backend_is_called(tmp_path: Path) -> None:
    place = place_of(tmp_path, FAILING)
    write_tasks(place, *(f"text {n}" for n in range(50)), "bad")
    with server(place.directory, tmp_path / "log") as started:
        config = ["--label-config", "backend/label_config.xml"]
        arguments = ["--backend", started.url, *config, "--project", "1"]
        done = preannotate(place, *arguments, target=None)

    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("50 tasks predicted by chooser-1 (")
    assert "line 51: the backend answered 500: predict() raised" in done.stderr
    assert [len(row["predictions"]) for row in output(place)] == [1] * 50 + [0]


class TestProjects:
    """With a stand-in for Label Studio whose project 7 is empty."""

    @pytest.fixture
    def studio(self) -> Iterator[Studio]:
        started = Studio()
        with started:
            yield started

    def environ(self, studio: Studio) -> dict[str, str]:
        return {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": LEGACY}

    def test_the_first_signal_ends_the_wait_for_label_studio(
        self, place: Place, studio: Studio
    ) -> None:
        studio.faults = [lambda _: answer(503)] * 1000
        arguments = ["preannotate", ".", "--project", "7"]
        with place.running(*arguments, **self.environ(studio)) as running:
            running.await_line("answered 503; retrying in 1.0 s")
            began = time.monotonic()
            assert running.end(signal.SIGINT) == 128 + signal.SIGINT

        assert time.monotonic() - began < 3
        assert "Traceback" not in running.log

    def test_a_home_that_cannot_be_written_is_one_sentence(
        self, tmp_path: Path, studio: Studio
    ) -> None:
        (tmp_path / "file").touch()
        home = {"LSML_HOME": str(tmp_path / "file" / "home")}
        with backend(lambda *_: (200, {"model_version": "v1"})) as (url, _):
            arguments = ["preannotate", "--backend", url, "--project", "7"]
            done = run(*arguments, env={**environ(), **self.environ(studio), **home})

        assert "cannot be written: Not a directory; check that" in refused(done)
