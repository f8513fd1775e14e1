"""What a run made becomes the version that serves, and what is old goes."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pytest

from lsml_bento.adapters.bentoml_models import BentoModels
from lsml_bento.adapters.model_repository import ModelRepository
from lsml_bento.contract import Project
from lsml_bento.errors import LeaseLost
from lsml_bento.jobs.job import LEASE_S, JobStatus
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import NoMedia
from lsml_bento.processes.backend import build_backend
from lsml_bento.state.memory import MemoryState
from lsml_bento.training.job_supervisor import Publisher, sweep
from lsml_bento.versions.registry import Version
from lsml_bento.versions.weights import store_name
from tests.fits import NAME, ONE, Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path, MemoryState(), LSML_KEEP_VERSIONS="2", LSML_KEEP_JOBS="3")
    yield made
    made.close()


def made(home: Home, name: str, project: Project = ONE) -> Version:
    """A version with weights, as a run makes it."""
    with home.weights.writing() as directory:
        (directory / "a.bin").write_text(name)
        store = store_name(NAME, project)
        saved = home.weights.keep(directory, store, name, {}, {})
    return Version(
        version=name,
        created_at=time.time(),
        tag=saved.tag,
        manifest=saved.manifest,
        metrics={"f1": 0.5},
    )


def published(home: Home, name: str) -> None:
    assert home.publisher.publish(home.lease(), made(home, name)).version == name


def tags(*names: str) -> list[str]:
    return [f"learner-p{ONE}:{name}" for name in names]


def lost(home: Home) -> Lease:
    """A lease that another run has now."""
    lease = home.lease()
    JobStore(home.state, now=lambda: time.time() + LEASE_S + 1).expire()
    return lease


def test_a_version_serves_once_its_job_has_succeeded(home: Home) -> None:
    job = home.publisher.publish(home.lease(), made(home, "v1"))

    assert (job.status, job.version, job.metrics) == (
        *(JobStatus.SUCCEEDED, "v1"),
        {"f1": 0.5},
    )
    assert home.active.version == "v1"


def test_a_run_that_made_nothing_succeeds(home: Home) -> None:
    job = home.publisher.publish(home.lease(), None)

    assert (job.status, job.version) == (JobStatus.SUCCEEDED, None)
    assert home.names == []


def test_a_run_that_lost_its_job_leaves_no_weights(home: Home) -> None:
    lease = lost(home)
    with pytest.raises(LeaseLost):
        home.publisher.publish(lease, made(home, "v1"))

    assert (home.names, home.stored) == ([], [])


def test_a_cancelled_run_leaves_no_weights(home: Home) -> None:
    lease = home.lease()
    home.job_store.cancel(lease.job.id)
    job = home.publisher.publish(lease, made(home, "v1"))

    assert (job.status, job.version) == (JobStatus.CANCELLED, None)
    assert (home.names, home.stored) == ([], [])


def test_the_newest_versions_stay_and_the_one_that_serves(home: Home) -> None:
    for name in ("v1", "v2"):
        published(home, name)
    home.versions.activate(ONE, "v1", pin=True)
    for name in ("v3", "v4"):
        published(home, name)

    assert home.names == ["v1", "v3", "v4"]
    assert home.stored == tags("v1", "v3", "v4")


def test_weights_that_cannot_be_deleted_do_not_fail_the_job(home: Home) -> None:
    for name in ("v1", "v2"):
        published(home, name)
    home.store.rename(home.store.with_name("away"))
    home.store.touch()
    (version,) = (v for v in home.versions.all(ONE) if v.version == "v2")

    job = home.publisher.publish(
        home.lease(), version.model_copy(update={"version": "v3"})
    )

    assert (job.status, job.version) == (JobStatus.SUCCEEDED, "v3")


def test_tidying_removes_old_jobs(home: Home) -> None:
    for _ in range(5):
        home.publisher.publish(home.lease(), None)
    home.enqueue()
    home.publisher.tidy()

    assert len(home.job_store.jobs(status=JobStatus.SUCCEEDED)) == 3
    assert len(home.job_store.jobs(status=JobStatus.QUEUED)) == 1


def test_tidying_keeps_new_weights_and_those_of_other_backends(home: Home) -> None:
    published(home, "v1")
    made(home, "being-tried")
    made(home, "v1", Project("2", 5))
    home.publisher.tidy()

    assert home.stored == tags("being-tried", "v1")
    assert len(home.weights.tags(store_name(NAME, Project("2", 5)))) == 1


def test_tidying_removes_weights_that_no_version_has(home: Home) -> None:
    published(home, "v1")
    made(home, "left")
    other = store_name("other", ONE)
    with home.weights.writing() as directory:
        (directory / "a.bin").touch()
        home.weights.keep(directory, other, "v1", {}, {})
    Publisher(NAME, home.state, home.weights, home.settings, abandoned_s=0).tidy()

    assert home.stored == tags("v1")
    assert home.weights.tags(other) == [f"{other}:v1"]


def test_tidying_without_a_store_does_nothing(home: Home) -> None:
    home.publisher.tidy()
    shutil.rmtree(home.store.parent, ignore_errors=True)
    home.publisher.tidy()

    assert not home.store.exists(), "there is nothing to tidy in"


def test_tidying_keeps_weights_that_another_workers_run_is_testing(home: Home) -> None:
    home.lease()
    made(home, "tried-for-long")
    Publisher(NAME, home.state, home.weights, home.settings, abandoned_s=0).tidy()

    assert home.stored == tags("tried-for-long")


# A server with a store of its own


@pytest.fixture
def server(home: Home, tmp_path: Path) -> BentoModels:
    """A server's weights, which come from a repository that the worker fills."""
    repository = ModelRepository(f"file://{tmp_path}/repository")
    home.weights = BentoModels(home.store, repository)
    home.publisher = Publisher(NAME, home.state, home.weights, home.settings)
    return BentoModels(tmp_path / "server" / "models", repository)


def pulled(home: Home, server: BentoModels, *names: str) -> None:
    """The server serves versions one after another."""
    for name in names:
        published(home, name)
        version = home.versions.find(ONE, name)
        assert version.tag is not None
        server.find(version.tag, version.manifest)


def test_a_server_removes_what_it_pulled_of_versions_that_were_retired(
    home: Home, server: BentoModels
) -> None:
    pulled(home, server, "v1", "v2", "v3", "v4")
    other = store_name("other", ONE)
    with server.writing() as directory:
        (directory / "a.bin").touch()
        server.keep(directory, other, "v1", {}, {})
    store = store_name(NAME, ONE)
    assert server.tags(store) == tags("v1", "v2", "v3", "v4")

    sweep(home.state, server)
    assert server.tags(store) == tags("v1", "v2", "v3", "v4"), "they are too young"
    sweep(home.state, server, abandoned_s=0)

    assert home.names == ["v3", "v4"]
    assert server.tags(store) == home.stored == tags("v3", "v4")
    assert server.tags(other) == [f"{other}:v1"]


class Old(BentoModels):
    """A store all of whose weights are old enough."""

    def sweep(
        self, names: Iterable[str], known: Collection[str], older_than_s: float
    ) -> list[str]:
        assert older_than_s >= 600
        return super().sweep(names, known, 0)


def test_a_backend_sweeps_the_store_that_it_has(
    home: Home, server: BentoModels, tmp_path: Path
) -> None:
    pulled(home, server, "v1", "v2", "v3")

    async def swept(weights: BentoModels | None) -> list[str]:
        source = ModelSource("model:Model", home.directory)
        backend = build_backend(
            *(source, home.state, NoMedia(), home.settings), weights=weights
        )
        await backend.training.sweep()
        assert await backend.close()
        return server.tags(store_name(NAME, ONE))

    assert asyncio.run(swept(None)) == tags("v1", "v2", "v3")
    assert asyncio.run(swept(Old(tmp_path / "server" / "models"))) == tags("v2", "v3")


def test_a_server_keeps_weights_that_a_run_in_the_same_store_is_testing(
    home: Home,
) -> None:
    published(home, "v1")
    lease = home.lease()
    version = made(home, "v2")
    sweep(home.state, home.weights, abandoned_s=0)
    assert home.stored == tags("v1", "v2")

    home.publisher.publish(lease, version)
    made(home, "left")
    sweep(home.state, home.weights, abandoned_s=0)

    assert home.stored == tags("v1", "v2")


def test_a_state_without_versions_deletes_no_weights(
    home: Home, server: BentoModels
) -> None:
    pulled(home, server, "v1")

    sweep(MemoryState(), server, abandoned_s=0)

    assert server.tags(store_name(NAME, ONE)) == tags("v1")
