"""What only the service itself is asked: start-up, many projects, a long load."""

from __future__ import annotations

import shlex
import statistics
import sys
import time
from pathlib import Path

from benchmarks import heap
from benchmarks.common import tasks as payloads
from benchmarks.common import wrk as load
from benchmarks.common.servers import Server, ServerFailedError, serve
from benchmarks.plan import Plan
from benchmarks.serving.candidates import Arm

MAX_MODELS = 8
MANY_PROJECTS = 100
START = (
    f"{Path(sys.executable).with_name('lsml-bento')} start "
    f"{payloads.REPOSITORY / 'benchmarks/light'} --host 127.0.0.1 -p {{port}}"
)

_SETTLE_S = 5
_SAMPLE_S = 5

Found = dict[str, float]


def start_up(command: str, env: dict[str, str], plan: Plan) -> Found:
    """Seconds from the command to the first 200 of /health."""
    took = []
    for _ in range(plan.starts):
        with serve(shlex.split(command), env=env, health="/health") as server:
            took.append(server.started_s)
    return {"start s": statistics.median(took)}


def _serving_mib(server: Server) -> float:
    try:
        return server.memory()[server.serving_pid()]
    except KeyError:
        raise ServerFailedError("its processes are gone") from None


def idle_memory(server: Server) -> Found:
    """Resident MiB after start-up and one request, in all and where clients connect."""
    load.post_once(f"{server.url}/predict", payloads.body("trivial", range(1, 2)))
    time.sleep(_SETTLE_S)
    return {
        "idle serving process MiB": _serving_mib(server),
        "idle all processes MiB": sum(server.memory().values()),
    }


def projects(ours: Arm, env: dict[str, str], plan: Plan) -> Found:
    """One client going through 1, 8 and 100 projects in turn."""
    with ours.start("trivial", env | {"LSML_MAX_MODELS": str(MAX_MODELS)}) as server:
        _turns(server, MAX_MODELS, 1)
        one, some = [], []
        for _ in range(plan.rounds):
            one.append(_turns(server, 1, plan.project_seconds).p50)
            some.append(_turns(server, MAX_MODELS, plan.project_seconds).p50)
        grown_one = _growth(server, 1, plan.project_seconds)
        many = _turns(server, MANY_PROJECTS, plan.project_seconds)
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


def _turns(server: Server, count: int, seconds: float) -> load.Load:
    bodies = payloads.singles("trivial", count, projects=count)
    return load.closed_loop(f"{server.url}/predict", bodies, clients=1, seconds=seconds)


def _growth(server: Server, count: int, seconds: float) -> float:
    before = _serving_mib(server)
    seen = _turns(server, count, 2 * seconds)
    return 1000 * (_serving_mib(server) - before) / seen.requests


def soak(ours: Arm, env: dict[str, str], plan: Plan) -> tuple[Found, list[str]]:
    """64 clients for minutes: the memory, how it grew, and what holds it."""
    bodies = payloads.singles("trivial", 256)
    with ours.start("trivial", env) as server:
        idle = idle_memory(server)["idle serving process MiB"]
        curve: list[tuple[float, float]] = []
        started = time.monotonic()
        with load.stream(
            f"{server.url}/predict", bodies, clients=64, seconds=plan.soak_s
        ) as running:
            while running.running():
                curve.append((time.monotonic() - started, _serving_mib(server)))
                time.sleep(_SAMPLE_S)
            seen = running.finish()
        after = _serving_mib(server)
        held = heap.ask(server.serving_pid(), server.home / "heap.json")
    found = {
        "idle serving process MiB": idle,
        "after load serving process MiB": after,
        "load s": seen.seconds,
        "load req/s": seen.per_second,
        "load p99 ms": seen.p99,
        "load failed": seen.failed,
    }
    return found, _remarks(curve, held)


def _remarks(
    curve: list[tuple[float, float]], held: dict[str, float | dict[str, int]]
) -> list[str]:
    step = max(1, len(curve) // 10)
    grown = ", ".join(f"{mib:.0f} at {at:.0f} s" for at, mib in curve[::step])
    objects = held.pop("objects")
    assert isinstance(objects, dict)
    return [
        f"Serving process in MiB during the load: {grown}.",
        "After it: " + ", ".join(f"{k} {v:.0f} MiB" for k, v in held.items()) + ".",
        "Live objects made after start-up: "
        + ", ".join(f"{count:,} {name}" for name, count in objects.items())
        + ".",
    ]
