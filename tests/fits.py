"""A backend that learns, in a directory of its own: state, model store and jobs."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from lsml_bento.adapters.bentoml_models import BentoModels
from lsml_bento.adapters.huey_queue import HueyQueue
from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.backend_spec import BackendSpec
from lsml_bento.contract import Project
from lsml_bento.errors import LsmlError
from lsml_bento.jobs.annotations import record
from lsml_bento.jobs.events import parse_event
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.model.loader import ModelClass, ModelSource
from lsml_bento.model.media import NoMedia
from lsml_bento.model.training_policy import START_TRAINING, TrainingRules
from lsml_bento.settings import Settings
from lsml_bento.state.store import State
from lsml_bento.training.child_process import FitProcess
from lsml_bento.training.job_supervisor import Publisher
from lsml_bento.training.trainer import FitContext, Trainer
from lsml_bento.versions.registry import Version, Versions
from lsml_bento.versions.weights import store_name
from tests.doubles import CONFIG

CREATED_AT = "2026-11-23T09:34:49.839721Z"
ONE = Project("1", 1795426489)
NAME = "learner"
EACH = TrainingRules(each_event=True)
"""Every event is a job, due at once."""


class Home:
    """One backend's home and model store.

    Args:
        path: a directory.
        state: SQLite in it by default.
        environ: settings.
    """

    def __init__(self, path: Path, state: State | None = None, **environ: str) -> None:
        self.path = path
        self.store = path / "store" / "models"
        self.directory = path / "backend"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.environ = {"LSML_MODEL_STORE": str(self.store), **environ}
        self.settings = Settings.from_env(self.environ)
        self.state = state or SqliteState(path / "home" / "state.db", NAME)
        path_or_url: Any = {"path": path / "home" / "huey.db"}
        if self.settings.redis_url is not None:
            path_or_url = {"redis_url": self.settings.redis_url.get_secret_value()}
        self.queue = HueyQueue(name=NAME, **path_or_url)
        self.weights = BentoModels(self.store)
        self.job_store = JobStore(self.state)
        self.versions = Versions(self.state)
        self.publisher = Publisher(NAME, self.state, self.weights, self.settings)
        self.reports: list[dict[str, Any]] = []
        self.context = FitContext(
            NAME, self.state, self.weights, None, self.reports.append
        )
        self.state.write(ONE, {"label_config": CONFIG})

    def close(self) -> None:
        self.queue.close()
        self.state.close()

    # A backend for other processes

    def write(self, source: str) -> None:
        """Write the backend's ``model.py``."""
        (self.directory / "model.py").write_text(textwrap.dedent(source))

    @property
    def spec(self) -> BackendSpec:
        home = str(self.path / "home")
        return BackendSpec("model", str(self.directory), NAME, home)

    # Jobs

    def annotate(self, *ids: int, total: int | None = None) -> None:
        """Annotations of tasks of the same number come in."""
        for one in ids:
            self.state.change(lambda c, n=one: record(c, _event(n, total)))  # type: ignore[misc]

    def enqueue(
        self, action: str = START_TRAINING, project: int = 1, **data: Any
    ) -> Job:
        """A job that is due; ``fit`` gets ``data``."""
        about = {"id": project, "created_at": CREATED_AT}
        event = parse_event({"action": action, "project": about, **data})
        job = self.job_store.enqueue(event, EACH)
        assert job is not None
        return job

    def lease(self, **data: Any) -> Lease:
        """A job that runs."""
        self.enqueue(**data)
        lease = self.job_store.lease("test")
        assert lease is not None
        return lease

    def train(self, model: ModelClass, *, is_drop_in: bool = False) -> Job:
        """Carry out a job in this process, as worker and child do.

        Raises:
            LsmlError: if it failed.
        """
        directory = None
        if is_drop_in:
            if not (self.directory / "model.py").exists():
                self.write("from label_studio_ml.model import LabelStudioMLBase")
            directory = self.directory
        trainer = Trainer(ModelSource(model, directory), NoMedia(), self.context)
        lease = self.lease()
        try:
            version = trainer.carry_out(lease.job)
        except LsmlError as error:
            self.job_store.fail(lease, str(error))
            raise
        return self.publisher.publish(lease, version)

    # What came of it

    def job(self, job: Job | Lease) -> Job:
        """The job as it is now."""
        known = job.job if isinstance(job, Lease) else job
        return self.job_store.find(known.id)

    @property
    def active(self) -> Version:
        """The version that serves."""
        found = self.versions.active(ONE)
        assert found is not None
        return found

    @property
    def names(self) -> list[str]:
        """All versions, the oldest first."""
        return [version.version for version in reversed(self.versions.all(ONE))]

    @property
    def stored(self) -> list[str]:
        """Tags in the model store."""
        return self.weights.tags(store_name(NAME, ONE))

    @property
    def scraps(self) -> list[str]:
        """What writing left beside the model store."""
        rooms = self.store.parent.glob(".*-writing/*")
        return [path.name for path in rooms]


def _event(number: int, total: int | None) -> Any:
    project: dict[str, Any] = {"id": 1, "created_at": CREATED_AT}
    if total is not None:
        project["total_annotations_number"] = total
    annotation = {
        "id": number,
        "task": number,
        "result": [],
        "updated_at": "2026-11-23T10:00:00Z",
    }
    task = {"id": number, "data": {"text": f"text {number}"}}
    return parse_event(
        {
            "action": "ANNOTATION_CREATED",
            "project": project,
            "annotation": annotation,
            "task": task,
        }
    )


# Processes that speak as ``lsml_bento.processes.fit`` does, and start in no time

SPEAKER = """
import json, os, signal, subprocess, sys, time
def send(**message):
    sys.stdout.write(json.dumps(message) + "\\n")
    sys.stdout.flush()
def note(text):
    sys.stderr.write(text + "\\n")
    sys.stderr.flush()
stopped = []
def stop(*_):
    stopped.append(True)
signal.signal(signal.SIGTERM, stop)
for line in sys.stdin:
    job = json.loads(line)
    note("has " + job["id"])
    exec(sys.argv[1])
    os.write(2, b"\\0end of log\\n")
    send(done=None)
"""


def speaker(does: str = "", environ: Mapping[str, str] | None = None) -> FitProcess:
    """A process that does something with each job, and says that it is done.

    What it does may use ``job``, ``send(..)``, ``note(text)`` and ``stopped``.
    """
    command = [sys.executable, "-c", SPEAKER, textwrap.dedent(does)]
    return FitProcess(command, os.environ if environ is None else environ)


def eventually(
    condition: Callable[[], Any], what: str = "it", timeout_s: float = 15.0
) -> Any:
    """The condition's value, once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)
    return found


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def lines(path: Path) -> list[Any]:
    """Lines of JSON that a process wrote so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]
