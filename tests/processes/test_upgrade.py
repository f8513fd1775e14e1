"""A home that version 0.1 wrote is read, and its jobs are carried out.

``tests/state/home-0.1`` was made with the code of version 0.1, before jobs ran in Huey
tasks: two projects with three annotations each (``journal.record``), in the first one a
job that succeeded with a promoted version (``ledger.succeed(.., also=promote)``) and a
queued job, in the second one a job that runs, whose worker was never heard of again
(``ledger.lease``). ``huey.db`` holds two signed messages for the queued job, one of
them delayed by an hour (``HueyQueue.wake``). Both files were then vacuumed with a page
size of 512 bytes.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lsml_bento.adapters.huey_queue import HueyQueue
from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.contract import Project
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.jobs.job import JobStatus
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.processes.worker import child_environ, worker_command
from lsml_bento.versions.registry import Versions
from tests.fits import NAME, ONE, Home, eventually

OLD_HOME = Path(__file__).parents[1] / "state" / "home-0.1"
TWO = Project("2", ONE.created_at)
SUCCEEDED, EXPIRED, QUEUED = (
    "01a2323ef16a99a37512",
    "01a2323ef16beccce2e1",
    "01a2323ef16c71b2a8b7",
)
MODEL = """
from lsml_bento import LabelStudioMLBase

class Model(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "base")

    def predict(self, tasks, context=None, **kwargs):
        return []

    def fit(self, event, data, **kwargs):
        self.set("learned", [task["id"] for task in self.annotated_tasks()])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    shutil.copytree(OLD_HOME, tmp_path / "home")
    return tmp_path


@pytest.fixture
def home(path: Path) -> Iterator[Home]:
    made = Home(path)
    made.write(MODEL)
    yield made
    made.close()


def test_jobs_versions_and_annotations_of_an_old_home_are_read(path: Path) -> None:
    with closing(SqliteState(path / "home" / "state.db", NAME)) as state:
        store = JobStore(state)
        assert {job.id: job.status for job in store.jobs()} == {
            SUCCEEDED: JobStatus.SUCCEEDED,
            EXPIRED: JobStatus.RUNNING,
            QUEUED: JobStatus.QUEUED,
        }
        done = store.find(SUCCEEDED)
        assert (done.metrics, done.source) == ({"f1": 0.9}, "annotation store")
        assert store.log_tail(SUCCEEDED) == ["fit START_TRAINING"]
        active = Versions(state).active(ONE)
        assert active is not None
        assert (active.version, active.values) == (done.version, {"seen": 3})
        for project, first in ((ONE, 10), (TWO, 20)):
            tasks = list(AnnotationStore(state).annotated_tasks(project))
            assert [task["id"] for task in tasks] == [first, first + 1, first + 2]
            assert all(len(task["annotations"]) == 1 for task in tasks)


def test_a_worker_carries_out_old_jobs_and_drops_old_messages(home: Home) -> None:
    with (home.path / "log").open("wb") as log:
        worker = subprocess.Popen(
            worker_command(home.spec),
            env={**child_environ(), **home.environ, "LSML_SECRET_KEY": "an old secret"},
            stdin=subprocess.PIPE,
            stderr=log,
        )
    with worker:
        try:
            for job_id in (QUEUED, EXPIRED):
                eventually(
                    lambda i=job_id: home.job_store.find(i).status.is_end,  # type: ignore[misc]
                    f"the end of {job_id}",
                    30,
                )
            queue = HueyQueue(name=NAME, path=home.path / "home" / "huey.db")
            eventually(lambda: queue.waiting() == set(), "an empty queue")
            queue.close()
        finally:
            worker.terminate()

    queued, expired = home.job_store.find(QUEUED), home.job_store.find(EXPIRED)
    assert (queued.status, queued.attempts) == (JobStatus.SUCCEEDED, 1)
    assert (expired.status, expired.attempts) == (JobStatus.SUCCEEDED, 2)
    assert "stopped renewing its lease" in str(expired.note)
    assert home.versions.active(TWO).values == {"learned": [20, 21, 22]}  # type: ignore[union-attr]
    said = (home.path / "log").read_text()
    assert said.count("Unreadable messages dropped: queue=lsml-bento.learner") == 1
    assert said.count("LSML_SECRET_KEY has no effect any more") == 1
    assert "an old secret" not in said
    assert "Traceback" not in said
