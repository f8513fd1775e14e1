"""The queue of fits on SQLite and Redis: messages, delays, threads and outages."""

from __future__ import annotations

import logging
import pickle
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from huey.consumer import Consumer

from lsml_bento.adapters import huey_queue
from lsml_bento.adapters.huey_queue import HueyQueue, _Json
from lsml_bento.errors import QueueError
from tests.redis_server import RedisServer

NAME = "lsml-bento.backend"


class Bomb:
    """Leaves a file behind if anything unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


class Place:
    """A storage for queues, which a stranger can write to."""

    def __init__(self, **where: Any) -> None:
        self.where = where
        self.opened: list[HueyQueue] = []

    def queue(self, name: str = "backend") -> HueyQueue:
        self.opened.append(HueyQueue(name=name, **self.where))
        return self.opened[-1]

    def plant(self, data: bytes | str) -> None:
        """Write into the queue, past Huey."""
        with closing(sqlite3.connect(self.where["path"])) as connection:
            insert = "insert into task (queue, data, priority) values (?, ?, 0)"
            connection.execute(insert, (NAME, data))
            connection.commit()

    def plant_scheduled(self, data: bytes) -> None:
        """Write a due message into the schedule."""
        with closing(sqlite3.connect(self.where["path"])) as connection:
            insert = "insert into schedule (queue, data, timestamp) values (?, ?, 1)"
            connection.execute(insert, (NAME, data))
            connection.commit()

    def everything(self) -> bytes:
        """All stored values."""
        found: list[bytes] = []
        with closing(sqlite3.connect(self.where["path"])) as database:
            tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
            for (table,) in database.execute(tables).fetchall():
                for row in database.execute(f'SELECT * FROM "{table}"'):  # noqa: S608
                    found += [
                        v if isinstance(v, bytes) else str(v).encode() for v in row
                    ]
        return b"\n".join(found)

    def close(self) -> None:
        for queue in self.opened:
            queue.close()


class RedisPlace(Place):
    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.where["redis_url"])

    def plant(self, data: bytes | str) -> None:
        member = data.encode() if isinstance(data, str) else data
        with closing(self.client) as client:
            client.zadd(f"huey.redis.{NAME}", {b"8 bytes." + member: 0})

    def plant_scheduled(self, data: bytes) -> None:
        with closing(self.client) as client:
            client.zadd(f"huey.schedule.{NAME}", {data: 1})

    def everything(self) -> bytes:
        found: list[bytes] = []
        with closing(self.client) as client:
            for key in client.scan_iter():
                found.extend([key, *client.zrange(key, 0, -1)])
        return b"".join(found)

    def close(self) -> None:
        super().close()
        with closing(self.client) as client, suppress(redis.RedisError):
            client.flushall()


class Runs:
    """The jobs that a consumer carried out."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.threads: set[str] = set()
        self.again: dict[str, list[float]] = {}
        self.open = threading.Event()
        self.open.set()

    def fit(self, job_id: str) -> float | None:
        self.jobs.append(job_id)
        self.threads.add(threading.current_thread().name)
        self.open.wait(20)
        if job_id.startswith("bad"):
            raise ValueError(f"{job_id} is bad")
        times = self.again.get(job_id)
        return times.pop(0) if times else None


Consume = Callable[..., Consumer]


def until(condition: Callable[[], bool], timeout_s: float = 8.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def is_alive(consumer: Consumer) -> bool:
    threads = [consumer.scheduler, *(thread for _, thread in consumer.worker_threads)]
    return any(thread.is_alive() for thread in threads)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the tests that leave it running."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(path=tmp_path / "home" / "huey.db")
    if request.param == "redis":
        made = RedisPlace(redis_url=request.getfixturevalue("shared").url)
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Place]:
    made = Place(path=tmp_path / "huey.db")
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may kill."""
    with RedisServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def on_server(server: RedisServer) -> Iterator[Place]:
    made = RedisPlace(redis_url=server.url)
    yield made
    made.close()


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def consume(runs: Runs) -> Iterator[Consume]:
    """Starts consumers that are stopped when their test ends."""
    started: list[Consumer] = []

    def start(queue: HueyQueue, workers: int = 1) -> Consumer:
        started.append(queue.consume(runs.fit, workers))
        started[-1].start()
        return started[-1]

    yield start
    runs.open.set()
    for consumer in started:
        consumer.stop(graceful=True)
        assert not is_alive(consumer)


class TestEveryStorage:
    def test_a_message_runs_its_job(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        consume(queue)
        for job_id in ("a", "b", "c"):
            queue.enqueue(job_id)
            until(lambda: runs.jobs[-1:] == [job_id])  # noqa: B023 - it runs here

        assert runs.threads == {"Worker-1"}
        assert queue.waiting() == set()

    def test_as_many_jobs_run_at_a_time_as_there_are_workers(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        runs.open.clear()
        for number in range(5):
            queue.enqueue(f"job {number}")
        consume(queue, 3)
        until(lambda: len(runs.jobs) == 3)
        time.sleep(0.4)

        assert len(runs.jobs) == 3
        assert queue.waiting() == {"job 3", "job 4"}
        runs.open.set()
        until(lambda: len(runs.jobs) == 5)

    def test_several_consumers_share_the_messages(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        jobs = [f"job {number}" for number in range(40)]
        queue = place.queue()
        for _ in range(3):
            consume(place.queue(), 2)
        for job_id in jobs:
            queue.enqueue(job_id)
        until(lambda: len(runs.jobs) >= 40)
        time.sleep(0.3)

        assert sorted(runs.jobs) == sorted(jobs)

    def test_a_message_outlives_the_process_that_sent_it(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        sender = place.queue()
        sender.enqueue("a")
        sender.enqueue("b", time.time() + 0.1)
        sender.close()
        consume(place.queue())
        until(lambda: sorted(runs.jobs) == ["a", "b"])

    def test_jobs_run_in_the_order_of_their_messages(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        jobs = ["c", "a", "z", "b"]
        for job_id in jobs:
            queue.enqueue(job_id)
        consume(queue)
        until(lambda: len(runs.jobs) == 4)

        assert runs.jobs == jobs

    def test_a_delayed_message_arrives_when_it_is_due(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        consume(queue)
        asked = time.time()
        queue.enqueue("a", asked + 1.0)
        assert queue.waiting() == set()
        until(lambda: runs.jobs == ["a"])

        assert 1.0 <= time.time() - asked < 2.8

    def test_a_job_that_is_not_due_comes_again_when_it_is(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        asked = time.time()
        runs.again["a"] = [asked + 1.0, asked + 2.0]
        queue.enqueue("a")
        consume(queue)
        until(lambda: len(runs.jobs) == 3)

        assert 2.0 <= time.time() - asked < 4.5
        time.sleep(1.2)
        assert len(runs.jobs) == 3

    def test_a_schedule_means_one_moment_when_the_clock_is_set_back(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        first_0240 = datetime(2027, 10, 31, 0, 40, tzinfo=timezone.utc).timestamp()
        second_0230 = datetime(2027, 10, 31, 1, 30, tzinfo=timezone.utc).timestamp()
        try:
            huey = place.queue()._huey
            monkeypatch.setattr(huey_queue, "_FARTHEST_S", 1e9)
            place.opened[-1].enqueue("a", second_0230)
            early = huey.read_schedule(datetime.fromtimestamp(first_0240))  # noqa: DTZ006
            due = huey.read_schedule(datetime.fromtimestamp(second_0230))  # noqa: DTZ006
        finally:
            monkeypatch.undo()
            time.tzset()

        assert (early, [task.args for task in due]) == ([], [("a",)])

    @pytest.mark.parametrize("due_at", [1e12, float("inf")])
    def test_a_job_may_be_due_at_any_time(self, place: Place, due_at: float) -> None:
        queue = place.queue()
        queue.enqueue("a", due_at)

        assert queue._huey.scheduled_count() == 1
        assert queue.waiting() == set()

    def test_a_schedule_means_the_same_in_every_time_zone(
        self,
        place: Place,
        runs: Runs,
        consume: Consume,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("TZ", "Pacific/Auckland")
        time.tzset()
        try:
            queue = place.queue()
            queue.enqueue("soon", time.time() + 0.3)
            queue.enqueue("later", time.time() + 3600)
            monkeypatch.setenv("TZ", "America/Los_Angeles")
            time.tzset()
            consume(queue)
            until(lambda: runs.jobs == ["soon"])
            time.sleep(1.2)
        finally:
            monkeypatch.undo()
            time.tzset()

        assert runs.jobs == ["soon"]

    def test_what_a_job_raises_is_logged_and_the_next_one_runs(
        self,
        place: Place,
        runs: Runs,
        consume: Consume,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        queue = place.queue()
        consume(queue)
        queue.enqueue("bad")
        queue.enqueue("good")
        until(lambda: runs.jobs == ["bad", "good"])

        (record,) = caplog.records
        assert record.message == "Unhandled exception in task bad."
        assert "ValueError: bad is bad" in caplog.text

    def test_huey_itself_logs_nothing(
        self, place: Place, runs: Runs, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            queue = place.queue()
            consumer = queue.consume(runs.fit, 1)
            consumer.start()
            queue.enqueue("a")
            queue.enqueue("b", time.time() + 0.1)
            until(lambda: runs.jobs == ["a", "b"])
            consumer.stop(graceful=True)

        assert caplog.messages == []

    def test_any_thread_may_start_it_and_signals_stay_as_they_were(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        queue = place.queue()
        starter = threading.Thread(target=consume, args=(queue,))
        starter.start()
        starter.join()
        queue.enqueue("a")
        until(lambda: runs.jobs == ["a"])

        now = [signal.getsignal(number) for number in signal.valid_signals()]
        assert now == handlers

    def test_it_stops_at_once_when_idle(self, place: Place, runs: Runs) -> None:
        consumer = place.queue().consume(runs.fit, 2)
        consumer.start()
        assert is_alive(consumer)
        began = time.monotonic()
        consumer.stop(graceful=True)

        assert time.monotonic() - began < 2
        assert not is_alive(consumer)

    def test_it_waits_for_running_jobs_and_takes_no_more(
        self, place: Place, runs: Runs
    ) -> None:
        queue = place.queue()
        consumer = queue.consume(runs.fit, 1)
        consumer.start()
        runs.open.clear()
        queue.enqueue("a")
        until(lambda: runs.jobs == ["a"])
        queue.enqueue("b")
        threading.Timer(0.5, runs.open.set).start()
        began = time.monotonic()
        consumer.stop(graceful=True)

        assert 0.4 < time.monotonic() - began < 3
        assert not is_alive(consumer)
        assert runs.jobs == ["a"]
        assert queue.waiting() == {"b"}  # for the next worker

    def test_backends_in_one_place_do_not_meet(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        other = place.queue("back-end")
        other.enqueue("theirs")
        mine = place.queue("backend")
        mine.enqueue("mine")
        consume(mine)
        until(lambda: runs.jobs == ["mine"])
        time.sleep(0.3)

        assert runs.jobs == ["mine"]
        assert other.waiting() == {"theirs"}

    def test_a_message_is_json_with_the_id_of_a_job(self, place: Place) -> None:
        queue = place.queue()
        queue.enqueue("0192job")
        queue.enqueue("0192job", time.time() + 60)
        kept = place.everything()

        assert kept.count(b'{"fit": "0192job"}') == 2
        assert b"\x80\x05" not in kept  # how a pickle begins

    def test_a_full_queue_accepts_no_more_messages(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(huey_queue, "_MOST", 3)
        queue = place.queue()
        for number in range(5):
            queue.enqueue(f"job {number}")

        assert queue.waiting() == {"job 0", "job 1", "job 2"}

    def test_unreadable_messages_are_dropped_with_one_line_and_never_unpickled(
        self,
        place: Place,
        runs: Runs,
        consume: Consume,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
        signed = b'{"task": "lsml_bento.fit", "job": "old"}.' + b"0" * 64
        queue = place.queue()
        queue.enqueue("ours", time.time() + 0.1)  # creates the file
        for data in (bomb, signed, b"", b".", b"{}", b"[]", "text", b"\xff" * 5000):
            place.plant(data)
        place.plant_scheduled(bomb)
        place.plant_scheduled(signed)
        assert queue.waiting() <= {None}
        consume(queue)
        until(lambda: runs.jobs == ["ours"] and queue._huey.pending_count() == 0)
        time.sleep(1.2)

        assert runs.jobs == ["ours"]
        assert not (tmp_path / "exploded").exists()
        assert caplog.messages == [f"Unreadable messages dropped: queue={NAME} n=1"]


class TestMessages:
    @pytest.mark.parametrize("job_id", ["a", "", 'Ärger".{}\n\0', "x" * 500])
    def test_they_are_read_as_they_were_written(self, job_id: str) -> None:
        queue = HueyQueue(name="x", path=Path("never opened"))
        data = queue._huey.serialize_task(queue._task.s(job_id))

        assert queue._huey.deserialize_task(data).args == (job_id,)

    @pytest.mark.parametrize(
        "data",
        [
            b'{"fit": 7}',
            b'{"fit": null}',
            b'{"fit": ["a"]}',
            b"[" * 2000,
            b"null",
            b"{",
            b"\xff",
            b"1" * 10_000,
        ],
    )
    def test_others_ask_for_no_job(self, data: bytes) -> None:
        assert _Json().deserialize(data).args == (None,)


class TestSqlite:
    def test_a_queue_that_cannot_be_opened_stops_no_start(
        self, file: Place, runs: Runs, consume: Consume, caplog: Any
    ) -> None:
        path: Path = file.where["path"]
        path.write_bytes(b"not a database" * 100)
        queue = file.queue()

        with pytest.raises(QueueError) as raised:
            queue.enqueue("a")
        assert str(raised.value) == (
            f"cannot put job a on the queue in {path} (file is not a database): "
            "if this persists, delete the file: no job is lost with it"
        )
        with pytest.raises(QueueError, match="cannot read the queue in"):
            queue.waiting()

        consume(queue)
        time.sleep(0.3)
        path.unlink()
        queue.enqueue("b")
        until(lambda: runs.jobs == ["b"])
        assert caplog.messages == []

    def test_a_file_that_is_damaged_in_use_can_be_deleted(
        self, file: Place, runs: Runs, consume: Consume
    ) -> None:
        path: Path = file.where["path"]
        queue = file.queue()
        for number in range(300):
            queue.enqueue(f"job {number}")
        with closing(sqlite3.connect(path)) as other:
            other.execute("delete from task where id = 1")
            other.commit()
            other.execute("pragma wal_checkpoint(truncate)")
        with path.open("r+b") as pages:
            pages.seek(4096)
            pages.write(b"\x55" * (path.stat().st_size - 4096))

        with pytest.raises(QueueError, match="malformed"):
            queue.waiting()
        path.unlink()
        queue.enqueue("a")
        assert queue.waiting() == {"a"}
        consume(queue)
        until(lambda: runs.jobs == ["a"])

    def test_a_table_that_is_lost_in_use_is_created_again(self, file: Place) -> None:
        queue = file.queue()
        queue.enqueue("a")
        with closing(sqlite3.connect(file.where["path"])) as other:
            other.execute("drop table task")
            other.commit()
        with pytest.raises(QueueError, match="no such table"):
            queue.waiting()
        queue.enqueue("b")

        assert queue.waiting() == {"b"}

    def test_processes_meet_in_the_new_file_after_the_old_one_was_deleted(
        self, file: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = file.queue()
        consume(queue)
        queue.enqueue("a")
        until(lambda: runs.jobs == ["a"])
        file.where["path"].unlink()
        file.queue().enqueue("b")
        queue.waiting()  # as a worker does each second

        until(lambda: runs.jobs == ["a", "b"])

    def test_a_writer_that_holds_the_file_delays_by_a_second(self, file: Place) -> None:
        queue = file.queue()
        queue.enqueue("a")
        with closing(sqlite3.connect(file.where["path"])) as other:
            other.execute("begin exclusive")
            began = time.monotonic()
            with pytest.raises(QueueError, match="database is locked"):
                queue.enqueue("b")
            assert time.monotonic() - began < 2
            with pytest.raises(QueueError, match="database is locked"):
                queue.enqueue("b", time.time() + 60)
        queue.enqueue("b")

        assert queue.waiting() == {"a", "b"}

    def test_many_that_open_a_new_file_at_once_all_can(self, file: Place) -> None:
        queues = [file.queue() for _ in range(12)]
        failed: list[Exception] = []

        def enqueue(number: int) -> None:
            try:
                queues[number].enqueue(f"job {number}")
            except Exception as error:  # noqa: BLE001 - shown below
                failed.append(error)

        threads = [threading.Thread(target=enqueue, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failed == []
        assert len(queues[0].waiting()) == 12

    def test_huey_does_not_log_an_outage(
        self,
        file: Place,
        runs: Runs,
        consume: Consume,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        queue = file.queue()
        queue.enqueue("a")
        with closing(sqlite3.connect(file.where["path"])) as other:
            other.execute("begin exclusive")
            consume(queue)
            time.sleep(2.5)
            assert runs.jobs == []
        until(lambda: runs.jobs == ["a"])

        assert caplog.messages == []


class TestRedis:
    def test_a_restart_is_survived_and_huey_does_not_log_it(
        self,
        server: RedisServer,
        on_server: Place,
        runs: Runs,
        consume: Consume,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        queue = on_server.queue()
        consume(queue)
        queue.enqueue("a")
        until(lambda: runs.jobs == ["a"])
        queue.enqueue("b", time.time() + 2)

        server.kill()
        with pytest.raises(QueueError) as raised:
            queue.enqueue("c")
        assert str(raised.value).startswith(
            "cannot put job c on the queue in Redis (Error 111 connecting to "
        )
        assert "REDIS_URL" in str(raised.value)
        time.sleep(1)
        server.start()
        queue.enqueue("d")
        until(lambda: runs.jobs[1:] in (["b", "d"], ["d", "b"]))

        assert caplog.messages == []

    def test_a_restart_between_two_messages_is_not_noticed(
        self, server: RedisServer, on_server: Place
    ) -> None:
        queue = on_server.queue()
        queue.enqueue("a")
        server.kill()
        server.start()
        queue.enqueue("b")

        assert queue.waiting() == {"a", "b"}

    def test_a_server_that_hangs_is_given_up(
        self, server: RedisServer, on_server: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = on_server.queue()
        consume(queue)
        queue.enqueue("a")
        until(lambda: runs.jobs == ["a"])
        server.pause()
        began = time.monotonic()
        with pytest.raises(QueueError):
            queue.enqueue("b")
        assert time.monotonic() - began < 8
        server.resume()
        queue.enqueue("c")
        until(lambda: "c" in runs.jobs)

    def test_a_key_that_is_not_a_queue_is_an_outage(
        self,
        server: RedisServer,
        on_server: Place,
        runs: Runs,
        consume: Consume,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        queue = on_server.queue()
        with closing(redis.Redis.from_url(server.url)) as client:
            client.set(f"huey.redis.{NAME}", "a string")
            consume(queue)
            with pytest.raises(QueueError, match="WRONGTYPE"):
                queue.waiting()
            time.sleep(1.2)
            client.delete(f"huey.redis.{NAME}")
        queue.enqueue("a")
        until(lambda: runs.jobs == ["a"])

        assert caplog.messages == []

    @pytest.mark.parametrize("url", ["", "here", "http://x", "redis://:pass#wd@h:1"])
    def test_an_invalid_address_is_refused_without_its_password(self, url: str) -> None:
        with pytest.raises(QueueError) as raised:
            HueyQueue(name="backend", redis_url=url)

        assert str(raised.value).startswith("REDIS_URL is not a valid address: write ")
        assert "pass#" not in str(raised.value)


@pytest.mark.parametrize("wrong", [{}, {"path": Path("x"), "redis_url": "redis://x"}])
def test_a_queue_has_one_place(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="takes either a path or a redis_url"):
        HueyQueue(name="backend", **wrong)
