"""Two machines: homes and stores of their own, one Redis, one place for weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.learning import Annotator
from tests.e2e.processes import Server, ServerError, eventually
from tests.e2e.serving import BACKENDS, serve_command
from tests.redis_server import RedisServer

LEARNER = BACKENDS / "learner"
SECRET = "a secret of both machines"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machines")


@pytest.fixture(scope="module")
def redis(place: Path) -> Iterator[RedisServer]:
    with RedisServer(place / "redis") as server:
        yield server


def machine(name: str, redis: RedisServer, place: Path) -> Server:
    home = place / name
    more = {
        "REDIS_URL": redis.url,
        "LSML_MODEL_REPO": (place / "repository").as_uri(),
        "LSML_MODEL_STORE": str(home / "models"),
        "LSML_SECRET_KEY": SECRET,
    }
    return serve_command(LEARNER, home, environ=more)


Machine = tuple[Server, Annotator]


@pytest.fixture(scope="module")
def two(redis: RedisServer, place: Path) -> Iterator[tuple[Machine, Machine]]:
    with (
        machine("one", redis, place) as one,
        machine("two", redis, place) as other,
        closing(Annotator(one)) as at_one,
        closing(Annotator(other)) as at_other,
    ):
        yield (one, at_one), (other, at_other)


def test_what_one_machine_learns_the_other_serves(two: tuple[Machine, Machine]) -> None:
    (_, one), (_, other) = two
    assert one.setup() == other.setup() == "learner-base"
    assert one.predict() == other.predict() == ("nothing", "learner-base")

    first = one.ended(one.annotate(1))

    assert first["status"] == "succeeded", first
    assert first == {**other.job(first["id"]), "log": first["log"]}
    for machine_ in (one, other):
        machine_.serves("1 tasks", first["version"])
    second = other.ended(other.annotate(2))
    for machine_ in (one, other):
        machine_.serves("2 tasks", second["version"])
    assert one.versions() == other.versions()

    assert other.activate(first["version"]).status_code == 200
    for machine_ in (one, other):
        machine_.serves("1 tasks", first["version"])


def test_a_redis_that_restarts_costs_no_event(
    two: tuple[Machine, Machine], redis: RedisServer
) -> None:
    (_, one), (_, other) = two

    redis.kill()
    redis.start()

    ended = one.ended(one.annotate(3), timeout_s=60)
    assert ended["status"] == "succeeded", ended
    for machine_ in (one, other):
        machine_.serves("3 tasks", ended["version"], timeout_s=20)


def test_another_class_under_the_same_name_is_refused(
    two: tuple[Machine, Machine], redis: RedisServer, tmp_path: Path
) -> None:
    for name in ("model.py", "service.py"):
        text = (LEARNER / name).read_text()
        (tmp_path / name).write_text(text.replace("Learner", "Impostor"))
    impostor = serve_command(tmp_path, tmp_path, environ={"REDIS_URL": redis.url})

    # It is started again and again, and never gets to answer.
    with pytest.raises(ServerError, match="serves the class Learner under this"):
        impostor.start(timeout_s=20)


def test_a_machine_that_is_killed_costs_no_job(two: tuple[Machine, Machine]) -> None:
    (server, one), (other_server, other) = two
    for machine_ in (one, other):
        machine_.setup(extra_params={"steps": 20})
    job = one.annotate(4)
    eventually(
        lambda: one.job(job)["status"] == "running",
        lambda: str(one.job(job)),
        timeout_s=20,
    )
    worker = one.job(job)["worker"]

    pids = {str(process.pid) for process in server.tree()}
    is_first = worker.rpartition("/")[2] in pids
    (server if is_first else other_server).kill()

    alive = other if is_first else one
    ended = alive.ended(job, timeout_s=60)
    assert (ended["status"], ended["attempts"]) == ("succeeded", 2)
    assert ended["worker"] != worker
    alive.serves("4 tasks", ended["version"], timeout_s=20)
