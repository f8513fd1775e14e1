"""A run of ``preannotate`` killed at any moment, again and again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import LABEL_CONFIG, environ, write
from tests.e2e.processes import ROOT

pytestmark = pytest.mark.e2e

KILLS = 20
TASKS = 3_000
MODEL = """\
import time

from lsml_bento import LabelStudioMLBase


class Chooser(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "chooser-1")

    def predict(self, tasks, context=None, **kwargs):
        time.sleep(0.01)
        return [self.choose(task) for task in tasks]

    def choose(self, task):
        if task["data"]["number"] % 100 == 7:
            return 7
        region = {
            "id": str(task["data"]["number"]),
            "from_name": "sentiment",
            "to_name": "text",
            "type": "choices",
            "value": {"choices": ["Neutral"]},
        }
        return {"result": [region], "score": 0.5}
"""

DRIVER = """\
import json, os, random, signal, sys, time

# Once, and not in every child.
import lsml_bento.processes.wiring
import lsml_bento.processes.preannotation, rich.progress
from lsml_bento.cli import main

kills = int(sys.argv[1])


def start(output):
    child = os.fork()
    if child:
        return child
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1), os.dup2(silence, 2)
    command = ["preannotate", "backend", "--tasks", "tasks.jsonl", "--output", output]
    try:
        main(command)
    except SystemExit as end:
        os._exit(end.code)
    os._exit(99)


def code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stamp(output):
    return os.stat(output).st_mtime_ns if os.path.exists(output) else 0


found = {"whole": code(start("whole.jsonl")), "sizes": [], "ends": []}
chance = random.Random(7)
for _ in range(kills):
    before = stamp("out.jsonl")
    child = start("out.jsonl")
    while chance.random() < 0.995 and stamp("out.jsonl") == before:
        time.sleep(0.005)  # now and then it is killed before it has written anything
    time.sleep(chance.uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    found["ends"].append(code(child))
    found["sizes"].append(os.path.getsize("out.jsonl") if stamp("out.jsonl") else 0)
found["resumed"] = code(start("out.jsonl"))
print(json.dumps(found))
"""
"""Starts runs as children that share its imports, and kills them."""


def test_the_output_of_a_run_killed_20_times_is_an_undisturbed_one_s(
    tmp_path: Path,
) -> None:
    write(tmp_path / "backend", model=MODEL)
    (tmp_path / "backend" / "label_config.xml").write_text(LABEL_CONFIG)
    tasks = [{"data": {"text": "a", "number": n}} for n in range(TASKS)]
    lines = [f"{json.dumps(task)}\n" for task in tasks]
    lines[10:10] = ["{broken\n"]
    (tmp_path / "tasks.jsonl").write_text("".join(lines))

    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(KILLS)],
        cwd=tmp_path,
        env=environ(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["whole"] == found["resumed"] == 1  # the tasks that fail
    assert found["ends"] == [-9] * KILLS
    sizes = found["sizes"]
    assert len(set(sizes)) > KILLS / 4
    assert max(sizes) < (tmp_path / "whole.jsonl").stat().st_size
    for suffix in ("", ".failed.jsonl", ".checkpoint"):
        resumed = (tmp_path / f"out.jsonl{suffix}").read_bytes()
        assert resumed == (tmp_path / f"whole.jsonl{suffix}").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*out*")) == [
        "out.jsonl",
        "out.jsonl.checkpoint",
        "out.jsonl.failed.jsonl",
    ]
