"""SQLite when its file is locked, broken, another backend's, or none at all."""

from __future__ import annotations

import gc
import shutil
import sqlite3
import threading
import time
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from lsml_bento.adapters import sqlite_state
from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.contract import Project
from lsml_bento.errors import StateError
from lsml_bento.state.store import Change
from tests.fits import eventually

ONE = Project("1", 100)


PAGE = "x" * 4096


def put_a(change: Change) -> None:
    change.put("a", "2")


class TestTrouble:
    def test_a_writer_does_not_block_readers(self, tmp_path: Path) -> None:
        state = SqliteState(tmp_path / "state.db", "test")
        state.write(ONE, {"a": 1})
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        start = time.monotonic()
        assert state.read(ONE) == {"a": 1}
        assert state.projects() == [ONE]
        assert time.monotonic() - start < 0.5

        with pytest.raises(StateError, match="could not be written: database is lock"):
            state.change(put_a, 0.2)
        assert 0.2 <= time.monotonic() - start < 2
        other.execute("ROLLBACK")
        other.close()
        state.write(ONE, {"a": 2})
        assert state.read(ONE) == {"a": 2}
        state.close()

    def test_a_locked_file_is_an_error_within_a_second(self, tmp_path: Path) -> None:
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
            f"{tmp_path} holds the state of the backend 'ner', and this one is "
            "'choices': set LSML_HOME to another directory"
        )
        assert refused.value.status == 503
        SqliteState(path, "ner").close()

    def test_a_thread_that_ends_closes_its_connection(self, tmp_path: Path) -> None:
        state = SqliteState(tmp_path / "state.db", "test")
        # Python 3.13 warns of a connection that ends without being closed.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            thread = threading.Thread(target=state.read, args=(ONE,))
            thread.start()
            thread.join()
            gc.collect()
        state.close()

        assert [str(warning.message) for warning in caught] == []

    def test_a_file_that_is_not_a_database_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"
        path.write_bytes(b"This is not a database. " * 100)

        with pytest.raises(StateError) as refused:
            SqliteState(path, "test")

        assert str(refused.value) == (
            f"the state in {path} could not be opened: file is not a database; set "
            "LSML_HOME to a local directory"
        )

    def test_a_directory_that_cannot_be_created_is_an_error(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(StateError, match=r"could not be opened: .*; set LSML_HOME"):
            SqliteState(tmp_path / "file" / "home" / "state.db", "test")

    def test_a_directory_in_place_of_the_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(StateError, match="unable to open database file"):
            SqliteState(tmp_path, "test")

    def test_a_file_that_is_damaged_while_open_is_an_error(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "state.db"
        SqliteState(path, "test").close()
        other = sqlite3.connect(path)
        other.execute("DROP TABLE entries")
        other.close()
        state = SqliteState(path, "test")  # which mends that
        assert state.read(ONE) == {}
        other = sqlite3.connect(path)
        other.execute("DROP TABLE entries")
        other.close()

        with pytest.raises(StateError, match="could not be read: no such table"):
            state.read(ONE)
        with pytest.raises(StateError, match="could not be written: no such table"):
            state.write(ONE, {"a": 1})
        state.close()

    def test_closing_closes_the_files_of_every_thread(self, tmp_path: Path) -> None:
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


class TestCheckpoints:
    """What is in the database file alone has been copied from SQLite's log."""

    def copied(self, path: Path) -> int:
        alone = path.parent / "alone.db"
        shutil.copy(path, alone)
        with closing(sqlite3.connect(alone)) as connection:
            if not connection.execute("SELECT * FROM sqlite_master").fetchall():
                return 0
            [[count]] = connection.execute("SELECT count(*) FROM entries")
        return int(count)

    def test_writes_are_checkpointed_into_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"
        state = SqliteState(path, "test")
        state.change(put_a)
        assert self.copied(path) == 0

        eventually(lambda: self.copied(path) == 1)
        state.close()

    def test_changes_do_not_checkpoint(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"
        state = SqliteState(path, "test")

        def put_pages(change: Change) -> None:
            for number in range(1_500):
                change.put(str(number), PAGE)

        before = threading.active_count()
        state.change(put_pages)

        assert self.copied(path) == 0
        assert threading.active_count() == before + 1
        state.close()
        assert self.copied(path) == 1_500
        assert threading.active_count() == before

    def test_a_process_that_ends_leaves_no_pending_checkpoint(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "state.db"
        other = SqliteState(path, "test")  # or SQLite copies it with the last one
        state = SqliteState(path, "test")
        state.change(put_a)

        state.close()

        assert self.copied(path) == 1
        other.close()

    def test_constant_writes_do_not_make_the_log_grow_without_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_state, "_CHECKPOINT_EVERY_S", 0.05)
        monkeypatch.setattr(sqlite_state, "_LONG_LOG", 100)
        path = tmp_path / "state.db"
        state = SqliteState(path, "test")
        written = 0

        end = time.monotonic() + 3
        while time.monotonic() < end:
            state.change(lambda change: change.put("a", PAGE))
            written += len(PAGE)

        assert (tmp_path / "state.db-wal").stat().st_size < written / 2
        state.close()
