"""A learner, served, whose processes are killed; and everything that it promised."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psutil

from lsml_bento.adapters.bentoml_models import BentoModels, age_s
from lsml_bento.adapters.redis_state import RedisState
from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.contract import Project
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Versions
from lsml_bento.versions.weights import store_name
from tests.e2e.processes import eventually
from tests.e2e.serving import start_command
from tests.faults.backends.learner.model import read
from tests.redis_server import RedisServer

LEARNER = Path(__file__).parent / "backends" / "learner"
CONFIG = (LEARNER / "label_config.xml").read_text()
NAME = "learner"
BASE = "learner-0"
CREATED_AT = "2026-11-23T09:34:49.839721Z"
PROJECT = Project("7", 1795426489)

SWEPT_AFTER_S = 600.0
"""What a killed run left is no older when a worker has looked."""

_TITLES = {
    "worker": ("lsml-bento worker", "lsml_bento.processes.worker"),
    "fit": ("lsml-bento fit", "lsml_bento.processes.fit"),
    "serving": ("_bentoml_impl.worker.service",),
}
"""By the name in ``ps``, and by the command before the process has that name."""

Json = dict[str, Any]


class Site:
    """One home with its server, on SQLite or on a Redis of its own.

    Args:
        directory: for everything that it writes.
        redis: keeps state, jobs and queue, if any.

    Attributes:
        server: the processes.
        sent: ids of annotations that events were sent about.
        answered: those whose event was answered, in the order of the answers.
        promised: ids of jobs that were answered.
    """

    def __init__(self, directory: Path, redis: RedisServer | None) -> None:
        # No round makes so many that one it served is forgotten before it is looked at.
        environ = {"LSML_KEEP_VERSIONS": "40"}
        if redis is not None:
            environ["REDIS_URL"] = redis.url
        self.redis = redis
        self.server = start_command(LEARNER, directory, environ=environ)
        self.sent: set[int] = set()
        self.answered: list[int] = []
        self.promised: set[str] = set()
        # One connection each, as during a kill; and one client, which is dear to make.
        self._http = httpx.Client(
            base_url=self.server.url,
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=10,
        )
        self._home = directory / "lsml"
        self._store = directory / "bentoml" / "models"
        self._ids = count(1)
        self._crcs: dict[str, int] = {BASE: 0}
        self._looked_at: set[Path] = set()

    def make_ready(self) -> None:
        """Start the server unless it runs, and have the project known there."""
        if self.server.process is None or self.server.process.poll() is not None:
            self.server.start()
        body = {"project": str(PROJECT), "schema": CONFIG}
        answer = self._http.post("/setup", json=body)
        assert answer.status_code == 200, answer.text

    def close(self) -> None:
        """End what is left of it."""
        self.server.kill()
        self._http.close()

    # Requests

    def event(self, http: httpx.Client, plan: Json) -> httpx.Response:
        """Send one annotation; what is answered is remembered.

        Args:
            http: the client.
            plan: what ``fit`` does for it: ``steps`` and ``mib``.
        """
        number = next(self._ids)
        self.sent.add(number)
        annotation = {
            "id": number,
            "task": number,
            "result": [],
            "was_cancelled": False,
        }
        body = {
            "action": "ANNOTATION_CREATED",
            "project": {"id": int(PROJECT.id), "created_at": CREATED_AT},
            "task": {"id": number, "data": {"text": f"task {number}", **plan}},
            "annotation": {**annotation, "updated_at": CREATED_AT},
        }
        answer = http.post("/webhook", json=body)
        if answer.is_success:
            self.answered.append(number)
            if answer.status_code == 201:
                self.promised.add(answer.json()["job"])
        return answer

    def jobs(self) -> list[Json]:
        """The newest jobs, the newest first; none while nobody answers."""
        try:
            answer = self._http.get("/api/jobs?limit=50")
        except httpx.HTTPError:
            return []
        found: list[Json] = answer.json()["jobs"] if answer.is_success else []
        return found

    def job(self, job_id: str) -> Json:
        """One job whose id was answered."""
        answer = self._http.get(f"/api/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def running(self) -> Json | None:
        """The job that runs."""
        return next((job for job in self.jobs() if job["status"] == "running"), None)

    def await_quiet(self, timeout_s: float) -> None:
        """Wait until no job runs or waits."""

        def is_quiet() -> bool:
            jobs = self.jobs()
            return bool(jobs) and all(job["finished_at"] for job in jobs)

        eventually(is_quiet, lambda: str(self.jobs()[:3]), timeout_s)

    # Processes

    def processes(self, kind: str) -> list[psutil.Process]:
        """The living processes of a kind: worker, fit or serving."""
        found = []
        for process in self.server.tree():
            try:
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if any(title in command for title in _TITLES[kind]):
                found.append(process)
        return found

    def await_process(self, kind: str, timeout_s: float = 15) -> psutil.Process:
        """The process of a kind, waited for."""
        eventually(
            lambda: bool(self.processes(kind)), lambda: f"no {kind} process", timeout_s
        )
        found = self.processes(kind)
        return found[0] if found else self.await_process(kind, timeout_s)

    def await_no_stray(self) -> None:
        """See that there is one worker, one server and no fit without a job."""

        def counted() -> dict[str, int]:
            return {kind: len(self.processes(kind)) for kind in _TITLES}

        expected = {"worker": 1, "fit": 0, "serving": 1}
        eventually(lambda: counted() == expected, lambda: str(counted()), 8)

    # What was kept

    def state(self) -> State:
        """The state that the processes share, read from here."""
        if self.redis is None:
            return SqliteState(self._home / "state.db", NAME)
        return RedisState(self.redis.url, NAME)

    def journaled(self) -> set[int]:
        """Ids of the annotations that a ``fit`` would get."""
        state = self.state()
        try:
            tasks = AnnotationStore(state).annotated_tasks(PROJECT)
            return {a["id"] for task in tasks for a in task["annotations"]}
        finally:
            state.close()

    def crcs(self) -> dict[str, int]:
        """Checksum by version: those listed now or earlier, and the base."""
        answer = self._http.get(f"/api/projects/{PROJECT}/versions")
        assert answer.status_code == 200, answer.text
        for version in answer.json()["versions"]:
            if version["tag"]:
                self._crcs[version["version"]] = int(version["metrics"]["crc"])
        return self._crcs

    def scraps(self) -> list[Path]:
        """Directories in which weights are or were written, finished ones not."""
        room = self._store.parent / f".{self._store.name}-writing"
        return [path for path in room.glob("*-*") if path.is_dir()]

    def old_scraps(self, looked_at: float) -> list[Path]:
        """Those that a worker which looked then should have removed."""
        since_s = time.time() - looked_at
        return [path for path in self.scraps() if age_s(path) - since_s > SWEPT_AFTER_S]

    def halves(self) -> list[Path]:
        """Versions in the model store that are not complete, each reported once."""
        found = []
        for path in (self._store / store_name(NAME, PROJECT)).glob("*"):
            if not path.is_dir() or path in self._looked_at:
                continue
            self._looked_at.add(path)
            is_whole = (path / "model.yaml").is_file() and read(path / "weights")[1]
            if not is_whole and path.exists():
                found.append(path)
        return found

    def sweep(self) -> tuple[set[str], set[str]]:
        """Remove what killed runs left, whatever its age, with no server running.

        Returns:
            The tags that are left, and those of the versions that are known.
        """
        state, models = self.state(), BentoModels(self._store)
        name = store_name(NAME, PROJECT)
        try:
            known = Versions(state).tags()
        finally:
            state.close()
        models.sweep([name], known, older_than_s=0)
        return set(models.tags(name)), known
