"""Every state that tests run on, under one name each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsml_bento.adapters.redis_state import RedisState
from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import State

KINDS = ("memory", "sqlite", "redis", "redis for events")

RULE_KINDS = ("memory", "redis")
"""For tests of one rule after the other.

They need no more: ``tests/state`` shows that every state answers alike, and the laws
run on all of them.
"""

on_every_state = pytest.mark.parametrize("state", KINDS, indirect=True)
"""For tests in which threads write at the same time."""


def open_state(kind: str, tmp_path: Path, redis_url: str = "") -> State:
    """A new, empty state; ``redis_url`` is that of the fixture ``redis_server``."""
    if kind == "memory":
        return MemoryState()
    if kind == "sqlite":
        return SqliteState(tmp_path / f"{uuid.uuid4().hex}.db", "test")
    state = RedisState(redis_url, uuid.uuid4().hex)
    return state.for_events(0.5) if kind == "redis for events" else state


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """What ``open_state`` needs beside a directory; starts a Redis if it must."""
    return request.getfixturevalue("redis_server") if "redis" in kind else ""


def each_state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    """A fixture: ``state = pytest.fixture(params=RULE_KINDS)(each_state)``."""
    made = open_state(request.param, tmp_path, url_of(request.param, request))
    yield made
    made.close()
