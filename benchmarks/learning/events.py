"""Webhooks while a fit uses the cores, and while the state cannot be written."""

from __future__ import annotations

import math
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.learning import backends, learner
from benchmarks.learning.backends import Learning, learning
from benchmarks.learning.clients import Answer, Clients, lateness, percentile
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from tests.redis_server import RedisServer

BURST_RATE = 200.0
LOCKED_RATE = 50.0
LOCKED_S = 3.0

_LOOK_S = 0.1
_SETTLE_S = 120.0
_BEGIN_S = 3.0
"""After this time a new fit has its low priority and the last one is promoted."""

Found = dict[str, float]


@contextmanager
def store(name: str) -> Iterator[RedisServer | None]:
    """Start a Redis if it is to hold the state; None for SQLite."""
    if name == "sqlite":
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="lsml-bench-redis-") as directory,
        RedisServer(Path(directory)) as server,
    ):
        yield server


def _url(redis: RedisServer | None) -> str | None:
    return None if redis is None else redis.url


def during_fits(name: str, *, fresh: bool, seconds: float, fit_s: float) -> Found:
    """Send 200 events per second while one fit follows another.

    Args:
        name: sqlite or redis.
        fresh: open a new connection for each event, as Label Studio does.
        seconds: how long events are sent.
        fit_s: how long a fit trains.
    """
    env = {learner.FIT_S: str(fit_s), learner.POLICY: "1,1,2"}
    bodies = backends.events(round(seconds * BURST_RATE))
    with store(name) as redis, learning(env, _url(redis)) as backend:
        backend.set_up()
        backend.train()
        backends.until(lambda: _training(backend), 90, "a fit that trains")
        with (
            Clients(
                bodies, backend.server.port, "/webhook", rate=BURST_RATE, fresh=fresh
            ) as clients,
            _Watch(backend) as watch,
        ):
            before = _cpu_s(backend)
            answers = clients.finish()
            spent = _cpu_s(backend) - before
        ended = time.monotonic()
        lost = _lost(backend, len(bodies))
        stored = time.monotonic() - ended
        near = [a for a in answers if watch.has_begun_near(a.due)]
        far = [a for a in answers if not watch.has_begun_near(a.due)]
        return {
            **_answered(answers),
            "p99 ms in the 3 s after a fit began": percentile(
                [a.ms for a in near], 0.99
            ),
            "p99 ms otherwise": percentile([a.ms for a in far], 0.99),
            "serving process CPU ms an event": 1000 * spent / len(answers),
            "answered from the spool": sum('"queued"' in a.text for a in answers),
            "lost": lost,
            "all stored after the last answer s, at most": stored,
            "running at a time": watch.most["running"],
            "waiting at a time": watch.most["queued"],
            "job samples": watch.looks,
            "job samples without a running fit": watch.looks - watch.fits,
            "fits that began": len(watch.begun),
            "fit nice": max(watch.nice, default=math.nan),
            "fit threads at work": percentile(watch.cores, 0.5),
            **lateness(answers),
        }


def while_locked(name: str, *, seconds: float) -> Found:
    """Send 50 events per second; for 3 s in the middle the state is not writable."""
    env = {learner.POLICY: "1000000,1,1000000"}
    bodies = backends.events(round((seconds + LOCKED_S) * LOCKED_RATE))
    with store(name) as redis, learning(env, _url(redis)) as backend:
        backend.set_up()
        with Clients(
            bodies, backend.server.port, "/webhook", rate=LOCKED_RATE
        ) as clients:
            time.sleep(seconds / 2)
            began = time.monotonic()
            with _locked(backend) if redis is None else _paused(redis):
                time.sleep(LOCKED_S)
            ended = time.monotonic()
            answers = clients.finish()
        lost = _lost(backend, len(bodies))
        stored = time.monotonic() - ended
        met = [a for a in answers if began <= a.due <= ended]
        others = [a for a in answers if not began <= a.due <= ended]
        return {
            **_answered(answers),
            "locked p50 ms": percentile([a.ms for a in met], 0.5),
            "unlocked p99 ms": percentile([a.ms for a in others], 0.99),
            "lost": lost,
            "out of order": _out_of_order(backend, len(bodies)),
            "all stored after the lock s, at most": stored,
            **lateness(answers),
        }


def _answered(answers: Sequence[Answer]) -> Found:
    good = [answer.ms for answer in answers if answer.is_good]
    return {
        "events": len(answers),
        "failed": len(answers) - len(good),
        "p50 ms": percentile(good, 0.5),
        "p99 ms": percentile(good, 0.99),
        "max ms": max(good, default=math.nan),
    }


def _cpu_s(backend: Learning) -> float:
    """The CPU time of the serving process."""
    times = psutil.Process(backend.server.serving_pid()).cpu_times()
    return times.user + times.system


def _training(backend: Learning) -> bool:
    """Whether a fit has reported progress, so has imported torch and trains."""
    return any(job["status"] == "running" and job["progress"] for job in backend.jobs())


def _lost(backend: Learning, sent: int) -> int:
    """How many annotations are not stored within two minutes."""
    wanted = set(range(1, sent + 1))

    def missing() -> int:
        with backend.state() as state:
            tasks = AnnotationStore(state).annotated_tasks(backends.project())
            return len(wanted - {a["id"] for t in tasks for a in t["annotations"]})

    with suppress(RuntimeError):
        backends.until(lambda: not missing(), _SETTLE_S, "every event")
    return missing()


def _out_of_order(backend: Learning, sent: int) -> int:
    """How many events are out of place in the job that gathered them all."""
    [job] = backend.jobs()
    with backend.state() as state:
        gathered = [event.annotation for event in JobStore(state).events(job["id"])]
    expected = range(1, sent + 1)
    wrong = sum(a != b for a, b in zip(gathered, expected, strict=False))
    return wrong + abs(len(gathered) - sent)


@contextmanager
def _locked(backend: Learning) -> Iterator[None]:
    """Hold the write lock of the SQLite state."""
    connection = sqlite3.connect(backend.home / "state.db", isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


@contextmanager
def _paused(redis: RedisServer) -> Iterator[None]:
    redis.pause()
    try:
        yield
    finally:
        redis.resume()


@dataclass
class _Watch:
    """Samples the jobs and the process of the running fit, in a thread.

    It reads the job store directly, as ten requests per second would add to the load.
    """

    backend: Learning
    most: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    fits: int = 0
    begun: dict[str, float] = field(default_factory=dict)
    nice: list[int] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)

    def __enter__(self) -> _Watch:
        self._over = threading.Event()
        self._failed: Exception | None = None
        self._seen: dict[int, psutil.Process] = {}
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def has_begun_near(self, moment: float) -> bool:
        """Whether a fit other than the first began in the 3 s before."""
        later = list(self.begun.values())[1:]
        return any(0 <= moment - begun < _BEGIN_S for begun in later)

    def _work(self) -> None:
        try:
            with self.backend.state() as state:
                job_store = JobStore(state)
                while not self._over.wait(_LOOK_S):
                    self._look(job_store.jobs())
                    if self.looks % 10 == 0:
                        self._look_at_fit()
        except Exception as error:  # noqa: BLE001 - raised by __exit__
            self._failed = error

    def _look(self, jobs: Sequence[Job]) -> None:
        found: Counter[str] = Counter()
        for job in jobs:
            found[job.status.value] += 1
            if job.started_at:
                self.begun.setdefault(job.id, time.monotonic())
        self.looks += 1
        self.fits += found["running"] > 0
        self.most |= found

    def _look_at_fit(self) -> None:
        for process in self.backend.server.process.children(recursive=True):
            with suppress(psutil.Error):
                if process.pid not in self._seen:
                    if "lsml-bento fit job=" not in " ".join(process.cmdline()):
                        continue
                    self._seen[process.pid] = process
                    process.cpu_percent()
                    self.nice.append(process.nice())
                else:
                    self.cores.append(self._seen[process.pid].cpu_percent() / 100)
