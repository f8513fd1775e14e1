"""Lists of thousands of jobs and versions, over HTTP and on the command line."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import REPOSITORY
from benchmarks.learning import backends
from benchmarks.learning.backends import TARGET, Learning, learning
from benchmarks.learning.clients import Clients, percentile
from benchmarks.learning.learner import NAME
from lsml_bento.jobs.events import parse_event
from lsml_bento.jobs.job import gather
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.training_policy import TrainingRules
from lsml_bento.versions.registry import Version, promote

JOBS = 10_000
VERSIONS = 1_000

_COMMAND = str(Path(sys.executable).with_name("lsml-bento"))
_TIMES = 5
_LOG = [f"epoch {number}: loss 0.{number:03d}" for number in range(200)]

_SOURCES = {
    "model.py": "from lsml_bento import LabelStudioMLBase\n\n\n"
    "class Learner(LabelStudioMLBase):\n    pass\n",
    "service.py": "from lsml_bento import create_service\n\n"
    f'svc = create_service("{TARGET}", name="{NAME}")\n',
}
DIRECTORIES = {"plain": "model.py", "own service": "service.py"}
"""With a `service.py`, commands must read the name of the backend from it."""

Found = dict[str, float]


def listings(*, jobs: int = JOBS, versions: int = VERSIONS) -> Found:
    """Measure how long it takes to list all jobs and versions of one project."""
    env = {
        "LSML_WORKER": "external",
        "LSML_KEEP_JOBS": str(2 * JOBS),
        "LSML_KEEP_VERSIONS": str(2 * VERSIONS),
    }
    with learning(env) as backend:
        backend.set_up()
        _fill(backend, jobs, versions)
        all_jobs = f"/api/jobs?limit={jobs}"
        of_project = f"/api/projects/{backends.project().id}/versions"
        found = {
            "GET jobs s": _median(partial(_get, backend, all_jobs, "jobs", jobs)),
            "GET versions s": _median(
                partial(_get, backend, of_project, "versions", versions + 1)
            ),
            **_events_meanwhile(backend, all_jobs),
        }
        for name, file in DIRECTORIES.items():
            directory = backend.home / name
            directory.mkdir()
            (directory / file).write_text(_SOURCES[file])
            place = ("--dir", str(directory))
            for noun, more in (("jobs", ("--limit", str(jobs))), ("versions", ())):
                command = (_COMMAND, noun, "list", *more, *place)
                listed = f"{noun} list, {name},"
                found |= {
                    f"{listed} s": _median(partial(_run, backend, *command)),
                    f"{listed} as JSON s": _median(
                        partial(_run, backend, *command, "--json")
                    ),
                }
        return found


def _fill(backend: Learning, jobs: int, versions: int) -> None:
    """Store finished jobs; the newest have a version each."""
    rules = TrainingRules(each_event=True)
    project = backends.project()
    made = [parse_event(backends.recorded()).for_project(project)] * jobs
    with backend.state() as state:
        job_store = JobStore(state)
        state.change(
            lambda change: [gather(change, e, [3], rules, time.time()) for e in made]
        )
        for number in range(jobs):
            lease = job_store.lease("bench")
            assert lease is not None, "a queued job is due"
            if number < jobs - versions:
                job_store.fail(lease, "no weights were written")
                continue
            job_store.renew(lease, log_tail=_LOG)
            version = Version(
                version=f"20261124t{number:06d}-{number:06x}",
                created_at=time.time(),
                tag=f"bench-learning-2:{number:06d}",
                manifest={"weights.bin": (1 << 20, "0" * 64)},
                metrics={"f1": number / jobs},
                job=lease.job.id,
                label_config=backends.recorded_config(),
            )
            promoted = partial(promote, project=project, version=version)
            job_store.succeed(lease, version.version, version.metrics, also=promoted)


def _get(backend: Learning, path: str, key: str, count: int) -> None:
    found = backend.ask("GET", path)[key]
    assert len(found) == count, f"{path} listed {len(found)} of {count}"


def _events_meanwhile(backend: Learning, path: str) -> Found:
    """Send events while all jobs are listed repeatedly."""
    bodies = backends.events(150)
    with Clients(bodies, backend.server.port, "/webhook", rate=50) as clients:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            backend.ask("GET", path)
        answers = clients.finish()
    return {
        "events meanwhile failed": sum(not answer.is_good for answer in answers),
        "events meanwhile p50 ms": percentile([a.ms for a in answers], 0.5),
        "events meanwhile p99 ms": percentile([a.ms for a in answers], 0.99),
    }


def _run(backend: Learning, *command: str) -> None:
    env = os.environ | {"LSML_HOME": str(backend.home)}
    # An installed package has compiled modules; here the first command writes them.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        command, capture_output=True, cwd=REPOSITORY, env=env, timeout=60
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-300:]}")


def _median(work: Callable[[], None]) -> float:
    took = []
    for _ in range(_TIMES):
        start = time.monotonic()
        work()
        took.append(time.monotonic() - start)
    return statistics.median(took)
