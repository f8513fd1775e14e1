"""The worker beside a server: always one, and gone with the server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lsml_bento.training.embedded_worker import EmbeddedWorker
from tests.fits import eventually, is_gone, lines

WORKER = """
import os, sys
with open({path!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
{does}
while os.read(0, 1024):
    pass
with open({path!r}, "a") as file:
    file.write(f"{{-os.getpid()}}\\n")
"""

SERVER = """
import os, sys, time
from pathlib import Path
from lsml_bento.training.embedded_worker import EmbeddedWorker
worker = EmbeddedWorker([sys.executable, "-c", sys.argv[1]], os.environ, Path.cwd())
worker.start()
sys.stdin.readline()
worker.stop()
"""

Embed = Callable[..., EmbeddedWorker]


class Record:
    """Pids of workers as they begin; below zero as they end by themselves."""

    def __init__(self, home: Path) -> None:
        self.path = home / "record"

    def worker(self, does: str = "") -> str:
        return WORKER.format(path=str(self.path), does=does)

    @property
    def begun(self) -> list[int]:
        return [pid for pid in lines(self.path) if pid > 0]

    @property
    def ended(self) -> list[int]:
        return [-pid for pid in lines(self.path) if pid < 0]

    def await_begun(self, number: int) -> int:
        """The pid of the worker that began as the so-manieth."""
        eventually(lambda: len(self.begun) >= number, f"worker {number}")
        return self.begun[number - 1]


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    made = Record(tmp_path)
    yield made
    for pid in made.begun:
        assert is_gone(pid)


@pytest.fixture
def embed(tmp_path: Path, record: Record) -> Iterator[Embed]:
    made: list[EmbeddedWorker] = []

    def start(does: str = "", command: list[str] | None = None) -> EmbeddedWorker:
        command = command or [sys.executable, "-c", record.worker(does)]
        made.append(EmbeddedWorker(command, os.environ, tmp_path))
        made[-1].start()
        return made[-1]

    yield start
    for worker in made:
        worker.stop()


def test_it_ends_with_the_server_in_its_own_time(embed: Embed, record: Record) -> None:
    worker = embed()
    pid = record.await_begun(1)
    worker.stop()

    assert is_gone(pid), "stop() returns when it is gone"
    assert record.ended == [pid]
    worker.stop()


def test_one_that_dies_is_started_again(embed: Embed, record: Record) -> None:
    embed()
    first = record.await_begun(1)
    psutil.Process(first).kill()
    second = record.await_begun(2)

    assert second != first
    assert not is_gone(second)


def test_one_that_had_lived_is_started_again_at_once(
    embed: Embed, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsml_bento.training.embedded_worker._STEADY_S", 0.2)
    began = time.monotonic()
    embed("import time; time.sleep(0.3); sys.exit(1)")
    record.await_begun(4)

    assert time.monotonic() - began < 4, "after 0, 0.9, 1.8, .. seconds"


def test_a_worker_that_keeps_failing_is_restarted_less_and_less_often(
    embed: Embed, record: Record
) -> None:
    worker = embed("sys.exit(1)")
    time.sleep(2.5)
    worker.stop()

    assert 2 <= len(record.begun) <= 3, "after 0, 0.5 and 1.5 seconds"


def test_a_command_that_is_not_there_does_not_end_the_server(embed: Embed) -> None:
    worker = embed(command=["no-such-python"])
    time.sleep(0.2)
    start = time.monotonic()
    worker.stop()

    assert time.monotonic() - start < 2


def test_one_that_was_never_started_is_stopped(tmp_path: Path) -> None:
    EmbeddedWorker(["no-such-python"], {}, tmp_path).stop()


def test_a_server_that_ends_at_once_leaves_no_worker(
    embed: Embed, record: Record
) -> None:
    for _ in range(5):
        embed().stop()

    assert all(is_gone(pid) for pid in record.begun)


def test_of_two_in_one_home_one_has_a_worker_and_the_other_takes_over(
    embed: Embed, record: Record
) -> None:
    first = embed()
    record.await_begun(1)
    embed()
    time.sleep(1.2)
    assert len(record.begun) == 1

    first.stop()
    assert not is_gone(record.await_begun(2))


class Servers:
    """Processes that each embed a worker in one home."""

    def __init__(self, home: Path, record: Record) -> None:
        self._home = home
        self._record = record
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-c", SERVER, self._record.worker()],
                cwd=self._home,
                stdin=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        )
        return self.started[-1]

    def close(self) -> None:
        for server in self.started:
            with server:
                assert server.stdin is not None
                server.stdin.close()


@pytest.fixture
def servers(tmp_path: Path, record: Record) -> Iterator[Servers]:
    made = Servers(tmp_path, record)
    yield made
    made.close()


def test_a_server_that_is_killed_takes_its_worker_along_and_another_one_takes_over(
    servers: Servers, record: Record
) -> None:
    first = servers.start()
    pid = record.await_begun(1)
    servers.start()
    time.sleep(1.0)
    assert record.begun == [pid], "one a home"

    first.kill()

    eventually(lambda: is_gone(pid), "the worker's end")
    assert record.ended == [pid], "it put its job back"
    assert not is_gone(record.await_begun(2))
