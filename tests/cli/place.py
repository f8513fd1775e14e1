"""A backend's directory with state of its own, and commands about it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lsml_bento.adapters.bentoml_models import BentoModels
from lsml_bento.adapters.redis_state import RedisState
from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.cli import main
from lsml_bento.contract import Project
from lsml_bento.jobs.events import Event
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.training_policy import START_TRAINING, TrainingRules
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Version, promote
from lsml_bento.versions.weights import store_name
from tests.cli.commands import LABEL_CONFIG, TOOL, Run, environ, refused, run, write

ONE = Project("1", 1795426489)
TWO = Project("2", 1795426490)

LEARNER = """\
import time

from lsml_bento import LabelStudioMLBase


class Learner(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "learner-0")

    def predict(self, tasks, context=None, **kwargs):
        return [None for _ in tasks]

    def fit(self, event, data, **kwargs):
        print("learns from", event, data["project"]["id"], flush=True)
        for step in range(4):
            self.report(progress=step / 4, loss=1.0 / (step + 1))
            time.sleep(0.3)
        with self.save_weights(metrics={"f1": 0.91234}) as directory:
            (directory / "weights").write_text("learned")
"""


class Place:
    """A directory that ``lsml-bento`` can serve, and what is kept for it.

    Args:
        directory: made below a test's own.
        redis_url: keeps the state, if any.
        files: Python files, named without their suffix.
    """

    def __init__(
        self, directory: Path, redis_url: str | None = None, **files: str
    ) -> None:
        self.directory = write(directory, **(files or {"model": LEARNER}))
        self.environ = environ(BENTOML_HOME=str(directory.parent / "bentoml"))
        self.name = "learner"
        self.home = self.directory / ".lsml"
        self.redis_url = redis_url
        if redis_url is not None:
            self.environ["REDIS_URL"] = redis_url

    @contextmanager
    def state(self) -> Iterator[State]:
        opened: State
        if self.redis_url is None:
            opened = SqliteState(self.home / "state.db", self.name)
        else:
            opened = RedisState(self.redis_url, self.name)
        yield opened
        opened.close()

    @property
    def weights(self) -> BentoModels:
        return BentoModels(self.directory.parent / "bentoml" / "models")

    # What is there

    def connect(self, *projects: Project) -> None:
        """Let projects be known, as a server does that Label Studio asked."""
        with self.state() as state:
            for project in projects or (ONE,):
                values = {"label_config": LABEL_CONFIG, "model_version": "learner-0"}
                state.write(project, values)

    def job(self, project: Project = ONE) -> Job:
        """A job that is due, or the one that waits."""
        with self.state() as state:
            event = Event(START_TRAINING, project, {"project": {"id": 1}})
            job = JobStore(state, lambda: time.time() - 60).enqueue(
                event, TrainingRules()
            )
        assert job is not None
        return job

    def failed(self, project: Project = ONE, error: str = "fit() raised Oops") -> Job:
        """A job that failed."""
        self.job(project)
        with self.state() as state:
            lease = JobStore(state).lease("me")
            assert lease is not None
            JobStore(state).renew(lease, progress=0.5, log_tail=["one", "two"])
            return JobStore(state).fail(lease, error, "Traceback:\n  Oops\n")

    def version(self, name: str, project: Project = ONE, **more: Any) -> Version:
        """A version that serves, with weights."""
        with self.weights.writing() as directory:
            (directory / "weights").write_text(name)
            stored = store_name(self.name, project)
            saved = self.weights.keep(directory, stored, name, {}, {})
        made = Version(
            version=name,
            created_at=time.time(),
            tag=saved.tag,
            manifest=saved.manifest,
            metrics={"f1": 0.5},
            **more,
        )
        with self.state() as state:
            state.change(lambda change: promote(change, project, made))
        return made

    # Commands

    def process(self, *arguments: object, timeout_s: float = 60) -> Run:
        """Run ``lsml-bento`` in the directory, as a person does."""
        return run(
            *arguments, cwd=self.directory, env=self.environ, timeout_s=timeout_s
        )

    def run(self, *arguments: object, timeout_s: float = 60) -> Run:
        """Run ``lsml-bento`` in the directory."""
        return self.process(*arguments, timeout_s=timeout_s)

    def said(self, *arguments: object) -> str:
        """What a command that succeeded printed, and nothing on the error output."""
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def json(self, *arguments: object) -> Any:
        """What a command printed as JSON."""
        return json.loads(self.said(*arguments, "--json"))

    def refused(self, *arguments: object) -> str:
        """The sentence with which a command ended."""
        return refused(self.run(*arguments))

    @contextmanager
    def running(self, *arguments: object, **more: str) -> Iterator[Running]:
        """A command that runs on; it is killed if it still does at the end."""
        log = self.directory.parent / f"{arguments[0]}-{time.monotonic_ns()}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(TOOL), *map(str, arguments)],
                cwd=self.directory,
                env={**self.environ, "PYTHONUNBUFFERED": "1", **more},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Running(process, log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


class QuickPlace(Place):
    """One whose commands run in this process, where none waits for imports."""

    def run(self, *arguments: object, timeout_s: float = 60) -> Run:
        words = [str(word) for word in arguments]
        env = {**dict.fromkeys(os.environ), **self.environ}
        log = logging.getLogger("lsml_bento")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.directory)
            # Commands keep the log off the terminal, for as long as they live.
            patch.setattr(log, "propagate", log.propagate)
            patch.setattr(log, "handlers", list(log.handlers))
            runner = CliRunner(env=env, catch_exceptions=False)
            done = runner.invoke(main, words, prog_name="lsml-bento")
        return Run(words, done.exit_code, done.stdout, done.stderr)


class Running:
    """A command that runs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def await_line(self, part: str, timeout_s: float = 40) -> None:
        """Wait until the command has printed something."""
        deadline = time.monotonic() + timeout_s
        while part not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, f"no {part!r} in\n{self.log}"
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 20) -> int:
        """Send a signal, and wait for the exit code."""
        os.kill(self.process.pid, number)
        return self.process.wait(timeout_s)


def seconds(place: Place, *arguments: str) -> float:
    """Processor time of a command, which others on the machine do not lengthen."""
    before = os.times()
    done = place.process(*arguments)
    after = os.times()
    assert done.returncode == 0, done.stderr
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
