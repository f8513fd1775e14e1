"""What is measured on the servers."""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.common import tasks, wrk
from benchmarks.common.alone import BATCH_OF_CLIENTS, BULK
from benchmarks.common.servers import Server, ServerFailedError, serve
from benchmarks.serving.candidates import Candidate

MANY_PROJECTS = 100
MAX_MODELS = 8
SATURATING = "transformer"
"""The workload that keeps the cores busy while /health is requested."""

_LARGE = 1000
_SETTLE_S = 5
_SAMPLE_S = 5
_LIGHT_MODEL = """\
from lsml_bento import LabelStudioMLBase


class Light(LabelStudioMLBase):
    def predict(self, tasks, context=None, **kwargs):
        return [{"result": [], "score": 0.0} for _ in tasks]
"""

Found = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How long and how often a run measures; durations in seconds.

    Attributes:
        rounds: how often each server is started and measured.
        peer_extras: in how many rounds the peers are also measured on what only has a
            goal for lsml-bento.
    """

    # A p99 with 64 clients needs some hundred requests; the slowest workload has 200/s.
    rounds: int = 3
    seconds: float = 2
    alone_seconds: float = 1
    interactive_seconds: float = 4
    health_seconds: float = 2
    posts: int = 3
    starts: int = 3
    project_seconds: float = 3
    soak_s: float = 300
    peer_extras: int = 1


QUICK = Plan(
    rounds=1,
    seconds=1,
    alone_seconds=0.7,
    interactive_seconds=2,
    posts=1,
    starts=1,
    project_seconds=1,
    soak_s=0,
    peer_extras=0,
)


def first_answer(server: Server, workload: str) -> Found:
    """Seconds from the start until it is healthy, and until its first prediction.

    Call this first: a server may be healthy before it has loaded the model.
    """
    body = tasks.body(workload, range(1, 2))
    seconds, _ = wrk.post_once(f"{server.url}/predict", body)
    return {
        "start to health s": server.started_s,
        "start to first answer s": server.started_s + seconds,
    }


def clients(server: Server, workload: str, plan: Plan) -> Found:
    """Requests per second and latency with 1, 8 and 64 closed-loop clients."""
    url = f"{server.url}/predict"
    bodies = tasks.singles(workload, 256)
    # A warm-up: BentoML's batching adapts to load, and first requests import modules.
    wrk.closed_loop(url, bodies, clients=8, seconds=1)
    found: Found = {}
    for count in BATCH_OF_CLIENTS:
        seen = wrk.closed_loop(url, bodies, clients=count, seconds=plan.seconds)
        found |= {
            f"{count}-client req/s": seen.per_second,
            f"{count}-client p50 ms": seen.p50,
            f"{count}-client p99 ms": seen.p99,
            f"{count}-client failed": seen.failed,
        }
    return found


def bulk(server: Server, workload: str, plan: Plan) -> Found:
    """500 tasks in one POST.

    Raises:
        RuntimeError: if a task got another task's prediction.
    """
    ids = range(1, BULK + 1)
    body = tasks.body(workload, ids)
    seconds, answer = wrk.median_post(f"{server.url}/predict", body, plan.posts)
    wrong = tasks.problem(answer, ids)
    if wrong:
        raise RuntimeError(f"{BULK} in one POST: {wrong}")
    return {f"{BULK} in one POST tasks/s": BULK / seconds}


def interactive(server: Server, workload: str, plan: Plan, has_queue: bool) -> Found:
    """One annotator who pauses up to 30 ms, during a series of POSTs of 1,000 tasks.

    The pauses spread arrivals over the running batch. Without them each request would
    arrive just as the batch after its own starts.
    """
    url = f"{server.url}/predict"
    large = tasks.body(workload, range(1, _LARGE + 1))
    small = tasks.singles(workload, 64, interactive=True)
    seconds = plan.interactive_seconds
    with wrk.stream(url, [large], clients=1, seconds=seconds + 2) as running:
        # After this second the large POST is parsed and its first batch runs.
        wrk.closed_loop(url, small, clients=1, seconds=1)
        before = _queue_waits(server) if has_queue else {}
        seen = wrk.closed_loop(url, small, clients=1, seconds=seconds, pause_ms=30)
        after = _queue_waits(server) if has_queue else {}
        running.stop()
    found: Found = {
        "interactive in bulk p50 ms": seen.p50,
        "interactive in bulk p99 ms": seen.p99,
        "interactive in bulk failed": seen.failed,
    }
    counted = {bound: count - before[bound] for bound, count in after.items()}
    waited = _quantile(counted, 0.99)
    if waited is not None:
        # No request waits longer in the queue than its whole latency, which bounds the
        # interpolation inside a wide bucket.
        found["interactive in bulk queue p99 ms"] = min(1000 * waited, seen.p99)
    return found


def _queue_waits(server: Server) -> dict[float, float]:
    """How many interactive requests waited at most so many seconds, cumulative."""
    name = "lsml_queue_wait_seconds_bucket"
    found: dict[float, float] = {}
    for sample in server.metric(name, lane="interactive"):
        bound = float(sample.labels["le"])
        found[bound] = found.get(bound, 0) + sample.value
    return found


def _quantile(counts: dict[float, float], q: float) -> float | None:
    """The quantile of a histogram, linear inside its bucket; None if it is empty.

    Beyond the last finite bound it is infinite.
    """
    bounds = sorted(counts)
    if not bounds or counts[bounds[-1]] <= 0:
        return None
    wanted = q * counts[bounds[-1]]
    for lower, bound in pairwise([0.0, *bounds]):
        if counts[bound] >= wanted:
            below = counts.get(lower, 0.0)
            inside = (wanted - below) / max(1, counts[bound] - below)
            return lower + (bound - lower) * inside if bound < math.inf else math.inf
    return math.inf


def health(server: Server, path: str, plan: Plan) -> Found:
    """The health route, requested about every 10 ms while 64 clients predict."""
    bodies = tasks.singles(SATURATING, 256)
    url = f"{server.url}/predict"
    seconds = plan.health_seconds
    with wrk.stream(url, bodies, clients=64, seconds=seconds + 2) as running:
        wrk.closed_loop(server.url + path, [], clients=1, seconds=1)
        seen = wrk.closed_loop(
            server.url + path, [], clients=1, seconds=seconds, pause_ms=20
        )
        running.stop()
    return {"p50 ms": seen.p50, "p99 ms": seen.p99, "failed": seen.failed}


# lsml-bento alone


def start_up(env: dict[str, str], plan: Plan) -> Found:
    """Seconds from `lsml-bento start` of a light model to the first 200 of /health."""
    tool = str(Path(sys.executable).with_name("lsml-bento"))
    took = []
    with tempfile.TemporaryDirectory(prefix="lsml-bench-light-") as directory:
        Path(directory, "model.py").write_text(_LIGHT_MODEL)
        command = [tool, "start", directory, "--host", "127.0.0.1", "-p", "{port}"]
        for _ in range(plan.starts):
            with serve(command, env=env, health="/health") as server:
                took.append(server.started_s)
    return {"start s": statistics.median(took)}


def _serving_mib(server: Server) -> float:
    try:
        return server.memory()[server.serving_pid()]
    except KeyError:
        raise ServerFailedError("the server has no process left") from None


def idle_memory(server: Server) -> Found:
    """Resident memory after start-up and one request, in MiB."""
    wrk.post_once(f"{server.url}/predict", tasks.body("trivial", range(1, 2)))
    time.sleep(_SETTLE_S)
    return {
        "idle serving process MiB": _serving_mib(server),
        "idle all processes MiB": sum(server.memory().values()),
    }


def projects(ours: Candidate, env: dict[str, str], plan: Plan) -> Found:
    """One client that cycles through 1, 8 and 100 projects."""
    with ours.start("trivial", env | {"LSML_MAX_MODELS": str(MAX_MODELS)}) as server:
        _cycle(server, MAX_MODELS, 1)
        one, some = [], []
        for _ in range(plan.rounds):
            one.append(_cycle(server, 1, plan.project_seconds).p50)
            some.append(_cycle(server, MAX_MODELS, plan.project_seconds).p50)
        grown_one = _growth(server, 1, plan.project_seconds)
        many = _cycle(server, MANY_PROJECTS, plan.project_seconds)
        grown_many = _growth(server, MANY_PROJECTS, plan.project_seconds)
    first = statistics.median(one)
    return {
        "1 project p50 ms": first,
        f"{MAX_MODELS} projects p50 ms": statistics.median(some),
        f"{MANY_PROJECTS} projects p50 ms": many.p50,
        f"{MANY_PROJECTS} projects failed": many.failed,
        "remaking a model object ms": many.p50 - first,
        "1 project MiB per 1,000 requests": grown_one,
        f"{MANY_PROJECTS} projects MiB per 1,000 requests": grown_many,
    }


def _cycle(server: Server, count: int, seconds: float) -> wrk.Load:
    bodies = tasks.singles("trivial", count, projects=count)
    return wrk.closed_loop(f"{server.url}/predict", bodies, clients=1, seconds=seconds)


def _growth(server: Server, count: int, seconds: float) -> float:
    before = _serving_mib(server)
    seen = _cycle(server, count, 2 * seconds)
    return 1000 * (_serving_mib(server) - before) / seen.requests


def soak(ours: Candidate, env: dict[str, str], plan: Plan) -> tuple[Found, str]:
    """64 clients for minutes: the memory after it, and in words how it grew."""
    bodies = tasks.singles("trivial", 256)
    with ours.start("trivial", env) as server:
        idle = idle_memory(server)["idle serving process MiB"]
        curve: list[tuple[float, float]] = []
        started = time.monotonic()
        with wrk.stream(
            f"{server.url}/predict", bodies, clients=64, seconds=plan.soak_s
        ) as running:
            while running.running():
                curve.append((time.monotonic() - started, _serving_mib(server)))
                time.sleep(_SAMPLE_S)
            seen = running.finish()
        after = _serving_mib(server)
    found = {
        "idle serving process MiB": idle,
        "after load serving process MiB": after,
        "load s": seen.seconds,
        "load req/s": seen.per_second,
        "load p99 ms": seen.p99,
        "load failed": seen.failed,
    }
    grown = curve[:: max(1, len(curve) // 10)]
    shown = ", ".join(f"{mib:.0f} at {at:.0f} s" for at, mib in grown)
    return found, f"Memory of the serving process in MiB: {shown}."
