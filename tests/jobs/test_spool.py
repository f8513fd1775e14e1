"""Events in a file: in order, once, and found again when their process died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.errors import StateError
from lsml_bento.jobs.spool import Spool

Body = dict[str, Any]


class Taker:
    """Takes bodies, or refuses as a locked state does, or one that is far away."""

    def __init__(self, refuses_after: int | None = None, most: int | None = None):
        self.taken: list[Body] = []
        self.refuses_after = refuses_after
        self.most = most

    def __call__(self, bodies: list[Body]) -> None:
        if self.most is not None and len(bodies) > self.most:
            raise StateError("too slow")
        if self.refuses_after is not None:
            if self.refuses_after == 0:
                raise StateError("locked")
            self.refuses_after -= 1
        self.taken += bodies


def bodies(*numbers: int) -> list[Body]:
    return [{"action": "X", "number": number} for number in numbers]


class TestReplay:
    def test_events_come_back_in_order_and_once(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "inbox")
        assert spool.is_empty
        spool.append(bodies(1, 2))
        spool.append(bodies(3))
        assert not spool.is_empty

        take = Taker()
        spool.replay(take)
        spool.replay(take)

        assert take.taken == bodies(1, 2, 3)
        assert spool.is_empty
        spool.close()
        assert list((tmp_path / "inbox").iterdir()) == []

    def test_what_was_taken_is_not_given_again(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path)
        spool.append(bodies(*range(500)))
        take = Taker(refuses_after=1)

        spool.replay(take)
        with pytest.raises(StateError):
            spool.replay(take)
        assert len(take.taken) == 50
        spool.append(bodies(500))
        take.refuses_after = None
        while not spool.is_empty:
            spool.replay(take)

        assert take.taken == bodies(*range(501))
        spool.close()

    def test_a_state_that_is_slow_gets_fewer_at_a_time(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path)
        spool.append(bodies(*range(100)))
        take = Taker(most=3)

        for _ in range(4):
            with pytest.raises(StateError):
                spool.replay(take)
        spool.replay(take)
        assert take.taken == bodies(0, 1, 2)

        take.most = None
        while not spool.is_empty:
            spool.replay(take)
        assert take.taken == bodies(*range(100))
        spool.close()

    def test_no_file_is_created_before_it_is_needed(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "inbox")
        spool.replay(Taker())
        spool.replay_abandoned(Taker())
        spool.close()

        assert not (tmp_path / "inbox").exists()


class TestAbandonedFiles:
    def test_the_file_of_a_dead_process_is_replayed(self, tmp_path: Path) -> None:
        script = (
            "import os, signal, sys, pathlib\n"
            "from lsml_bento.jobs.spool import Spool\n"
            "spool = Spool(pathlib.Path(sys.argv[1]))\n"
            "spool.append([{'action': 'X', 'number': n} for n in (1, 2)])\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
        assert len(list(tmp_path.glob("*.jsonl"))) == 1

        take = Taker()
        spool = Spool(tmp_path)
        spool.replay_abandoned(take)

        assert take.taken == bodies(1, 2)
        assert list(tmp_path.iterdir()) == []
        spool.close()

    def test_the_file_of_a_living_process_is_left_to_it(self, tmp_path: Path) -> None:
        living, other = Spool(tmp_path), Spool(tmp_path)
        living.append(bodies(1))

        take = Taker()
        other.replay_abandoned(take)
        assert take.taken == []
        living.close()
        other.replay_abandoned(take)

        assert take.taken == bodies(1)

    def test_an_event_that_was_not_written_to_its_end_is_left_out(
        self, tmp_path: Path
    ) -> None:
        torn = b'{"action": "X", "number": 1}\n{"action": "X", "num'
        (tmp_path / "7-dead.jsonl").write_bytes(torn)

        take = Taker()
        Spool(tmp_path).replay_abandoned(take)

        assert take.taken == bodies(1)

    def test_a_file_stays_until_the_state_takes_it(self, tmp_path: Path) -> None:
        (tmp_path / "7-dead.jsonl").write_bytes(b'{"action": "X", "number": 1}\n')
        spool = Spool(tmp_path)

        with pytest.raises(StateError):
            spool.replay_abandoned(Taker(refuses_after=0))
        take = Taker()
        spool.replay_abandoned(take)

        assert take.taken == bodies(1)


class TestTrouble:
    def test_a_directory_that_cannot_be_created_is_an_error(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        spool = Spool(tmp_path / "file" / "inbox")

        with pytest.raises(StateError, match=r"neither the state nor .* accepts"):
            spool.append(bodies(1))
        assert spool.is_empty

    def test_a_full_disk_is_an_error_and_leaves_no_partial_event(
        self, tmp_path: Path
    ) -> None:
        script = (
            "import resource, signal, sys, pathlib\n"
            "from lsml_bento.errors import StateError\n"
            "from lsml_bento.jobs.spool import Spool\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "spool = Spool(pathlib.Path(sys.argv[1]))\n"
            "spool.append([{'action': 'X', 'number': 1}])\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))\n"
            "try:\n"
            "    spool.append([{'action': 'X', 'number': 2, 'text': 'x' * 1000}])\n"
            "except StateError as error:\n"
            "    print(error)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
            "spool.append([{'action': 'X', 'number': 3}])\n"
            "spool.close()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "is the disk full?" in done.stdout

        take = Taker()
        Spool(tmp_path).replay_abandoned(take)
        assert take.taken == bodies(1, 3)
