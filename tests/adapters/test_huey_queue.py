"""Workers are woken through Huey on SQLite and Redis, by signed messages only."""

from __future__ import annotations

import logging
import pickle
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from huey.serializer import SignedSerializer

from lsml_bento.adapters.huey_queue import HueyQueue
from lsml_bento.adapters.huey_queue.consumer import HueyConsumer
from lsml_bento.adapters.huey_queue.messages import JsonSerializer, NotOurs
from lsml_bento.adapters.huey_queue.storages import WAITING_MOST
from lsml_bento.errors import QueueError
from lsml_bento.jobs.waker import Waker
from tests.redis_server import RedisServer

SECRET = b"a secret of this test"
NAME = "lsml-bento.backend"


class Bomb:
    """Leaves a file behind if anything unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


class Place:
    """A storage that queues are made on, and that a stranger can write to."""

    def __init__(self, **where: Any) -> None:
        self.where = where
        self.opened: list[HueyQueue] = []

    def queue(self, name: str = "backend", secret: bytes = SECRET) -> HueyQueue:
        self.opened.append(HueyQueue(name=name, secret=secret, **self.where))
        return self.opened[-1]

    def plant(self, data: bytes | str) -> None:
        """Write into the queue, past Huey."""
        with closing(sqlite3.connect(self.where["path"])) as connection:
            insert = "insert into task (queue, data, priority) values (?, ?, 0)"
            connection.execute(insert, (NAME, data))
            connection.commit()

    def plant_scheduled(self, data: bytes) -> None:
        """Write something that is due into the schedule."""
        with closing(sqlite3.connect(self.where["path"])) as connection:
            insert = "insert into schedule (queue, data, timestamp) values (?, ?, 1)"
            connection.execute(insert, (NAME, data))
            connection.commit()

    def everything(self) -> bytes:
        """All values that are kept; the file's own checksums may look like anything."""
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
    """What a worker was woken for."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.threads: set[str] = set()
        self.open = threading.Event()
        self.open.set()

    def run(self, job_id: str) -> None:
        self.jobs.append(job_id)
        self.threads.add(threading.current_thread().name)
        self.open.wait(20)
        if job_id.startswith("bad"):
            raise ValueError(f"{job_id} is bad")


Consume = Callable[..., HueyConsumer]


def until(condition: Callable[[], bool], timeout_s: float = 8.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


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
    started: list[HueyConsumer] = []

    def start(queue: HueyQueue) -> HueyConsumer:
        started.append(queue.consume(runs.run))
        started[-1].start()
        return started[-1]

    yield start
    runs.open.set()
    stopped = [consumer.stop(10) for consumer in started]
    assert all(stopped)


class TestEveryStorage:
    def test_a_wake_runs_the_job_in_one_thread(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        consume(queue)
        for job_id in ("a", "b", "c"):
            queue.wake(job_id)
            until(lambda: runs.jobs[-1:] == [job_id])  # noqa: B023 - it runs here

        assert runs.threads == {"Worker-1"}
        assert queue.waiting() == 0

    def test_a_wake_outlives_the_process_that_sent_it(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        sender = place.queue()
        sender.wake("a")
        sender.wake("b", 0.1)
        sender.close()
        consume(place.queue())
        until(lambda: sorted(runs.jobs) == ["a", "b"])

    def test_jobs_are_run_in_the_order_of_their_wakes(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        jobs = ["c", "a", "z", "b"]
        for job_id in jobs:
            queue.wake(job_id)
        consume(queue)
        until(lambda: len(runs.jobs) == 4)

        assert runs.jobs == jobs

    def test_a_scheduled_wake_comes_when_it_is_due(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        consume(queue)
        asked = time.monotonic()
        queue.wake("a", 1.0)
        until(lambda: runs.jobs == ["a"])

        assert 1.0 <= time.monotonic() - asked < 2.5

    def test_a_schedule_is_read_alike_in_every_time_zone(
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
            queue.wake("soon", 0.3)
            queue.wake("later", 3600)
            monkeypatch.setenv("TZ", "America/Los_Angeles")
            time.tzset()
            consume(queue)
            until(lambda: runs.jobs == ["soon"])
            time.sleep(0.6)
        finally:
            monkeypatch.undo()
            time.tzset()

        assert runs.jobs == ["soon"]

    def test_wakes_of_a_job_that_waits_do_not_pile_up(
        self, place: Place, runs: Runs
    ) -> None:
        one, two = place.queue(), place.queue()
        for number in range(100):
            one.wake("a")
            two.wake("a")
            one.wake("a", 30 + number)
            two.wake("a", 30 + number)

        assert one.waiting() == 2

    def test_events_during_a_fit_leave_one_message_each_for_now_and_later(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        waker = Waker(queue.wake)
        consume(queue)
        runs.open.clear()
        waker.wake("running")
        until(lambda: runs.jobs == ["running"])
        most = 0
        for number in range(200):
            waker.wake("next", 0.2 if number % 2 else 0)
            time.sleep(0.005)
            most = max(most, queue.waiting())
        waker.close()

        assert 1 <= most <= 2
        runs.open.set()
        until(lambda: "next" in runs.jobs)
        time.sleep(1.2)
        assert len(runs.jobs) <= 4

    def test_a_last_wake_moves_a_scheduled_one(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = place.queue()
        queue.wake("a", 3600)
        queue.wake("b", 0.1)
        queue.wake("a", 0.2)
        queue.wake("b", 3600)
        consume(queue)
        until(lambda: runs.jobs == ["a"])

        assert queue.waiting() == 1

    def test_a_full_queue_takes_no_more_wakes(self, place: Place) -> None:
        queue = place.queue()
        for number in range(WAITING_MOST + 20):
            queue.wake(f"job {number}")

        assert queue.waiting() == WAITING_MOST

    def test_what_a_run_raises_is_logged_and_the_next_one_runs(
        self,
        place: Place,
        runs: Runs,
        consume: Consume,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        queue = place.queue()
        consume(queue)
        queue.wake("bad")
        queue.wake("good")
        until(lambda: runs.jobs == ["bad", "good"])

        (record,) = caplog.records
        assert record.message == "the run that job bad woke failed"
        assert "ValueError: bad is bad" in caplog.text

    def test_huey_says_nothing_of_its_own(
        self, place: Place, runs: Runs, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            queue = place.queue()
            consumer = queue.consume(runs.run)
            consumer.start()
            queue.wake("a")
            queue.wake("b", 0.1)
            until(lambda: runs.jobs == ["a", "b"])
            assert consumer.stop(5)

        assert caplog.messages == []

    def test_any_thread_may_start_it_and_signals_stay_as_they_were(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        queue = place.queue()
        starter = threading.Thread(target=consume, args=(queue,))
        starter.start()
        starter.join()
        queue.wake("a")
        until(lambda: runs.jobs == ["a"])

        now = [signal.getsignal(number) for number in signal.valid_signals()]
        assert now == handlers

    def test_it_stops_at_once_when_idle(self, place: Place, runs: Runs) -> None:
        consumer = place.queue().consume(runs.run)
        consumer.start()
        assert consumer.is_alive
        began = time.monotonic()

        assert consumer.stop(5)
        assert time.monotonic() - began < 1.5
        assert not consumer.is_alive

    def test_a_run_that_goes_on_does_not_hold_up_the_stop(
        self, place: Place, runs: Runs
    ) -> None:
        queue = place.queue()
        consumer = queue.consume(runs.run)
        consumer.start()
        runs.open.clear()
        queue.wake("a")
        until(lambda: runs.jobs == ["a"])
        queue.wake("b")
        began = time.monotonic()

        assert not consumer.stop(0.2)
        assert time.monotonic() - began < 1
        runs.open.set()
        assert consumer.stop(5)
        assert runs.jobs == ["a"]
        assert queue.waiting() == 1  # for the next worker

    def test_backends_in_one_place_do_not_meet(
        self, place: Place, runs: Runs, consume: Consume
    ) -> None:
        other = place.queue("back-end")
        other.wake("theirs")
        mine = place.queue("backend")
        mine.wake("mine")
        consume(mine)
        until(lambda: runs.jobs == ["mine"])
        time.sleep(0.3)

        assert runs.jobs == ["mine"]
        assert other.waiting() == 1

    def test_nothing_but_the_id_is_kept_and_the_secret_never_is(
        self, place: Place
    ) -> None:
        queue = place.queue()
        queue.wake("0192job")
        queue.wake("0192job", 60)
        kept = place.everything()

        assert b'{"task": "lsml_bento.fit", "job": "0192job"}.' in kept
        assert SECRET not in kept
        assert b"\x80\x05" not in kept  # how a pickle begins


class TestForeignMessages:
    def test_they_are_dropped_with_one_line_and_never_unpickled(
        self,
        place: Place,
        runs: Runs,
        consume: Consume,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
        queue = place.queue()
        queue.wake("ours", 0.1)  # makes the file
        for data in (
            bomb,
            SignedSerializer(SECRET)._sign(bomb),
            b"",
            b".",
            b"{}",
            "text",
            b"\xff" * 5000,
            foreign(b"another secret"),
            foreign(SECRET, "lsml-bento.another"),
        ):
            place.plant(data)
        place.plant_scheduled(bomb)
        place.plant_scheduled(foreign(b"another secret"))
        consume(queue)
        until(lambda: runs.jobs == ["ours"] and queue.waiting() == 0)
        time.sleep(0.6)

        assert runs.jobs == ["ours"]
        assert not (tmp_path / "exploded").exists()
        (message,) = caplog.messages
        assert message == (
            "dropped from the queue lsml-bento.backend, messages that this backend's "
            "secret did not sign: 1; give all of its processes the same LSML_SECRET_KEY"
        )

    def test_another_secret_is_another_backend(
        self,
        place: Place,
        runs: Runs,
        consume: Consume,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        place.queue(secret=b"another").wake("theirs")
        queue = place.queue()
        consume(queue)
        until(lambda: "LSML_SECRET_KEY" in caplog.text)
        queue.wake("ours")
        until(lambda: runs.jobs == ["ours"])

    def test_what_revokes_or_locks_in_huey_is_not_even_read(
        self, place: Place, runs: Runs, consume: Consume, tmp_path: Path
    ) -> None:
        bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
        queue = place.queue()
        huey = queue._huey
        for key in ("rt:lsml_bento.fit", "r:a", "a"):
            huey.storage.put_data(key, bomb)
        consume(queue)
        queue.wake("a")
        until(lambda: runs.jobs == ["a"])

        assert not (tmp_path / "exploded").exists()
        assert huey.storage.result_store_size() == 3


def foreign(secret: bytes, queue: str = NAME) -> bytes:
    """What a process with another secret or of another backend puts on the queue."""
    return JsonSerializer(secret, queue).serialize(message("foreign"))


def message(*arguments: object, name: str = "lsml_bento.fit") -> Any:
    class Message:
        args = arguments

    Message.name = name  # type: ignore[attr-defined]
    return Message


class TestMessages:
    serializer = JsonSerializer(SECRET, NAME)

    @pytest.mark.parametrize("job_id", ["a", "", 'Ärger".{}\n\0', "x" * 500])
    def test_they_are_read_as_they_were_written(self, job_id: str) -> None:
        found = self.serializer.deserialize(self.serializer.serialize(message(job_id)))

        assert (found.id, found.name, found.args) == (
            job_id,
            "lsml_bento.fit",
            (job_id,),
        )

    def test_every_bit_is_signed(self) -> None:
        data = self.serializer.serialize(message("job"))
        for place in range(8 * len(data)):
            changed = bytearray(data)
            changed[place // 8] ^= 1 << place % 8
            with pytest.raises(NotOurs):
                self.serializer.deserialize(bytes(changed))

    @pytest.mark.parametrize(
        "signed",
        [
            message("a", name="lsml_bento.other"),
            message(7),
            message(None),
            message(["a"]),
        ],
    )
    def test_what_another_release_signed_is_dropped(self, signed: Any) -> None:
        data = self.serializer.serialize(signed)
        with pytest.raises(NotOurs):
            self.serializer.deserialize(data)

    @pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"null", b"{", b"\xff"])
    def test_a_signed_payload_of_another_shape_is_dropped(self, payload: bytes) -> None:
        data = payload + b"." + self.serializer._signature(payload)
        with pytest.raises(NotOurs):
            self.serializer.deserialize(data)


class TestSqlite:
    def test_a_queue_that_can_not_be_opened_stops_no_start(
        self, file: Place, runs: Runs, consume: Consume
    ) -> None:
        path: Path = file.where["path"]
        path.write_bytes(b"not a database" * 100)
        queue = file.queue()

        with pytest.raises(QueueError) as raised:
            queue.wake("a")
        assert str(raised.value) == (
            f"job a could not be put on the queue in {path} (file is not a database): "
            "if it stays so, delete the file: the ledger knows all of it"
        )
        with pytest.raises(QueueError, match="nothing could be read from"):
            queue.waiting()

        consume(queue)
        time.sleep(0.3)
        path.unlink()
        queue.wake("b")
        until(lambda: runs.jobs == ["b"])

    def test_a_writer_that_holds_the_file_costs_a_wake_a_second(
        self, file: Place
    ) -> None:
        queue = file.queue()
        queue.wake("a")
        with closing(sqlite3.connect(file.where["path"])) as other:
            other.execute("begin exclusive")
            began = time.monotonic()
            with pytest.raises(QueueError, match="database is locked"):
                queue.wake("b")
            assert time.monotonic() - began < 2
            with pytest.raises(QueueError, match="database is locked"):
                queue.wake("b", 60)
        queue.wake("b")

        assert queue.waiting() == 2

    def test_many_that_open_a_new_file_at_once_all_can(self, file: Place) -> None:
        queues = [file.queue() for _ in range(12)]
        failed: list[Exception] = []

        def wake(number: int) -> None:
            try:
                queues[number].wake(f"job {number}")
            except Exception as error:  # noqa: BLE001 - shown below
                failed.append(error)

        threads = [threading.Thread(target=wake, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failed == []
        assert queues[0].waiting() == 12

    def test_an_outage_is_two_lines(
        self,
        file: Place,
        runs: Runs,
        consume: Consume,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        queue = file.queue()
        queue.wake("a")
        with closing(sqlite3.connect(file.where["path"])) as other:
            other.execute("begin exclusive")
            consume(queue)
            until(lambda: "does not answer" in caplog.text)
            time.sleep(1.5)
        until(lambda: runs.jobs == ["a"] and "answers again" in caplog.text)

        assert len(caplog.records) == 2


class TestRedis:
    def test_a_restart_is_two_lines_and_wakes_go_on(
        self,
        server: RedisServer,
        on_server: Place,
        runs: Runs,
        consume: Consume,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        queue = on_server.queue()
        consume(queue)
        queue.wake("a")
        until(lambda: runs.jobs == ["a"])
        queue.wake("b", 2)

        server.kill()
        with pytest.raises(QueueError) as raised:
            queue.wake("c")
        assert str(raised.value).startswith(
            "job c could not be put on the queue in Redis (Error 111 connecting to "
        )
        assert "REDIS_URL" in str(raised.value)
        time.sleep(1)
        server.start()
        queue.wake("d")
        until(lambda: runs.jobs[1:] in (["b", "d"], ["d", "b"]))

        until(lambda: "the queue in Redis answers again" in caplog.text)
        assert len(caplog.records) == 2

    def test_a_restart_between_two_wakes_is_not_noticed(
        self, server: RedisServer, on_server: Place
    ) -> None:
        queue = on_server.queue()
        queue.wake("a")
        server.kill()
        server.start()
        queue.wake("b")

        assert queue.waiting() == 2

    def test_a_server_that_hangs_is_given_up(
        self, server: RedisServer, on_server: Place, runs: Runs, consume: Consume
    ) -> None:
        queue = on_server.queue()
        consume(queue)
        queue.wake("a")
        until(lambda: runs.jobs == ["a"])
        server.pause()
        began = time.monotonic()
        with pytest.raises(QueueError):
            queue.wake("b")
        assert time.monotonic() - began < 8
        server.resume()
        queue.wake("c")
        until(lambda: "c" in runs.jobs)

    def test_a_wake_that_a_stopping_worker_takes_is_put_back(
        self, on_server: Place, runs: Runs
    ) -> None:
        queue = on_server.queue()
        consumer = queue.consume(runs.run)
        consumer.start()
        time.sleep(0.1)  # it waits in a read by now
        consumer.stop(0)
        queue.wake("late")

        assert consumer.stop(5)
        assert runs.jobs == []
        assert queue.waiting() == 1

    def test_what_is_no_queue_is_said_once(
        self,
        server: RedisServer,
        on_server: Place,
        runs: Runs,
        consume: Consume,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with closing(redis.Redis.from_url(server.url)) as client:
            client.set(f"huey.redis.{NAME}", "a string")
            queue = on_server.queue()
            consume(queue)
            time.sleep(1.2)
            client.delete(f"huey.redis.{NAME}")
        queue.wake("a")
        until(lambda: runs.jobs == ["a"])

        assert ["WRONGTYPE" in message for message in caplog.messages] == [True, False]

    @pytest.mark.parametrize("url", ["", "here", "http://x", "redis://:pass#wd@h:1"])
    def test_an_address_that_is_none_is_refused_without_its_password(
        self, url: str
    ) -> None:
        with pytest.raises(QueueError) as raised:
            HueyQueue(name="backend", secret=SECRET, redis_url=url)

        assert str(raised.value).startswith("REDIS_URL can not be understood: write ")
        assert "pass#" not in str(raised.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": b"", "path": Path("x")},
        {"secret": SECRET},
        {"secret": SECRET, "path": Path("x"), "redis_url": "redis://x"},
    ],
)
def test_a_queue_takes_a_secret_and_one_place(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="takes a secret, and a path or a redis_url"):
        HueyQueue(name="backend", **wrong)
