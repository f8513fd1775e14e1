"""How many modules ``preannotate`` enters to predict the tasks of a file.

Counted are the modules of lsml_bento of which any thread calls a function, in a command
with the local engine that writes every task:

* the command: everything, from reading its options to printing the result;
* the run: from ``predict_file`` to the last line, without what happens before it:
  reading options and settings, and finding the backend. It makes the model object;
* the pages: once the model is made, from opening the output to its last line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import CO_COROUTINE, CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest
from click.testing import CliRunner

import lsml_bento
from lsml_bento.cli import main
from tests.cli.commands import LABEL_CONFIG

PACKAGE = str(Path(lsml_bento.__file__).parent) + os.sep

MODEL = """\
from lsml_bento import LabelStudioMLBase


class Chooser(LabelStudioMLBase):
    def predict(self, tasks, context=None, **kwargs):
        region = {
            "from_name": "sentiment",
            "to_name": "text",
            "type": "choices",
            "value": {"choices": ["Neutral"]},
        }
        return [{"result": [region], "score": 0.5} for _ in tasks]
"""


class Walk(NamedTuple):
    """The modules whose functions are called."""

    command: set[str]
    run: set[str]
    pages: set[str]


@contextmanager
def entered() -> Iterator[Walk]:
    """Note what any thread calls in the block."""
    walk = Walk(set(), set(), set())
    noting = [walk.command]
    suspended: set[FrameType] = set()

    def profile(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(PACKAGE):
            return
        if path.endswith("log_format.py"):  # writes a log line, and is not the run
            return
        if frame.f_code.co_flags & (CO_COROUTINE | CO_GENERATOR):
            if frame in suspended:  # resumed, not called
                return
            suspended.add(frame)
        function = frame.f_code.co_name
        if function == "predict_file":
            noting.append(walk.run)
        elif function == "_fill":
            noting.append(walk.pages)
        elif function == "_print_result":
            noting[1:] = []
        for modules in noting:
            modules.add(path.removeprefix(PACKAGE).removesuffix(".py"))

    before = sys.getprofile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield walk
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def preannotate(directory: Path, output: str) -> None:
    arguments = ["--tasks", str(directory / "tasks.jsonl")]
    arguments += ["--output", str(directory / output)]
    done = CliRunner().invoke(main, ["preannotate", str(directory), *arguments])
    assert done.exit_code == 0, done.output


def test_a_file_run_enters_20_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "label_config.xml").write_text(LABEL_CONFIG)
    tasks = [{"data": {"text": f"text {n}"}} for n in range(70)]
    lines = "".join(f"{json.dumps(task)}\n" for task in tasks)
    (tmp_path / "tasks.jsonl").write_text(lines)
    preannotate(tmp_path, "first.jsonl")  # imports what is imported late

    with entered() as walk:
        preannotate(tmp_path, "second.jsonl")
    del sys.modules["model"]  # other tests import theirs

    assert len((tmp_path / "second.jsonl").read_text().splitlines()) == 70
    assert len(walk.pages) <= 17, sorted(walk.pages)
    # docs/architecture.md says what each one does.
    assert walk.run == {
        "backend_spec",
        "cli/preannotate",
        "diagnostics/results",
        "model/base_class",
        "model/invoke",
        "model/label_config",
        "model/loader",
        "preannotation/durable_files",
        "preannotation/engine",
        "preannotation/pipeline",
        "preannotation/prediction_file",
        "preannotation/run",
        "preannotation/task_file",
        "prediction/call_threads",
        "prediction/model_factory",
        "prediction/model_pool",
        "prediction/predictor",
        "state/memory",
        "state/store",
        "versions/registry",
    }
    assert len(walk.command) <= 29, sorted(walk.command)
