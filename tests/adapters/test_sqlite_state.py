"""Both states keep one law; SQLite keeps it among processes."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.errors import StateError
from lsml_bento.state import MemoryState, State, resolve
from lsml_bento.types import Project

ONE = Project("1", 100)
TWO = Project("2", 100)
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(params=["memory", "sqlite"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    made: State
    made = (
        MemoryState()
        if request.param == "memory"
        else SqliteState(tmp_path / "state.db", "test")
    )
    yield made
    made.close()


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

    def test_projects_of_one_id_do_not_meet(self, state: State) -> None:
        state.write(ONE, {"a": 1})
        state.write(Project("1", 200), {"a": 2})

        assert state.read(ONE) == {"a": 1}
        assert state.read(Project("1", 200)) == {"a": 2}

    def test_projects_are_known_in_the_order_they_came(self, state: State) -> None:
        for project in (TWO, ONE, Project("1", 50), TWO):
            state.write(project, {"a": 1})

        assert state.projects() == [TWO, ONE, Project("1", 50)]

    def test_what_was_read_can_be_changed_without_harm(self, state: State) -> None:
        given = {"list": [1]}
        state.write(ONE, given)
        given["list"].append(2)
        state.read(ONE)["list"].append(3)

        assert state.read(ONE) == {"list": [1]}

    @pytest.mark.parametrize(
        "value", [object(), {1}, b"bytes", {"a": {2}}, float, [1j]]
    )
    def test_what_is_not_json_is_refused_and_nothing_is_written(
        self, state: State, value: object
    ) -> None:
        with pytest.raises(TypeError, match=r"^set\('b', \.\.\) takes what JSON can"):
            state.write(ONE, {"a": 1, "b": value})

        assert state.read(ONE) == {}

    def test_a_value_deeper_than_any_json_parser_goes_is_refused(
        self, state: State
    ) -> None:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]

        with pytest.raises(TypeError, match="takes what JSON can hold"):
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

    def test_the_newest_project_of_an_id_is_meant_without_a_time(
        self, state: State
    ) -> None:
        for project in (Project("1", 300), ONE, Project("2", 900)):
            state.write(project, {"a": 1})

        assert resolve(Project("1"), state) == Project("1", 300)
        assert resolve(ONE, state) == ONE
        assert resolve(Project("3"), state) == Project("3", 0)

    def test_many_threads_lose_no_write(self, state: State) -> None:
        def write(number: int) -> None:
            for step in range(20):
                state.write(ONE, {f"{number}": step})
                assert state.read(ONE)[f"{number}"] == step

        run_together([lambda n=n: write(n) for n in range(8)])  # type: ignore[misc]

        assert state.read(ONE) == {str(number): 19 for number in range(8)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(value=JSON)
def test_all_json_comes_back_unchanged(value: object) -> None:
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


def _another_process(path: Path, line: Connection) -> None:
    """Does what it is told: ``("write", values)``, ``("read", None)`` or None."""
    state = SqliteState(path, "test")
    line.send("ready")
    while (told := line.recv()) is not None:
        word, values = told
        if word == "write":
            state.write(ONE, values)
        line.send(dict(state.read(ONE)))
    state.close()


def _count(path: Path, number: int, failures: Any) -> None:
    """Opens the file at the same moment as others do, and writes to it."""
    try:
        state = SqliteState(path, "test")
        for step in range(25):
            state.write(ONE, {f"{number}/{step}": step})
        state.close()
    except Exception as error:  # noqa: BLE001 - the parent raises it
        failures.put(repr(error))


class TestManyProcesses:
    def test_a_write_is_seen_in_another_process_as_soon_as_it_returns(
        self, tmp_path: Path
    ) -> None:
        here = SqliteState(tmp_path / "state.db", "test")
        line, there = SPAWN.Pipe()
        process = SPAWN.Process(
            target=_another_process, args=(tmp_path / "state.db", there)
        )
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

    def test_processes_that_start_together_lose_no_write(self, tmp_path: Path) -> None:
        path = tmp_path / "home" / "state.db"
        failures = SPAWN.Queue()
        processes = [
            SPAWN.Process(target=_count, args=(path, number, failures))
            for number in range(4)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)

        assert failures.empty(), failures.get()
        state = SqliteState(path, "test")
        assert state.read(ONE) == {f"{n}/{s}": s for n in range(4) for s in range(25)}
        state.close()


class TestTrouble:
    def test_a_writer_that_holds_the_file_stops_no_reader(self, tmp_path: Path) -> None:
        state = SqliteState(tmp_path / "state.db", "test", write_wait_ms=200)
        state.write(ONE, {"a": 1})
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        start = time.monotonic()
        assert state.read(ONE) == {"a": 1}
        assert state.projects() == [ONE]
        assert time.monotonic() - start < 0.5

        with pytest.raises(StateError, match="could not be written: database is lock"):
            state.write(ONE, {"a": 2})
        assert 0.2 <= time.monotonic() - start < 2
        other.execute("ROLLBACK")
        other.close()
        state.write(ONE, {"a": 2})
        assert state.read(ONE) == {"a": 2}
        state.close()

    def test_a_file_that_answers_nobody_is_an_error_within_a_second(
        self, tmp_path: Path
    ) -> None:
        state = SqliteState(tmp_path / "state.db", "test")
        state.write(ONE, {"a": 1})
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        state.close()
        other.execute("BEGIN EXCLUSIVE")

        start = time.monotonic()
        with pytest.raises(StateError, match=r"state\.db could not be read: database"):
            state.read(ONE)
        assert time.monotonic() - start < 1
        other.execute("ROLLBACK")
        other.close()
        state.close()

    def test_a_second_backend_is_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"
        SqliteState(path, "ner").close()

        with pytest.raises(StateError) as refused:
            SqliteState(path, "choices")

        assert str(refused.value) == (
            f"{tmp_path} holds the state of the backend 'ner' and this one is "
            "'choices': set LSML_HOME to a directory of its own"
        )
        assert refused.value.status == 503
        SqliteState(path, "ner").close()

    def test_a_file_that_is_no_database_is_said_to_be_none(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "state.db"
        path.write_bytes(b"This is not a database. " * 100)

        with pytest.raises(StateError) as refused:
            SqliteState(path, "test")

        assert str(refused.value) == (
            f"the state in {path} could not be opened: file is not a database; set "
            "LSML_HOME to a local directory"
        )

    def test_a_directory_that_can_not_be_made_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(StateError, match=r"could not be opened: .*; set LSML_HOME"):
            SqliteState(tmp_path / "file" / "home" / "state.db", "test")

    def test_a_directory_in_the_file_s_place_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(StateError, match="unable to open database file"):
            SqliteState(tmp_path, "test")

    def test_a_file_that_breaks_while_it_serves_is_an_error_not_a_crash(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "state.db"
        SqliteState(path, "test").close()
        other = sqlite3.connect(path)
        other.execute("DROP TABLE project_values")
        other.close()
        state = SqliteState(path, "test")  # which mends that
        assert state.read(ONE) == {}
        other = sqlite3.connect(path)
        other.execute("DROP TABLE project_values")
        other.close()

        with pytest.raises(StateError, match="could not be read: no such table"):
            state.read(ONE)
        with pytest.raises(StateError, match="could not be written: no such table"):
            state.write(ONE, {"a": 1})
        state.close()

    def test_closing_lets_go_of_the_files_of_every_thread(self, tmp_path: Path) -> None:
        state = SqliteState(tmp_path / "state.db", "test")
        state.write(ONE, {"a": 1})
        barrier = threading.Barrier(4)

        def use() -> None:
            state.read(ONE)
            barrier.wait(10)
            barrier.wait(10)

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        barrier.wait(10)
        state.close()

        assert not (tmp_path / "state.db-wal").exists()
        barrier.wait(10)
        for thread in threads:
            thread.join()
