"""``lsml-bento train``: the same job as from the button *Start Training*."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.training_policy import TrainingRules
from lsml_bento.projects.overview import RULES
from tests.cli.commands import LABEL_CONFIG
from tests.cli.place import LEARNER, ONE, Place
from tests.cli.test_jobs import NO_WORKER
from tests.cli.test_start import server
from tests.e2e.processes import Server, eventually


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "backend")
    made.connect()
    return made


def store(place: Place, rules: TrainingRules) -> None:
    """Store what a server stores after importing the class."""
    with place.state() as state:
        state.change(lambda change: change.put(RULES, rules.to_json()))


def test_repeated_requests_queue_one_job(place: Place) -> None:
    done = place.run("train", "1")

    with place.state() as state:
        [job] = JobStore(state).jobs()
        data = JobStore(state).data(job.id)
    assert (done.returncode, done.stderr) == (0, NO_WORKER)
    assert done.stdout == (
        f"Queued job {job.id} of project {ONE}.\n"
        f"Follow it: `lsml-bento jobs show {job.id} --follow`\n"
    )
    assert (job.event, job.project) == ("START_TRAINING", str(ONE))
    assert data == {
        "project": {
            "id": 1,
            "created_at": "2026-11-23T09:34:49.000Z",
            "label_config": LABEL_CONFIG,
        }
    }
    again = place.run("train", "--json", "-d", str(place.directory))
    assert again.stdout == f'{{\n  "job": "{job.id}"\n}}\n'


def test_a_class_that_does_not_train_is_an_error(place: Place) -> None:
    store(place, TrainingRules(trains=False))
    assert place.refused("train") == (
        "model:Learner has no fit method: write one, and restart the backend"
    )
    store(place, TrainingRules(actions=("ANNOTATION_CREATED",)))
    assert place.refused("train") == (
        "model:Learner does not train on START_TRAINING: its TRAIN_EVENTS are "
        "ANNOTATION_CREATED"
    )
    with place.state() as state:
        assert JobStore(state).jobs() == []


def test_an_unknown_project_is_an_error(tmp_path: Path) -> None:
    place = Place(tmp_path / "backend")
    assert place.refused("train") == (
        "no project is known yet: connect the backend in Label Studio first"
    )
    assert place.refused("train", "1") == (
        "project '1' is not known: connect the backend in Label Studio first"
    )


def test_a_legacy_class_gets_a_job_per_request(tmp_path: Path) -> None:
    imports = "from lsml_bento import LabelStudioMLBase"
    legacy = LEARNER.replace(imports, imports.replace("lsml_bento", "label_studio_ml"))
    place = Place(tmp_path / "backend", model=legacy)
    place.connect()

    jobs = {place.run("train", "--json").stdout for _ in range(2)}

    assert len(jobs) == 2


def test_jobs_are_queued_on_redis(tmp_path: Path, redis_server: str) -> None:
    name = f"Learner{uuid4().hex[:8]}"
    model = LEARNER.replace("class Learner", f"class {name}")
    place = Place(tmp_path / "backend", redis_server, model=model)
    place.name = name.lower()
    place.connect()

    job = place.json("train")["job"]

    with place.state() as state:
        assert JobStore(state).find(job).event == "START_TRAINING"


def test_the_worker_of_a_server_runs_the_job(tmp_path: Path) -> None:
    place = Place(tmp_path / "backend")
    setup = {"project": str(ONE), "schema": LABEL_CONFIG}
    with server(place.directory, tmp_path / "log") as started:
        answer = httpx.post(f"{started.url}/setup", json=setup).raise_for_status()
        assert answer.json() == {"model_version": "learner-0"}

        done = place.run("train", "--wait", timeout_s=90)

        assert done.returncode == 0, done.stdout + done.stderr + started.tail()
        listed = httpx.get(f"{started.url}/api/jobs").json()
        [job] = listed["jobs"]
        assert job["status"] == "succeeded"
        assert place.json("jobs", "list") == listed
        shown = httpx.get(f"{started.url}/api/jobs/{job['id']}").json()
        assert place.json("jobs", "show", job["id"]) == shown
        versions = httpx.get(f"{started.url}/api/projects/1/versions").json()
        assert place.json("versions", "list") == versions
        assert versions["versions"][0]["version"] == job["version"]
        eventually(lambda: served(started, setup) == job["version"], started.tail)
        place.said("versions", "rollback")
        eventually(lambda: served(started, setup) == "learner-0", started.tail)


def served(started: Server, setup: dict[str, str]) -> str:
    answer = httpx.post(f"{started.url}/setup", json=setup).raise_for_status()
    version: str = answer.json()["model_version"]
    return version
