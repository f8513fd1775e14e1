"""Two backends of one name and different classes do not meet unnoticed."""

from __future__ import annotations

import os

import pytest

from lsml_bento.errors import NameTaken
from lsml_bento.state.heartbeat import GONE_S, Heartbeat
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import below


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_processes_of_one_class_run_side_by_side() -> None:
    state = MemoryState()
    one, two = Heartbeat(state, "NER"), Heartbeat(state, "NER")

    one.announce()
    two.announce()

    assert len(state.scan(below("process"))) == 2
    one.leave()
    two.leave()
    assert state.scan(below("process")) == []


def test_another_class_is_refused_with_advice() -> None:
    state = MemoryState()
    Heartbeat(state, "NER").announce()

    with pytest.raises(NameTaken) as refused:
        Heartbeat(state, "Choices").announce()

    said = str(refused.value)
    assert f"process {os.getpid()} on" in said
    assert "serves the class NER" in said
    assert "this one serves Choices" in said
    assert "name=..." in said
    assert len(state.scan(below("process"))) == 1


def test_a_dead_process_does_not_block_others() -> None:
    state, clock = MemoryState(), Clock()
    Heartbeat(state, "NER", clock).announce()
    clock.now += GONE_S + 1

    Heartbeat(state, "Choices", clock).announce()

    assert len(state.scan(below("process"))) == 1


def test_a_process_with_a_heartbeat_is_alive() -> None:
    state, clock = MemoryState(), Clock()
    living = Heartbeat(state, "NER", clock)
    living.announce()
    for _ in range(4):
        clock.now += GONE_S / 2
        living.beat()

    with pytest.raises(NameTaken):
        Heartbeat(state, "Choices", clock).announce()
