"""A running backend that learns, and what Label Studio sends it."""

from __future__ import annotations

import copy
import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import REPOSITORY
from benchmarks.common.servers import SERVICE, Server, serve
from benchmarks.learning.learner import NAME
from lsml_bento.adapters.redis_state import RedisState
from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.contract import Project, parse_project
from lsml_bento.state.store import State

TARGET = "benchmarks.learning.learner:Learner"

_RECORDED = REPOSITORY / "tests/payloads/037-webhook-annotation-created-webhook.json"

Json = dict[str, Any]
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Learning:
    """A running backend.

    Attributes:
        redis_url: the Redis that holds its state; None for SQLite.
    """

    server: Server
    redis_url: str | None = None

    @property
    def home(self) -> Path:
        return self.server.home / "lsml"

    def ask(self, method: str, path: str, body: Json | None = None) -> Json:
        """Send a request and return the answer.

        Raises:
            RuntimeError: if the status is not 2xx.
        """
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.server.port, timeout=60
        )
        try:
            headers = {"Content-Type": "application/json"}
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        found: Json = json.loads(text)
        return found

    def jobs(self) -> list[Json]:
        """Its jobs, newest first."""
        found: list[Json] = self.ask("GET", "/api/jobs?limit=1000")["jobs"]
        return found

    def set_up(self) -> None:
        """Make the project's model object in the serving process."""
        body = {"project": str(project()), "label_config": recorded_config()}
        self.ask("POST", "/setup", body)

    def train(self) -> None:
        """Send what Label Studio's training button sends."""
        event = {"action": "START_TRAINING", "project": recorded()["project"]}
        self.ask("POST", "/webhook", event)

    @contextmanager
    def state(self) -> Iterator[State]:
        """Its state, opened by this process."""
        state: State
        if self.redis_url is None:
            state = SqliteState(self.home / "state.db", owner=NAME)
        else:
            state = RedisState(self.redis_url, owner=NAME)
        try:
            yield state
        finally:
            state.close()


@contextmanager
def learning(env: dict[str, str], redis_url: str | None = None) -> Iterator[Learning]:
    """Serve `Learner` until the block ends."""
    base = {
        "BENCH_TARGET": TARGET,
        "BENCH_NAME": NAME,
        "REDIS_URL": redis_url or "",
        "LABEL_STUDIO_URL": "",
        "LABEL_STUDIO_API_KEY": "",
    }
    with serve(SERVICE, env=base | env, health="/health") as server:
        yield Learning(server, redis_url)


def until(look: Callable[[], _Found | None], limit_s: float, what: str) -> _Found:
    """Call `look` until it returns something, and return that.

    Raises:
        RuntimeError: if it takes longer than limit_s.
    """
    end = time.monotonic() + limit_s
    while not (found := look()):
        if time.monotonic() > end:
            raise RuntimeError(f"No {what} within {limit_s:g} s")
        time.sleep(0.02)
    return found


@cache
def recorded() -> Json:
    """A webhook event that was recorded from Label Studio."""
    body: Json = json.loads(_RECORDED.read_text())["request"]["body"]
    return body


def project() -> Project:
    """The recorded event's project."""
    return parse_project(recorded()["project"])


def recorded_config() -> str:
    """The recorded project's label config."""
    return str(recorded()["project"]["label_config"])


def events(count: int) -> list[bytes]:
    """`ANNOTATION_CREATED` of that many annotations, ids from 1, one per task."""
    made, now = copy.deepcopy(recorded()), datetime.now(timezone.utc)
    bodies = []
    for number in range(1, count + 1):
        moment = (now + timedelta(milliseconds=number)).isoformat()
        stamps = {"created_at": moment, "updated_at": moment}
        made["annotation"].update(id=number, task=number, **stamps)
        made["task"].update(id=number, inner_id=number, **stamps)
        made["project"]["total_annotations_number"] = number
        bodies.append(json.dumps(made).encode())
    return bodies


def requests(count: int) -> list[bytes]:
    """Bodies of `/predict` for the recorded project, one task each."""
    return [
        json.dumps(
            {
                "tasks": [{"id": number, "data": {"text": "Ann works at Acme"}}],
                "project": str(project()),
                "label_config": recorded_config(),
                "params": {"login": None, "password": None, "context": None},
            }
        ).encode()
        for number in range(1, count + 1)
    ]
