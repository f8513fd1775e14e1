"""One law for all states; SQLite and Redis keep it among processes."""

from __future__ import annotations

import gc
import multiprocessing
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsml_bento.adapters import redis_state
from lsml_bento.adapters.redis_state import RedisState
from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.contract import Project
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import PAGE, Change, State, resolve
from tests.states import KINDS

ONE = Project("1", 100)
TWO = Project("2", 100)
SPAWN = multiprocessing.get_context("spawn")
PATIENT_S = 30.0


class Place(NamedTuple):
    """Where a state is, for every process that opens it."""

    kind: str
    where: str = ""
    owner: str = ""

    def open(self) -> State:
        if self.kind == "memory":
            return MemoryState()
        if self.kind == "sqlite":
            return SqliteState(Path(self.where), self.owner)
        state = RedisState(self.where, self.owner)
        return state.for_events(0.5) if self.kind == "redis for events" else state


def place_of(kind: str, request: pytest.FixtureRequest) -> Place:
    if kind == "memory":
        return Place(kind)
    if kind == "sqlite":
        directory: Path = request.getfixturevalue("tmp_path")
        return Place(kind, str(directory / "home" / "state.db"), "test")
    return Place(kind, request.getfixturevalue("redis_server"), uuid.uuid4().hex)


@pytest.fixture(params=KINDS)
def state(request: pytest.FixtureRequest) -> Iterator[State]:
    made = place_of(request.param, request).open()
    yield made
    made.close()


@pytest.fixture(params=[kind for kind in KINDS if kind != "memory"])
def shared(request: pytest.FixtureRequest) -> Place:
    return place_of(request.param, request)


def put(state: State, **values: str) -> None:
    def work(change: Change) -> None:
        for key, value in values.items():
            change.put(key, value)

    state.change(work)


def increment(state: State, key: str = "count") -> int:
    def work(change: Change) -> int:
        count = int(change.get(key) or 0) + 1
        change.put(key, str(count))
        return count

    return state.change(work, PATIENT_S)


class TestEveryState:
    def test_an_unknown_project_has_no_values(self, state: State) -> None:
        assert state.read(ONE) == {}
        assert state.projects() == []

    def test_values_are_read_as_they_were_written(self, state: State) -> None:
        state.write(ONE, {"a": 1, "b": None, "c": {"d": [1.5, "é\0", True]}})

        assert state.read(ONE) == {"a": 1, "b": None, "c": {"d": [1.5, "é\0", True]}}

    def test_a_write_leaves_other_keys_alone(self, state: State) -> None:
        state.write(ONE, {"a": 1, "b": 2})
        state.write(ONE, {"b": 3, "c": 4})

        assert state.read(ONE) == {"a": 1, "b": 3, "c": 4}

    def test_projects_with_the_same_id_are_kept_apart(self, state: State) -> None:
        state.write(ONE, {"a": 1})
        state.write(Project("1", 200), {"a": 2})

        assert state.read(ONE) == {"a": 1}
        assert state.read(Project("1", 200)) == {"a": 2}

    def test_projects_are_listed_in_the_order_of_their_first_write(
        self, state: State
    ) -> None:
        for project in (TWO, ONE, Project("1", 50), TWO):
            state.write(project, {"a": 1})

        assert state.projects() == [TWO, ONE, Project("1", 50)]

    def test_changing_a_read_value_does_not_change_the_state(
        self, state: State
    ) -> None:
        given = {"list": [1]}
        state.write(ONE, given)
        given["list"].append(2)
        state.read(ONE)["list"].append(3)

        assert state.read(ONE) == {"list": [1]}

    @pytest.mark.parametrize(
        "value", [object(), {1}, b"bytes", {"a": {2}}, float, [1j]]
    )
    def test_a_value_that_is_not_json_is_refused_and_not_stored(
        self, state: State, value: object
    ) -> None:
        with pytest.raises(
            TypeError, match=r"^set\('b', \.\.\.\) takes values that JSON can"
        ):
            state.write(ONE, {"a": 1, "b": value})

        assert state.read(ONE) == {}

    def test_a_value_nested_too_deeply_for_json_is_refused(self, state: State) -> None:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]

        with pytest.raises(TypeError, match="takes values that JSON can hold"):
            state.write(ONE, {"a": value})

    def test_a_project_without_a_creation_time_is_not_stored(
        self, state: State
    ) -> None:
        for call in (
            lambda: state.read(Project("1")),
            lambda: state.write(Project("1"), {"a": 1}),
        ):
            with pytest.raises(ValueError, match="'1' has no created_at: resolve it"):
                call()

    def test_an_id_without_a_time_means_its_newest_project(self, state: State) -> None:
        for project in (Project("1", 300), ONE, Project("2", 900)):
            state.write(project, {"a": 1})

        assert resolve(Project("1"), state) == Project("1", 300)
        assert resolve(ONE, state) == ONE
        assert resolve(Project("3"), state) == Project("3", 0)


class TestKeysInOrder:
    def test_a_key_keeps_its_value_until_it_is_deleted(self, state: State) -> None:
        assert state.get("a") is None
        put(state, a="1", empty="")
        assert (state.get("a"), state.get("empty")) == ("1", "")
        put(state, a="2")
        assert state.get("a") == "2"
        state.change(lambda change: change.delete("a"))
        state.change(lambda change: change.delete("a"))  # where there is none
        assert state.get("a") is None
        assert state.scan("") == [("empty", "")]

    def test_a_scan_returns_keys_with_the_prefix_after_a_key(
        self, state: State
    ) -> None:
        put(state, **{key: key.upper() for key in ("b3", "b1", "a", "c", "b", "b2")})

        assert state.scan("b") == [("b", "B"), ("b1", "B1"), ("b2", "B2"), ("b3", "B3")]
        assert state.scan("b", "b1") == [("b2", "B2"), ("b3", "B3")]
        assert state.scan("b", "b1", 1) == [("b2", "B2")]
        assert state.scan("b", limit=0) == []
        assert state.scan("b", "b15", 9) == [("b2", "B2"), ("b3", "B3")]
        assert state.scan("b", "a") == state.scan("b")
        assert state.scan("b", "b3") == state.scan("b", "c") == state.scan("d") == []
        assert [key for key, _ in state.scan("")] == ["a", "b", "b1", "b2", "b3", "c"]

    def test_keys_sort_by_code_point_as_in_python(self, state: State) -> None:
        keys = ["", "\0", "\x1f", "A", "Z", "a", "z", "\x7f", "\x80", "é", "\ud7ff"]
        keys += ["\ue000", "\uffff", "\U00010000", "\U0010ffff", "\U0010ffff\U0010ffff"]
        put(state, **{f"k{key}": "1" for key in reversed(keys)})

        assert [key for key, _ in state.scan("k")] == [f"k{key}" for key in keys]
        assert [key for key, _ in state.scan("k\U0010ffff")] == [
            "k\U0010ffff",
            "k\U0010ffff\U0010ffff",
        ]

    def test_a_scan_of_more_than_a_page_is_complete(self, state: State) -> None:
        keys = [f"k{number:05}" for number in range(5 * PAGE + 1)]
        put(state, j="1", l="1", **dict.fromkeys(keys, "1"))

        assert [key for key, _ in state.scan("k")] == keys
        assert [key for key, _ in state.each("k")] == keys
        assert [key for key, _ in state.scan("k", keys[9], 2200)] == keys[10:2210]
        assert list(state.each("nothing")) == []

    def test_a_scan_of_exactly_two_pages_is_complete(self, state: State) -> None:
        keys = [f"k{number:05}" for number in range(2 * PAGE)]
        put(state, **dict.fromkeys(keys, "1"))

        assert [key for key, _ in state.each("k")] == keys
        assert [key for key, _ in state.scan("k")] == keys
        assert [key for key, _ in state.scan("k", limit=PAGE)] == keys[:PAGE]


class TestChange:
    def test_a_change_returns_what_its_function_returns(self, state: State) -> None:
        assert state.change(lambda change: change.get("a")) is None
        assert state.change(lambda change: 7) == 7

    def test_a_change_reads_its_own_writes_before_anybody_else_does(
        self, state: State
    ) -> None:
        put(state, a="1", b="1", d="1")

        def work(change: Change) -> None:
            change.put("a", "2")
            change.delete("b")
            change.put("c", "3")
            assert [change.get(key) for key in "abcde"] == ["2", None, "3", "1", None]
            assert change.scan("") == [("a", "2"), ("c", "3"), ("d", "1")]
            assert change.scan("", "a", 1) == [("c", "3")]
            assert change.scan("b") == []
            change.put("b", "4")
            assert change.scan("", limit=2) == [("a", "2"), ("b", "4")]

        state.change(work)

        assert state.scan("") == [("a", "2"), ("b", "4"), ("c", "3"), ("d", "1")]

    def test_a_function_that_raises_changes_nothing(self, state: State) -> None:
        put(state, a="1", b="1")

        def work(change: Change) -> None:
            change.get("a")
            change.put("a", "2")
            change.delete("b")
            change.put("c", "3")
            raise LookupError("stop")

        with pytest.raises(LookupError, match="stop"):
            state.change(work)
        assert state.scan("") == [("a", "1"), ("b", "1")]
        put(state, a="3")  # nothing is held
        assert state.get("a") == "3"

    def test_writes_are_counted(self, state: State) -> None:
        before = state.writes
        put(state, a="1")
        assert state.writes == before + 1
        state.get("a")
        state.scan("a")
        assert state.writes == before + 1

    def test_a_change_never_reads_half_of_another(self, state: State) -> None:
        put(state, a="0", b="0")

        def compare(change: Change) -> None:
            a, b = change.get("a"), change.get("b")
            if a != b:
                raise AssertionError(f"a is {a} and b is {b}")

        def write(number: int) -> None:
            for step in range(40):
                put(state, a=f"{number}.{step}", b=f"{number}.{step}")

        def read() -> None:
            for _ in range(40):
                state.change(compare, PATIENT_S)

        run_together([lambda: write(1), lambda: write(2), read, read])

    def test_many_threads_lose_no_increment(self, state: State) -> None:
        def count() -> None:
            for _ in range(25):
                increment(state)

        run_together([count] * 8)

        assert state.get("count") == "200"

    def test_many_threads_lose_no_write(self, state: State) -> None:
        def write(number: int) -> None:
            for step in range(20):
                state.write(ONE, {f"{number}": step})
                assert state.read(ONE)[f"{number}"] == step

        run_together([lambda n=n: write(n) for n in range(8)])  # type: ignore[misc]

        assert state.read(ONE) == {str(number): 19 for number in range(8)}


# All states, told the same, answer the same.

ODD = "ab(+[-\0\x1f\x7f\x80é\ud7ff\ue000\uffff\U00010000\U0010ffff"
KEYS = st.text(ODD, max_size=3)
OPERATIONS = st.one_of(
    st.tuples(st.just("get"), KEYS),
    st.tuples(
        st.just("put"),
        KEYS,
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("scan"), KEYS, KEYS, st.none() | st.integers(0, 4)),
)
CHANGES = st.lists(st.tuples(st.lists(OPERATIONS, max_size=8), st.booleans()))


class Stop(Exception):
    """What a change ends with that must leave nothing behind."""


def do(state: State, operations: list[tuple[Any, ...]], stop: bool) -> list[Any]:
    """Answers inside of a change and behind it."""

    def work(change: Change) -> list[Any]:
        answers = [getattr(change, name)(*rest) for name, *rest in operations]
        if stop:
            raise Stop
        return answers

    answers: list[Any]
    try:
        answers = state.change(work, PATIENT_S)
    except Stop:
        answers = []
    for name, *rest in operations:
        if name in ("get", "scan"):
            answers.append(getattr(state, name)(*rest))
    return [*answers, state.scan(""), list(state.each("a"))]


IN_TURN = st.lists(
    st.tuples(st.lists(OPERATIONS, max_size=8), st.booleans(), st.integers(0, 2))
)


@settings(deadline=None, max_examples=100)
@given(changes=IN_TURN)
def test_predictions_never_hide_what_another_process_wrote(
    changes: list[tuple[list[tuple[Any, ...]], bool, int]], redis_server: str
) -> None:
    """Two processes that predict what they will read, and one that reads it."""
    memory, owner = MemoryState(), uuid.uuid4().hex
    processes: list[State] = [
        RedisState(redis_server, owner).for_events(0.5),
        RedisState(redis_server, owner).for_events(0.5),
        RedisState(redis_server, owner),
    ]
    with pytest.MonkeyPatch.context() as patch:
        # A wrong prediction is followed by the next one at once.
        patch.setattr(redis_state, "CAREFUL", 0)
        try:
            for operations, stop, number in changes:
                expected = do(memory, operations, stop)
                assert do(processes[number], operations, stop) == expected
        finally:
            for process in processes:
                process.close()


@settings(deadline=None, max_examples=100)
@given(changes=CHANGES)
def test_all_states_give_the_same_answers_to_any_sequence_of_changes(
    changes: list[tuple[list[tuple[Any, ...]], bool]],
    redis_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    memory = MemoryState()
    others: list[State] = [
        SqliteState(tmp_path_factory.mktemp("state") / "state.db", "test"),
        RedisState(redis_server, uuid.uuid4().hex),
        RedisState(redis_server, uuid.uuid4().hex).for_events(0.5),
    ]
    try:
        for operations, stop in changes:
            expected = do(memory, operations, stop)
            for other in others:
                assert do(other, operations, stop) == expected, other
    finally:
        for other in others:
            other.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(value=JSON)
def test_any_json_value_is_read_unchanged(value: object) -> None:
    state = MemoryState()
    state.write(ONE, {"a": value})

    assert state.read(ONE) == {"a": value}


def run_together(calls: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _another_process(place: Place, line: Connection) -> None:
    """Carries out a command: ``("write", values)``, ``("read", None)`` or None."""
    state = place.open()
    line.send("ready")
    while (told := line.recv()) is not None:
        word, values = told
        if word == "write":
            state.write(ONE, values)
        line.send(dict(state.read(ONE)))
    state.close()


def _count(place: Place, number: int, failures: Any) -> None:
    """Opens the state at the same moment as others do, and writes to it."""
    try:
        state = place.open()
        for step in range(25):
            state.write(ONE, {f"{number}/{step}": step})
            increment(state)
        state.close()
    except Exception as error:  # noqa: BLE001 - the parent raises it
        failures.put(repr(error))


class TestManyProcesses:
    def test_another_process_reads_a_write_as_soon_as_it_returns(
        self, shared: Place
    ) -> None:
        here = shared.open()
        line, there = SPAWN.Pipe()
        process = SPAWN.Process(target=_another_process, args=(shared, there))
        process.start()
        assert line.recv() == "ready"

        for step in range(20):
            here.write(ONE, {"a": step})
            line.send(("read", None))
            assert line.recv() == {"a": step, **({"b": step - 1} if step else {})}
            line.send(("write", {"b": step}))
            assert line.recv() == {"a": step, "b": step}
            assert here.read(ONE) == {"a": step, "b": step}

        line.send(None)
        process.join(10)
        assert process.exitcode == 0
        here.close()

    def test_processes_that_start_together_lose_nothing(self, shared: Place) -> None:
        failures = SPAWN.Queue()
        processes = [
            SPAWN.Process(target=_count, args=(shared, number, failures))
            for number in range(4)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)

        assert failures.empty(), failures.get()
        state = shared.open()
        assert state.read(ONE) == {f"{n}/{s}": s for n in range(4) for s in range(25)}
        assert state.get("count") == "100"
        assert state.projects() == [ONE]
        state.close()


class TestReadingAhead:
    def test_get_returns_what_fetch_read(self, state: State) -> None:
        state.change(lambda change: change.put("a", "1"))

        def work(change: Change) -> list[str | None]:
            change.put("b", "2")
            change.fetch(["a", "b", "c", "a"])
            return [change.get(key) for key in ("a", "b", "c")]

        assert state.change(work) == ["1", "2", None]

    def test_fetched_values_are_compared_before_the_write(self, state: State) -> None:
        state.change(lambda change: change.put("count", "0"))

        def add(_: int) -> None:
            def work(change: Change) -> None:
                change.fetch(["count", "other"])
                change.put("count", str(int(change.get("count") or 0) + 1))

            state.change(work, wait_s=20)

        run_together([lambda n=n: add(n) for n in range(8)])  # type: ignore[misc]

        assert state.get("count") == "8"


def test_a_change_is_freed_without_the_garbage_collector(
    state: State,
) -> None:
    changes: list[weakref.ref[Change]] = []

    def work(change: Change) -> None:
        changes.append(weakref.ref(change))
        change.fetch(["a"])
        change.fetch_below(["b"])
        change.scan("c")
        change.put("a", "1")

    gc.disable()
    try:
        state.change(work)
        assert changes[-1]() is None
    finally:
        gc.enable()
