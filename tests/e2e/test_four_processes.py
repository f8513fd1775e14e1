"""Two servers and two workers, each with a home and a store of its own, as pods have.

They share a Redis and a place for weights, and nothing else; and the Redis restarts.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.deploy.manifests import probes
from tests.e2e.learning import Annotator
from tests.e2e.processes import Server, eventually, free_port, healthy
from tests.e2e.serving import BACKENDS, BIN, backend_environ, serve_command
from tests.redis_server import RedisServer

LEARNER = BACKENDS / "learner"
NAMES = ("one", "two")


@dataclass
class Machine:
    """A server and a worker, and the one who annotates at the server."""

    server: Server
    worker: Server
    annotator: Annotator

    def kill(self) -> None:
        """End both at once, as a machine that loses its power does."""
        for process in (self.worker, self.server):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.worker.kill()
        self.server.kill()

    def trains(self, worker: str) -> bool:
        """Whether a job names this machine's worker as its holder."""
        return worker.rpartition("/")[2] == str(self.worker.pid)


Machines = tuple[Machine, Machine]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machines")


@pytest.fixture(scope="module")
def redis(place: Path) -> Iterator[RedisServer]:
    with RedisServer(place / "redis") as server:
        yield server


@pytest.fixture(scope="module")
def machines(redis: RedisServer, place: Path) -> Iterator[Machines]:
    with ExitStack() as stack:
        servers = [server_of(place / name, redis, place) for name in NAMES]
        workers = [worker_of(place / f"{name}-w", redis, place) for name in NAMES]
        for process in (*servers, *workers):
            stack.callback(process.kill)
            process.launch()
        for server in servers:
            server.wait_until_healthy()
        for worker in workers:
            eventually(partial(healthy, worker.port, "/readyz"), worker.tail, 30)
        one, two = (
            Machine(*processes, stack.enter_context(closing(Annotator(processes[0]))))
            for processes in zip(servers, workers, strict=True)
        )
        yield one, two


def environ(home: Path, redis: RedisServer, place: Path) -> dict[str, str]:
    return {
        "REDIS_URL": redis.url,
        "LSML_MODEL_REPO": (place / "repository").as_uri(),
        "LSML_MODEL_STORE": str(home / "models"),
        "LSML_WORKER": "external",
    }


def server_of(home: Path, redis: RedisServer, place: Path) -> Server:
    return serve_command(LEARNER, home, environ=environ(home, redis, place))


def worker_of(home: Path, redis: RedisServer, place: Path) -> Server:
    port = free_port()
    command = [str(BIN / "lsml-bento"), "worker", str(LEARNER)]
    return Server(
        name=f"lsml-bento worker {home.name}",
        command=[*command, "--health-port", str(port)],
        port=port,
        log_file=home / "worker.log",
        environ=backend_environ(home, **environ(home, redis, place)),
    )


@contextmanager
def asleep(machine: Machine) -> Iterator[None]:
    """Nothing is trained on a machine for the block."""
    os.kill(machine.worker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(machine.worker.pid, signal.SIGCONT)


def test_every_probe_of_the_manifests_is_answered(machines: Machines) -> None:
    for machine in machines:
        for component, process in (
            ("server", machine.server),
            ("worker", machine.worker),
        ):
            paths = probes(component)
            assert paths == {"/livez", "/readyz"}
            for path in (*paths, "/metrics"):
                assert healthy(process.port, path), f"{component}: {path}"


def test_either_worker_trains_and_both_servers_serve_the_version(
    machines: Machines,
) -> None:
    one, two = machines
    for machine in machines:
        assert machine.annotator.setup() == "learner-base"
        assert machine.annotator.predict() == ("nothing", "learner-base")

    for number, (trainer, other) in enumerate([(one, two), (two, one)], start=1):
        with asleep(other):
            annotator = other.annotator
            ended = annotator.ended(annotator.annotate(number))
        assert ended["status"] == "succeeded", ended
        elsewhere = trainer.annotator.job(ended["id"])
        assert ended == {**elsewhere, "log": ended["log"]}
        assert trainer.trains(ended["worker"])
        for machine in machines:
            machine.annotator.serves(f"{number} tasks", ended["version"])

    assert one.annotator.versions() == two.annotator.versions()


def test_a_rollback_on_one_server_applies_to_both(machines: Machines) -> None:
    one, two = machines
    newest, oldest = (version["version"] for version in one.annotator.versions()[:2])

    for machine, version, said in ((one, oldest, "1"), (two, newest, "2")):
        assert machine.annotator.activate(version).status_code == 200
        for each in machines:
            each.annotator.serves(f"{said} tasks", version)


def test_a_redis_restart_loses_no_event(machines: Machines, redis: RedisServer) -> None:
    redis.kill()
    redis.start()

    annotator = machines[0].annotator
    ended = annotator.ended(annotator.annotate(3))
    assert ended["status"] == "succeeded", ended
    for machine in machines:
        machine.annotator.serves("3 tasks", ended["version"], timeout_s=20)


@pytest.mark.usefixtures("machines")
def test_another_class_under_the_same_name_is_refused(
    redis: RedisServer, tmp_path: Path
) -> None:
    for name in ("model.py", "service.py"):
        text = (LEARNER / name).read_text()
        (tmp_path / name).write_text(text.replace("Learner", "Impostor"))
    impostor = serve_command(tmp_path, tmp_path, environ={"REDIS_URL": redis.url})

    impostor.launch()
    try:
        # It is started again and again, and never gets to answer.
        refusal = "serves the class Learner under this"
        eventually(lambda: refusal in impostor.log(), impostor.tail, 30)
        assert not healthy(impostor.port)
    finally:
        impostor.kill()


def test_killing_a_machine_during_a_fit_loses_no_job(machines: Machines) -> None:
    one = machines[0].annotator
    job = one.annotate(4, fit_s=1.5)
    eventually(
        lambda: one.job(job)["status"] == "running", lambda: str(one.job(job)), 20
    )
    holder = one.job(job)["worker"]

    dead, alive = machines if machines[0].trains(holder) else machines[::-1]
    assert dead.trains(holder)
    dead.kill()

    ended = alive.annotator.ended(job)
    assert (ended["status"], ended["attempts"]) == ("succeeded", 2)
    assert alive.trains(ended["worker"])
    alive.annotator.serves("4 tasks", ended["version"])

    # It comes back and takes what was learned meanwhile out of the repository.
    dead.server.start()
    dead.annotator.setup()
    dead.annotator.serves("4 tasks", ended["version"])
