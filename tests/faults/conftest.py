"""Sites to kill processes of, rounds, dice, and where results go."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.faults.kills import TARGETS, Target
from tests.faults.site import Json, Site
from tests.faults.test_kills import Note
from tests.redis_server import RedisServer

HERE = Path(__file__).parent
STATES = ("sqlite", "redis")
ROUNDS = int(os.environ.get("LSML_FAULT_ROUNDS") or 1)
IS_SHORT = not os.environ.get("LSML_FAULT_ROUNDS")
SHORT_ON_REDIS = {"worker", "serving", "redis"}
"""Of a short run on Redis: those who hold leases, queue and connections there. What
befalls a file of weights or a child is the same on either state."""

SEED = os.environ.get("LSML_FAULT_SEED") or str(time.time_ns() % 1_000_000)
RECORD = os.environ.get("LSML_FAULT_RECORD")
"""A file that gets a line of JSON for each round, for ``tests.faults.results``."""


def pytest_report_header() -> str:
    """What repeats this run's moments."""
    return f"faults: LSML_FAULT_ROUNDS={ROUNDS} LSML_FAULT_SEED={SEED}"


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Everything in this directory kills; not every target is on every state."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.faults)
        item.add_marker(pytest.mark.timeout(180))
    gone = [item for item in ours if isinstance(item, pytest.Function)]
    gone = [item for item in gone if _is_left_out(item.callspec.params)]
    config.hook.pytest_deselected(items=gone)
    items[:] = [item for item in items if item not in gone]


def _is_left_out(params: dict[str, Any]) -> bool:
    target = params.get("target")
    if target is None:
        return False
    if params["site"] == "redis":
        return IS_SHORT and target.name not in SHORT_ON_REDIS
    is_nothing: bool = target.needs_redis  # there is no Redis to kill
    return is_nothing


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each target on each state, in rounds."""
    if "target" in metafunc.fixturenames:
        rounds = [
            pytest.param(target, number, id=f"{target.name}-{number}")
            for target in TARGETS
            for number in range(1, ROUNDS + 1)
        ]
        metafunc.parametrize(("target", "number"), rounds)
    if "site" in metafunc.fixturenames:
        metafunc.parametrize("site", STATES, indirect=True, scope="session")


@pytest.fixture(scope="session")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One that all rounds on a state use."""
    directory = tmp_path_factory.mktemp(f"faults-{request.param}")
    with ExitStack() as stack:
        redis = None
        if request.param == "redis":
            redis = stack.enter_context(RedisServer(directory / "redis"))
        found = Site(directory, redis)
        yield found
        found.close()


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> Random:
    """The same in a run with the same seed."""
    seed = f"{SEED} {request.node.name}"
    print(f"dice: {seed}")  # noqa: T201 - shown beside a failure
    return Random(seed)


@pytest.fixture
def note(request: pytest.FixtureRequest, target: Target, number: int) -> Note:
    """Keeps what a round measured."""

    def write(measured: Json) -> None:
        state = request.node.callspec.params["site"]
        found = {"state": state, "target": target.name, "round": number, **measured}
        line = json.dumps(found)
        print(line)  # noqa: T201 - shown beside a failure
        if RECORD:
            with Path(RECORD).open("a") as file:
                file.write(line + "\n")

    return write


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the server's log when a round fails."""
    report = yield
    site = getattr(item, "funcargs", {}).get("site")
    if report.failed and site is not None and site.server.log_file.exists():
        report.sections.append(("log of the server", site.server.tail()))
    return report
