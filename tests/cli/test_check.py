"""``lsml-bento check``: what Label Studio would hide or reject."""

from pathlib import Path

import pytest

from tests.cli.commands import LABEL_CONFIG, MODEL, Run, refused, run, write
from tests.e2e.processes import ROOT

LEGACY = ROOT / "tests" / "legacy" / "keyword_backend"


def checked(directory: Path, model: str, *options: object) -> Run:
    write(directory, model=model)
    (directory / "label_config.xml").write_text(LABEL_CONFIG)
    return run("check", directory, *options)


def test_a_new_backend_passes(created: Path) -> None:
    done = run("check", created)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("NewModel, model version new-model-1\nfirst task")
    assert "4 tasks in one call" in done.stdout
    verdict = "4 tasks, 4 predictions, 4 regions: Label Studio accepts all of them"
    assert done.stdout.splitlines()[-1] == verdict
    assert done.stderr == ""


def test_a_wrong_name_is_an_error(tmp_path: Path) -> None:
    done = checked(tmp_path, MODEL.replace('"sentiment"', '"mood"'))
    assert done.returncode == 1
    assert (
        "error task 1, region 0: from_name 'mood' is not in the label config, which "
        "has sentiment: Label Studio does not show it"
    ) in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.endswith("Label Studio would hide or reject some of them")


def test_a_directory_of_label_studio_ml_is_checked_with_a_given_config(
    tmp_path: Path,
) -> None:
    config = tmp_path / "my.xml"
    config.write_text(LABEL_CONFIG)
    done = run("check", LEGACY, "--label-config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KeywordClassifier, model version 0.0.1" in done.stdout


def test_the_class_that_service_py_names_is_checked(tmp_path: Path) -> None:
    other = MODEL.replace("Chooser", "Other").replace("chooser-1", "other-1")
    service = (
        "from lsml_bento import create_service\nsvc = create_service('model:Other')"
    )
    write(tmp_path, service=service)
    done = checked(tmp_path, MODEL + other)
    assert done.stdout.startswith("Other, model version other-1\n"), done.stderr


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "class Chooser",
            "import gone\n\n\nclass Chooser",
            "the module 'model' cannot be imported: ModuleNotFoundError: No module "
            "named "
            "'gone' (model.py, line 4)",
        ),
        (
            "        self.set(",
            "        1 / 0\n        self.set(",
            "Chooser could not be set up: ZeroDivisionError: division by zero "
            "(model.py, line 6)",
        ),
    ],
)
def test_a_model_that_fails_to_load_is_an_error_with_file_and_line(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    assert refused(checked(tmp_path, MODEL.replace(old, new))) == sentence


def test_an_exception_of_predict_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    done = checked(tmp_path, MODEL.replace("return [{", "return 1 / 0 or [{"))
    assert done.returncode == 1
    assert (
        "error task 1: predict() raised ZeroDivisionError: division by zero (model.py, "
        "line 16)"
    ) in done.stdout
    assert "Traceback" not in done.stderr


def test_tasks_of_ones_own_are_predicted(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.csv"
    tasks.write_text("text\n" + "a text\n" * 30)
    done = checked(tmp_path / "backend", MODEL, "--tasks", tasks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 tasks, 20 predictions, 20 regions" in done.stdout

    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"text": "a"}\n{broken\n')
    said = refused(checked(tmp_path / "backend", MODEL, "--tasks", tasks))
    assert said.startswith(f"{tasks}, line 2: invalid JSON: ")
    tasks.write_text("\n")
    said = refused(checked(tmp_path / "backend", MODEL, "--tasks", tasks))
    assert said == f"{tasks} has no tasks: name a file with at least one"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = checked(tmp_path, "import gone\n", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "No module named 'gone'" in done.stderr


def test_a_label_config_that_does_not_parse_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "my.xml"
    config.write_text("<View>")
    sentence = refused(checked(tmp_path, MODEL, "--label-config", config))
    assert sentence.startswith("the label config is invalid: ")


def test_a_missing_label_config_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, model=MODEL)
    sentence = refused(run("check", tmp_path))
    assert f"config {tmp_path / 'label_config.xml'} cannot be read: No such" in sentence
    assert sentence.endswith("and pass it with --label-config")


def test_a_directory_without_a_backend_is_an_error(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "gone"):
        assert refused(run("check", directory)) == (
            f"{directory} has neither a model.py nor a service.py with svc: name the "
            "directory of a backend"
        )


MAIN_THREAD = """
import asyncio, signal
from lsml_bento import LabelStudioMLBase

LOOP = asyncio.get_event_loop()
signal.signal(signal.SIGTERM, lambda *_: None)

class Loop(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "loop-1")
        {setup}

    def predict(self, tasks, context=None, **kwargs):
        return LOOP.run_until_complete(self.answer(tasks))

    async def answer(self, tasks):
        value = {{"choices": ["Positive"]}}
        names = {{"from_name": "sentiment", "to_name": "text", "type": "choices"}}
        return [{{"result": [{{**names, "value": value}}]}} for _ in tasks]
"""


def test_a_module_that_expects_the_main_thread_passes_as_it_is_served(
    tmp_path: Path,
) -> None:
    done = checked(tmp_path, MAIN_THREAD.format(setup=""))

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Loop, model version loop-1\n")


def test_a_setup_that_needs_the_main_thread_fails_as_it_would_in_a_server(
    tmp_path: Path,
) -> None:
    setup = "signal.signal(signal.SIGTERM, signal.SIG_DFL)"

    done = checked(tmp_path, MAIN_THREAD.format(setup=setup))

    assert "signal only works in main thread" in refused(done)
