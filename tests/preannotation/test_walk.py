"""How many modules a run over a file enters: all of it, and per page of tasks."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import CO_COROUTINE
from pathlib import Path
from types import FrameType

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


@contextmanager
def entered() -> Iterator[tuple[set[str], set[str]]]:
    """The modules of lsml_bento whose functions any thread calls in the block.

    Yields:
        Those of the whole block, and those from the first page of tasks to the last.
    """
    whole: set[str] = set()
    pages: set[str] = set()
    steps: list[str] = []
    coroutines: set[FrameType] = set()

    def profile(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(PACKAGE):
            return
        if frame.f_code.co_flags & CO_COROUTINE:
            if frame in coroutines:  # resumed, not called
                return
            coroutines.add(frame)
        name = path.removeprefix(PACKAGE).removesuffix(".py")
        whole.add(name)
        if steps and "__exit__" not in steps:
            pages.add(name)
        if frame.f_code.co_name in ("_fill", "__exit__") and "preannotation" in name:
            steps.append(frame.f_code.co_name)

    before = sys.getprofile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield whole, pages
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def preannotate(directory: Path, output: str) -> None:
    arguments = ["--tasks", str(directory / "tasks.jsonl")]
    arguments += ["--output", str(directory / output)]
    done = CliRunner().invoke(main, ["preannotate", str(directory), *arguments])
    assert done.exit_code == 0, done.output


def test_a_file_run_enters_few_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "label_config.xml").write_text(LABEL_CONFIG)
    tasks = [{"data": {"text": f"text {n}"}} for n in range(70)]
    lines = "".join(f"{json.dumps(task)}\n" for task in tasks)
    (tmp_path / "tasks.jsonl").write_text(lines)
    preannotate(tmp_path, "first.jsonl")  # imports what is imported late

    with entered() as (whole, pages):
        preannotate(tmp_path, "second.jsonl")

    assert len((tmp_path / "second.jsonl").read_text().splitlines()) == 70
    assert len(pages) <= 20, "\n".join(sorted(pages))
    assert len(whole) <= 36, sorted(whole)
