"""Redis when it restarts, hangs, loads, is full or not there, and beside others."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from lsml_bento.adapters.redis_state import RedisState
from lsml_bento.contract import Project
from lsml_bento.errors import StateError
from lsml_bento.jobs.event_writer import EventWriter
from lsml_bento.jobs.events import Event, parse_event
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.training_policy import TrainingRules
from lsml_bento.state.store import Change, State
from tests.e2e.processes import free_port
from tests.redis_server import RedisServer

ONE = Project("1", 100)


@pytest.fixture
def state(redis_server: str) -> Iterator[RedisState]:
    made = RedisState(redis_server, uuid.uuid4().hex)
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be ended; what it answered ``OK`` to is on the disk."""
    with RedisServer(tmp_path / "redis", "--appendfsync", "always") as made:
        yield made


def open_state(url: str, *, for_events: bool) -> State:
    state = RedisState(url, "test")
    return state.for_events(0.5) if for_events else state


def put_a(change: Change) -> None:
    change.put("a", "2")


def increment(change: Change) -> None:
    change.put("a", str(int(change.get("a") or 0) + 1))


def uses(state: State) -> list[Callable[[], object]]:
    """Every way to ask something of a state."""
    return [
        lambda: state.get("a"),
        lambda: state.scan("a"),
        lambda: list(state.each("a")),
        lambda: state.read(ONE),
        state.projects,
        lambda: state.change(put_a, 0.5),
        lambda: state.change(increment, 0.5),
        lambda: state.write(ONE, {"a": 2}),
    ]


def wait_for(holds: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not so in {timeout_s} s"
        time.sleep(0.05)


class TestOthersComeBetween:
    def test_work_is_retried_after_another_write(
        self, state: RedisState, redis_server: str
    ) -> None:
        state.change(put_a)
        runs = []

        def work(change: Change) -> None:
            runs.append(change.get("a"))
            if len(runs) == 1:
                state.change(increment)
            change.put("b", runs[-1] or "")

        state.change(work)

        assert runs == ["2", "3"]
        assert state.scan("") == [("a", "3"), ("b", "3")]

    @pytest.mark.parametrize("there", ["", "1"])
    def test_a_key_that_was_added_or_deleted_counts_as_changed(
        self, state: RedisState, there: str
    ) -> None:
        def toggle(change: Change) -> None:
            if change.get("a") is None:
                change.put("a", "")
            else:
                change.delete("a")

        if there:
            state.change(toggle)
        runs = []

        def work(change: Change) -> None:
            runs.append(change.get("a"))
            if len(runs) == 1:
                state.change(toggle)
            change.put("b", "1")

        state.change(work)

        assert runs == (["", None] if there else [None, ""])

    def test_an_error_caused_by_half_of_another_change_is_not_raised(
        self, state: RedisState
    ) -> None:
        def both(change: Change) -> None:
            increment(change)
            change.put("b", change.get("a") or "")

        state.change(both)
        runs: list[tuple[str | None, str | None]] = []

        def compare(change: Change) -> None:
            a = change.get("a")
            if not runs:
                state.change(both)
            runs.append((a, change.get("b")))
            if a != runs[-1][1]:
                raise ValueError("a is not b")

        state.change(compare)

        assert runs == [("1", "2"), ("2", "2")]

    def test_a_scanned_key_that_was_deleted_counts_as_changed(
        self, state: RedisState
    ) -> None:
        """Else a job that was cancelled meanwhile is taken out of the queue and run."""
        state.change(lambda change: change.put("queue 1", "job 1"))
        state.change(lambda change: change.put("queue 2", "job 2"))

        def take(change: Change) -> str:
            _, job = change.scan("queue", "", 1)[0]
            if job == "job 1":
                state.change(lambda other: other.delete("queue 1"))
            change.put("running", job)
            return job

        assert state.change(take) == "job 2"
        assert state.get("running") == "job 2"

    def test_a_change_that_always_conflicts_fails_after_the_timeout(
        self, state: RedisState
    ) -> None:
        def work(change: Change) -> None:
            change.get("a")
            state.change(increment)
            change.put("b", "1")

        start = time.monotonic()
        with pytest.raises(StateError, match=r"other writers interfered \d+ times in"):
            state.change(work, 0.3)
        assert 0.2 < time.monotonic() - start < 1
        assert state.get("b") is None


def annotated(number: int) -> Event:
    return parse_event(
        {
            "action": "ANNOTATION_CREATED",
            "project": {"id": 1, "created_at": "2026-11-23T09:34:49Z"},
            "annotation": {"id": number, "task": number, "result": []},
            "task": {"id": number, "data": {"text": "x"}},
        }
    )


class TestRoundTrips:
    def test_the_values_of_a_project_are_read_in_one_call(
        self, state: RedisState, redis_server: str
    ) -> None:
        state.write(ONE, {f"key {number}": number for number in range(300)})
        state.read(ONE)
        with redis.Redis.from_url(redis_server) as admin:
            admin.config_resetstat()
            assert len(state.read(ONE)) == 300
            calls = admin.info("commandstats")

        sent = {name for name in calls if not name.startswith("cmdstat_config")}
        inside = {"cmdstat_zrangebylex", "cmdstat_hmget"}
        assert sent == {"cmdstat_evalsha"} | inside
        assert all(calls[name]["calls"] == 1 for name in sent)

    def test_an_event_that_joins_a_waiting_job_is_one_call(
        self, state: RedisState, redis_server: str
    ) -> None:
        intake = EventWriter(state, TrainingRules, lambda job: None)
        for number in (1, 2):
            intake.take(annotated(number)).result(10)
        with redis.Redis.from_url(redis_server) as admin:
            admin.config_resetstat()
            receipt = intake.take(annotated(3)).result(10)
            calls = admin.info("commandstats")
        intake.close()

        assert receipt.job is not None
        assert calls["cmdstat_evalsha"]["calls"] == 1
        assert "cmdstat_hmget" not in calls
        assert [e.annotation for e in JobStore(state).events(receipt.job)] == [1, 2, 3]

    def test_an_event_after_one_of_another_process_is_three_calls_once(
        self, redis_server: str
    ) -> None:
        """A guess that is compared in vain, what is read, and what is written."""
        owner = uuid.uuid4().hex
        state, other = (RedisState(redis_server, owner) for _ in range(2))
        here, there = (
            EventWriter(one, TrainingRules, lambda job: None) for one in (state, other)
        )
        for number in (1, 2):
            here.take(annotated(number)).result(10)
        there.take(annotated(3)).result(10)
        calls = []
        with redis.Redis.from_url(redis_server) as admin:
            for number in (4, 5):
                admin.config_resetstat()
                receipt = here.take(annotated(number)).result(10)
                calls.append(admin.info("commandstats"))
        here.close()
        there.close()

        assert [c["cmdstat_evalsha"]["calls"] for c in calls] == [2, 1]
        assert [c["cmdstat_hmget"]["calls"] for c in calls] == [1, 1]
        assert receipt.job is not None
        gathered = [e.annotation for e in JobStore(state).events(receipt.job)]
        assert gathered == [1, 2, 3, 4, 5]
        state.close()
        other.close()


class TestRestart:
    def test_writes_survive_a_kill_of_redis(self, server: RedisServer) -> None:
        state = RedisState(server.url, "test")
        state.write(ONE, {"a": 1})
        server.kill()

        for use in uses(state):
            with pytest.raises(StateError, match="Connection refused; check REDIS_URL"):
                use()
        server.start()

        assert state.read(ONE) == {"a": 1}
        assert state.projects() == [ONE]
        state.write(ONE, {"a": 2})
        assert state.read(ONE) == {"a": 2}
        state.close()

    def test_a_restart_between_two_calls_is_not_noticed(
        self, server: RedisServer
    ) -> None:
        state = RedisState(server.url, "test")
        for step in range(1, 4):
            state.change(increment)
            server.kill()
            server.start()
            assert state.get("a") == str(step)
        state.close()

    def test_a_restart_fails_one_call_of_the_busy_event_state(
        self, server: RedisServer
    ) -> None:
        state = RedisState(server.url, "test").for_events(0.5)
        state.change(increment)
        server.kill()
        server.start()

        with pytest.raises(
            StateError, match="check REDIS_URL, and that Redis is running"
        ):
            state.change(increment)

        state.change(increment)
        assert state.get("a") == "2"
        state.close()

    def test_a_restart_is_not_noticed_by_the_idle_event_state(
        self, server: RedisServer
    ) -> None:
        state = RedisState(server.url, "test").for_events(0.5)
        for step in ("1", "2"):
            state.change(increment)
            assert state.get("a") == step
            server.kill()
            server.start()
            time.sleep(1.1)
        state.close()

    @pytest.mark.parametrize("for_events", [False, True])
    def test_a_kill_during_writes_loses_and_repeats_none(
        self, server: RedisServer, for_events: bool
    ) -> None:
        state = open_state(server.url, for_events=for_events)
        done, unsure = [], []
        ended = threading.Event()

        def write(number: int) -> None:
            step = 0
            while not ended.is_set():
                key = f"{number}/{step}"
                try:
                    state.change(lambda change, key=key: count(change, key))  # type: ignore[misc]
                    done.append(key)
                except StateError:
                    unsure.append(key)
                    time.sleep(0.01)
                step += 1

        def count(change: Change, key: str) -> None:
            assert change.get(key) is None, "written, and then written again"
            change.put(key, "1")
            change.put("count", str(int(change.get("count") or 0) + 1))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            time.sleep(0.3)
            server.kill()
            server.start()
        time.sleep(0.3)
        ended.set()
        for thread in threads:
            thread.join()

        kept = {key for key, _ in state.scan("") if key != "count"}
        assert set(done) <= kept <= {*done, *unsure}
        assert state.get("count") == str(len(kept))
        assert done
        assert unsure
        state.close()

    def test_a_redis_that_is_loading_its_data_is_an_error_that_says_so(
        self, tmp_path: Path
    ) -> None:
        slow = ("--enable-debug-command", "local", "--key-load-delay", "100")
        with RedisServer(tmp_path, *slow) as server:
            with redis.Redis.from_url(server.url) as admin, admin.pipeline() as pipe:
                for number in range(20_000):
                    pipe.set(str(number), "")
                pipe.execute()
            state = RedisState(server.url, "test")
            state.change(put_a)
            server.kill()
            server.start(wait=False)

            with pytest.raises(StateError) as read:
                state.get("a")
            with pytest.raises(StateError, match=r"could not be written: .*loading"):
                state.change(put_a)

            def is_loaded() -> bool:
                with suppress(StateError):
                    return state.get("a") == "2"
                return False

            wait_for(is_loaded)
            state.close()

        assert str(read.value) == (
            f"the state in Redis at 127.0.0.1:{server.port}/0 could not be read: Redis "
            "is loading the dataset in memory; wait until Redis has loaded its data, "
            "or "
            "check REDIS_URL"
        )


class TestHang:
    @pytest.mark.parametrize("for_events", [False, True])
    def test_every_call_to_a_redis_that_hangs_times_out(
        self, server: RedisServer, for_events: bool
    ) -> None:
        state = open_state(server.url, for_events=for_events)
        state.write(ONE, {"a": 1})
        server.pause()

        for use in uses(state):
            start = time.monotonic()
            with pytest.raises(StateError, match=r"Timeout reading from .*; check"):
                use()
            assert 0.4 < time.monotonic() - start < 0.9
        server.resume()

        assert state.read(ONE)["a"] in (1, 2)
        state.close()

    def test_a_change_for_events_waits_no_longer_than_asked(
        self, server: RedisServer
    ) -> None:
        state = RedisState(server.url, "a", wait_s=5).for_events(0.2)
        state.change(increment, 0.2)
        server.pause()
        start = time.monotonic()

        with pytest.raises(StateError, match="could not be written"):
            state.change(increment, 0.2)

        assert time.monotonic() - start < 1
        server.resume()
        wait_for(lambda: state.get("a") == "2")  # the guess was right, so it was sent
        state.change(increment, 0.2)
        assert state.get("a") == "3"
        state.close()

    def test_a_change_for_events_that_has_to_read_waits_no_longer_either(
        self, server: RedisServer
    ) -> None:
        main = RedisState(server.url, "a", wait_s=5)
        state = main.for_events(0.2)
        main.change(increment)
        server.pause()
        start = time.monotonic()

        with pytest.raises(StateError, match="could not be read"):
            state.change(increment, 0.2)

        assert time.monotonic() - start < 1
        server.resume()
        wait_for(lambda: state.get("a") == "1")
        state.change(increment, 0.2)
        assert state.get("a") == "2"
        state.close()

    def test_many_threads_wait_as_long_as_one(self, server: RedisServer) -> None:
        state = RedisState(server.url, "test", wait_s=0.3)
        server.pause()
        took = []

        def read() -> None:
            start = time.monotonic()
            with pytest.raises(StateError):
                state.read(ONE)
            took.append(time.monotonic() - start)

        threads = [threading.Thread(target=read) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.resume()

        assert len(took) == 16
        assert max(took) < 0.9
        state.close()

    def test_a_write_without_a_reply_counts_as_a_write(
        self, server: RedisServer
    ) -> None:
        state = RedisState(server.url, "test", wait_s=0.2)
        state.change(put_a)
        before = state.writes
        server.pause()
        with pytest.raises(StateError):
            state.change(lambda change: change.put("b", "1"))
        server.resume()

        assert state.get("b") == "1"
        assert state.writes == before + 1
        state.close()


class TestWrongUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "localhost:6379",
            "http://:s3cret@localhost",
            "redis://:s3cret@localhost:port/0",
            "redis://:s3cret@localhost:99999/0",
            "redis://localhost?passwort=s3cret",
        ],
    )
    def test_an_invalid_url_is_refused_at_once(self, url: str) -> None:
        with pytest.raises(StateError) as refused:
            RedisState(url, "test")

        assert str(refused.value) == (
            "REDIS_URL is not a Redis URL: use redis://:password@host:6379/0, "
            "rediss:// for TLS, or unix:///path"
        )
        assert refused.value.__suppress_context__
        assert refused.value.status == 503

    @pytest.mark.parametrize(
        ("url", "where"),
        [
            ("redis://:s3cret@127.0.0.1:1/2", "127.0.0.1:1/2"),
            ("rediss://me:s3cret@127.0.0.1:1", "127.0.0.1:1/0"),
            ("unix:///nowhere/redis.sock?password=s3cret", "/nowhere/redis.sock"),
        ],
    )
    def test_an_unreachable_redis_is_named_without_the_password(
        self, url: str, where: str
    ) -> None:
        state = RedisState(url, "test")
        start = time.monotonic()
        with pytest.raises(StateError) as refused:
            state.read(ONE)
        state.close()

        text = str(refused.value)
        assert text.startswith(f"the state in Redis at {where} could not be read: ")
        assert text.endswith("; check REDIS_URL, and that Redis is running there")
        assert "s3cret" not in text
        assert time.monotonic() - start < 5

    def test_a_password_is_used_and_a_wrong_one_is_an_error(
        self, tmp_path: Path
    ) -> None:
        with RedisServer(tmp_path, "--requirepass", "s3cret") as server:
            for secret, problem in (
                (":s3cret@", None),
                (":wr0ng@", "invalid username-password pair or user is disabled"),
                ("", "Authentication required"),
            ):
                state = RedisState(server.url.replace("//", f"//{secret}"), "test")
                if problem is None:
                    state.write(ONE, {"a": 1})
                    assert state.read(ONE) == {"a": 1}
                else:
                    with pytest.raises(StateError, match=problem) as refused:
                        state.get("a")
                    assert "wr0ng" not in str(refused.value)
                state.close()

    def test_a_password_that_redis_echoes_is_not_in_the_message(
        self, tmp_path: Path
    ) -> None:
        with RedisServer(tmp_path, "--rename-command", "AUTH", "") as server:
            state = RedisState(server.url.replace("//", "//:s3cret@"), "test")
            with pytest.raises(StateError) as refused:
                state.get("a")
            state.close()

        text = str(refused.value)
        assert "unknown command 'AUTH'" in text
        assert "s3cret" not in text
        assert refused.value.__suppress_context__


class TestNotWritable:
    def test_a_replica_can_be_read_but_not_written(self, tmp_path: Path) -> None:
        with RedisServer(tmp_path, "--replicaof", "127.0.0.1", "1") as replica:
            state = RedisState(replica.url, "test")
            assert state.read(ONE) == {}
            with pytest.raises(StateError) as refused:
                state.change(put_a)
            state.close()

        assert "could not be written: You can't write against a read" in str(
            refused.value
        )
        assert str(refused.value).endswith("it must name the primary, not a replica")

    def test_a_full_redis_keeps_its_data_and_writes_nothing_partially(
        self, server: RedisServer
    ) -> None:
        state = RedisState(server.url, "test")
        state.change(put_a)
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("maxmemory", "1")

        def work(change: Change) -> None:
            change.delete("a")
            change.put("b", "1")

        with pytest.raises(StateError, match=r"could not be written: .*maxmemory"):
            state.change(work)

        assert state.scan("") == [("a", "2")]
        state.change(lambda change: change.delete("a"))
        assert state.scan("") == []
        state.close()

    def test_values_that_another_program_deleted_are_an_error(
        self, redis_server: str
    ) -> None:
        name = uuid.uuid4().hex
        state = RedisState(redis_server, name)
        state.write(ONE, {"a": 1})
        with redis.Redis.from_url(redis_server) as admin:
            admin.delete(f"lsml:{{{name}}}:values")

        with pytest.raises(StateError, match="maxmemory-policy to noeviction"):
            state.read(ONE)
        state.close()


class TestOwners:
    def test_backends_on_one_redis_are_separate(self, redis_server: str) -> None:
        name = uuid.uuid4().hex
        names = (name, f"{name}2", f"{name}:values", f"{name}}}:values")
        states = [RedisState(redis_server, owner) for owner in names]
        for number, state in enumerate(states):
            state.write(ONE, {"a": number})

        for number, state in enumerate(states):
            assert state.read(ONE) == {"a": number}
            assert len(state.scan("")) == 2
            state.close()

    def test_all_keys_of_a_backend_are_below_its_name_and_in_one_slot(
        self, tmp_path: Path
    ) -> None:
        # The port that a cluster takes by itself, 10,000 further, may not be there.
        cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        with (
            RedisServer(tmp_path, *cluster) as server,
            redis.Redis.from_url(server.url) as admin,
        ):
            admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            wait_for(lambda: admin.cluster("INFO")["cluster_state"] == "ok")
            state = RedisState(server.url, "ner")
            state.write(ONE, {"a": 1})
            assert state.read(ONE) == {"a": 1}
            state.close()
            keys = sorted(admin.keys())

        assert keys == [b"lsml:{ner}:order", b"lsml:{ner}:values"]


def test_what_the_event_state_writes_counts_as_written_by_the_process(
    state: RedisState,
) -> None:
    for_events = state.for_events(0.2)
    before = state.writes

    for_events.change(put_a)

    assert state.writes == before + 1
    assert state.get("a") == "2"


def test_closing_a_state_closes_its_event_states(server: RedisServer) -> None:
    state = RedisState(server.url, "test")
    state.for_events(0.2).change(put_a)
    state.close()

    with redis.Redis.from_url(server.url) as admin:
        assert len(admin.client_list()) == 1


def test_closing_closes_the_connections_of_every_thread(
    server: RedisServer,
) -> None:
    state = RedisState(server.url, "test")
    barrier = threading.Barrier(4)

    def use() -> None:
        barrier.wait(10)
        state.read(ONE)
        barrier.wait(10)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    barrier.wait(10)
    barrier.wait(10)
    for thread in threads:
        thread.join()
    state.close()

    with redis.Redis.from_url(server.url) as admin:
        assert len(admin.client_list()) == 1
