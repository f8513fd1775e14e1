"""What ``fit`` sets is its own until its job has succeeded."""

from __future__ import annotations

from typing import Any

import pytest

from lsml_bento.contract import Project
from lsml_bento.state.memory import MemoryState
from lsml_bento.training.trainer import OverlayState

ONE = Project("1", 100)
TWO = Project("2", 100)


@pytest.fixture
def below() -> MemoryState:
    state = MemoryState()
    state.write(ONE, {"model_version": "base", "threshold": 0.5})
    return state


def captured(below: MemoryState, version: str | None = None) -> OverlayState:
    state = OverlayState(below, ONE, version)
    state.capture()
    return state


def test_before_fit_everything_is_written_through(below: MemoryState) -> None:
    state = OverlayState(below, ONE, "v1")
    state.write(ONE, {"model_version": "base-2", "threshold": 0.6})

    assert below.read(ONE) == {"model_version": "base-2", "threshold": 0.6}
    assert state.read(ONE) == below.read(ONE), "setup() names the base, not a version"
    assert (state.values, state.named_version) == ({}, None)


def test_what_fit_sets_is_read_back_and_seen_by_nobody_else(
    below: MemoryState,
) -> None:
    state = captured(below)
    state.write(ONE, {"threshold": 0.9, "words": ["a"]})

    assert state.read(ONE) == {
        "model_version": "base",
        "threshold": 0.9,
        "words": ["a"],
    }
    assert state.values == {"threshold": 0.9, "words": ["a"]}
    assert below.read(ONE) == {"model_version": "base", "threshold": 0.5}


def test_after_fit_it_is_still_read_but_new_values_are_written(
    below: MemoryState,
) -> None:
    state = captured(below, "v1")
    state.write(ONE, {"threshold": 0.9, "model_version": "v2"})
    state.release()
    state.write(ONE, {"more": 1})

    assert state.read(ONE) == {"model_version": "base", "threshold": 0.9, "more": 1}
    assert below.read(ONE)["more"] == 1
    assert state.values == {"threshold": 0.9}


@pytest.mark.parametrize(
    ("active", "named", "seen"),
    [(None, None, "base"), ("v1", None, "v1"), ("v1", "v2", "v2"), ("v1", "", "v1")],
)
def test_in_fit_the_version_is_the_one_named_or_the_one_that_serves(
    below: MemoryState, active: str | None, named: str | None, seen: str
) -> None:
    state = captured(below, active)
    if named is not None:
        state.write(ONE, {"model_version": named})

    assert state.read(ONE)["model_version"] == seen
    assert state.named_version == (named or None)
    assert below.read(ONE)["model_version"] == "base"
    assert "model_version" not in state.values


def test_what_belongs_to_the_project_is_written_through(below: MemoryState) -> None:
    state = captured(below)
    state.write(ONE, {"label_config": "<View/>", "extra_params": {"a": 1}, "b": 2})

    assert below.read(ONE) == {
        "model_version": "base",
        "threshold": 0.5,
        "label_config": "<View/>",
        "extra_params": {"a": 1},
    }
    assert state.values == {"b": 2}


def test_other_projects_are_not_captured(below: MemoryState) -> None:
    state = captured(below, "v1")
    state.write(TWO, {"model_version": "other"})

    assert below.read(TWO) == state.read(TWO) == {"model_version": "other"}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_a_value_that_json_cannot_represent_is_refused_and_nothing_is_stored(
    below: MemoryState, value: Any
) -> None:
    state = captured(below)
    with pytest.raises(
        TypeError, match=r"set\('bad', \.\.\.\) takes values that JSON can hold"
    ):
        state.write(ONE, {"good": 1, "label_config": "<View/>", "bad": value})

    assert state.values == {}
    assert "label_config" not in below.read(ONE)


def test_changing_a_value_after_it_was_set_does_not_change_the_stored_one(
    below: MemoryState,
) -> None:
    state = captured(below)
    words = ["a"]
    state.write(ONE, {"words": words})
    words.append("b")
    state.read(ONE)["words"].append("c")

    assert state.values == {"words": ["a"]}


def test_everything_else_is_the_state_s_below(below: MemoryState) -> None:
    state = captured(below)
    state.change(lambda change: change.put("key", "value"))

    assert below.get("key") == state.get("key") == "value"
    assert state.scan("key") == below.scan("key")
    assert state.projects() == [ONE]
    state.close()
    assert below.get("key") == "value"
