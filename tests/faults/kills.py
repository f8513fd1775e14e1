"""Whom to kill, and when: a moment out of a run's life that the dice choose."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import psutil

from tests.e2e.processes import eventually
from tests.faults.site import Json, Site

RUN_S = 2.2
"""From a run's lease to its end, about."""

WRITE_S = 0.6
"""From the first byte of big weights to the last, and from there to a new version."""

LEAVE_S = 12.0
"""How long what a killed supervisor started may go on."""

_AWAY_S = (1.0, 2.0)


class Blow(NamedTuple):
    """A kill that was done.

    Attributes:
        moment: of what it was, for people.
        interrupted: the job that ran, if one did.
        at: when, in seconds since the epoch.
    """

    moment: str
    interrupted: Json | None
    at: float


@dataclass(frozen=True)
class Target:
    """Something to kill.

    Attributes:
        name: in a test's name.
        what: in the results.
        kill: kills it at a moment of the dice.
        bring_back: starts it again, where that is not lsml-bento's own to do.
        may_refuse: whether requests may fail meanwhile.
        takes_worker: whether another worker is there afterwards.
        is_big: whether it takes big weights to hit it.
        needs_redis: whether there is none of it on SQLite.
    """

    name: str
    what: str
    kill: Callable[[Site, Random], Blow]
    bring_back: Callable[[Site, Random], None] = lambda site, dice: None
    may_refuse: bool = False
    takes_worker: bool = False
    is_big: bool = False
    needs_redis: bool = False


def _kill_in_a_run(
    find: Callable[[Site], psutil.Process],
) -> Callable[[Site, Random], Blow]:
    def kill(site: Site, dice: Random) -> Blow:
        eventually(lambda: site.running() is not None, lambda: "no job runs", 20)
        process = find(site)
        after_s = _slept(dice.uniform(0, RUN_S))
        interrupted, at = site.running(), time.time()
        process.kill()
        return Blow(f"{after_s:.2f} s into a run", interrupted, at)

    return kill


def _supervisor(site: Site) -> psutil.Process:
    return psutil.Process(site.server.pid)


def _redis(site: Site) -> psutil.Process:
    assert site.redis is not None
    return psutil.Process(site.redis.pid)


def _kill_fit(site: Site, dice: Random) -> Blow:
    while True:
        process = site.await_process("fit")
        after_s = _slept(dice.uniform(0, RUN_S))
        interrupted, at = site.running(), time.time()
        if _killed(process):
            return Blow(f"{after_s:.2f} s into its life", interrupted, at)


def _kill_writer(site: Site, dice: Random) -> Blow:
    begins = dice.choice(("writing", "keeping"))
    while True:
        scrap = _await_scrap(site)
        process, interrupted = site.await_process("fit"), site.running()
        while begins == "keeping" and _phase(scrap) == "writing" and _lives(process):
            time.sleep(0.002)
        after_s = _slept(dice.uniform(0, WRITE_S))
        phase, at = _phase(scrap), time.time()
        if _killed(process):
            said = f"{phase}, {after_s:.2f} s after it began {begins}"
            return Blow(said, interrupted, at)


def _await_scrap(site: Site) -> Path:
    """A directory that a run has begun to write into."""
    left = set(site.scraps())
    found: list[Path] = []

    def is_there() -> bool:
        new = set(site.scraps()) - left
        found[:] = [path for path in new if path.name.startswith("new-")]
        return bool(found)

    eventually(is_there, lambda: "nothing is written", 20)
    return found[0]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _phase(scrap: Path) -> str:
    if not scrap.exists():
        return "trying"
    return "keeping" if (scrap / "model.yaml").exists() else "writing"


def _killed(process: psutil.Process) -> bool:
    """Whether it was alive until now."""
    if not _lives(process):
        return False
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def _slept(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _start_again(site: Site, _: Random) -> None:
    """As an init system does it, once all of the old server is gone by itself."""
    site.server.wait(LEAVE_S)
    site.server.start()


def _start_redis(site: Site, dice: Random) -> None:
    assert site.redis is not None
    site.redis.kill()  # it was; this waits for the end of it
    _slept(dice.uniform(*_AWAY_S))
    site.redis.start()


TARGETS = (
    Target(
        "worker",
        "the worker",
        _kill_in_a_run(lambda site: site.await_process("worker")),
        takes_worker=True,
    ),
    Target("fit", "the process of `fit`", _kill_fit),
    Target("writer", "`fit` as it writes 30 MiB of weights", _kill_writer, is_big=True),
    Target(
        "serving",
        "the serving process, whose worker goes with it",
        _kill_in_a_run(lambda site: site.await_process("serving")),
        may_refuse=True,
        takes_worker=True,
    ),
    Target(
        "supervisor",
        "BentoML's supervisor",
        _kill_in_a_run(_supervisor),
        _start_again,
        may_refuse=True,
        takes_worker=True,
    ),
    Target(
        "redis",
        "redis-server",
        _kill_in_a_run(_redis),
        _start_redis,
        may_refuse=True,
        needs_redis=True,
    ),
)
