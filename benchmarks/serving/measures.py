"""What is measured on a server that serves one workload."""

from __future__ import annotations

from benchmarks import prometheus, verify
from benchmarks.common import tasks as payloads
from benchmarks.common import wrk as load
from benchmarks.common.alone import BATCH_OF_CLIENTS, BULK
from benchmarks.common.servers import Server
from benchmarks.plan import Plan

LARGE = 1000
SATURATING = "transformer"
"""What keeps the cores busy while /health is asked."""
QUEUE = "lsml_queue_wait_seconds"

Found = dict[str, float]


def first_answer(server: Server, workload: str) -> Found:
    """Seconds from the start to health, and to the first prediction.

    A server may say that it is healthy before it has loaded the model; nothing else is
    measured until it has.
    """
    body = payloads.body(workload, range(1, 2))
    seconds, _ = load.post_once(f"{server.url}/predict", body)
    return {
        "start to health s": server.started_s,
        "start to first answer s": server.started_s + seconds,
    }


def clients(server: Server, workload: str, plan: Plan) -> Found:
    """Requests/s and latency with 1, 8 and 64 closed-loop clients."""
    url = f"{server.url}/predict"
    bodies = payloads.singles(workload, 256)
    # Batching learns from what it sees, and lazy imports are paid by the first.
    load.closed_loop(url, bodies, clients=8, seconds=1)
    found: Found = {}
    for count in BATCH_OF_CLIENTS:
        seen = load.closed_loop(url, bodies, clients=count, seconds=plan.seconds)
        found |= {
            f"{count}-client req/s": seen.per_second,
            f"{count}-client p50 ms": seen.p50,
            f"{count}-client p99 ms": seen.p99,
            f"{count}-client failed": seen.failed,
        }
    return found


def bulk(server: Server, workload: str, plan: Plan) -> Found:
    """500 tasks in one POST, every answer checked.

    Raises:
        RuntimeError: if an answer is not its own task's.
    """
    ids = range(1, BULK + 1)
    body = payloads.body(workload, ids)
    seconds, answer = load.median_post(f"{server.url}/predict", body, plan.posts)
    wrong = verify.problem(answer, ids)
    if wrong:
        raise RuntimeError(f"{BULK} in one POST: {wrong}")
    return {f"{BULK} in one POST tasks/s": BULK / seconds}


def interactive(server: Server, workload: str, plan: Plan, has_queue: bool) -> Found:
    """One annotator, pausing up to 30 ms, while POSTs of 1,000 tasks follow each other.

    The pause spreads arrivals over the running batch; without it every request would
    arrive just as the batch after its own starts.
    """
    url, metrics = f"{server.url}/predict", f"{server.url}/metrics"
    large = payloads.body(workload, range(1, LARGE + 1))
    small = payloads.singles(workload, 64, interactive=True)
    seconds = plan.interactive_seconds
    with load.stream(url, [large], clients=1, seconds=seconds + 2) as running:
        # The large POST has been parsed and its first batch runs.
        load.closed_loop(f"{server.url}/predict", small, clients=1, seconds=1)
        before = _queue(metrics) if has_queue else {}
        seen = load.closed_loop(url, small, clients=1, seconds=seconds, pause_ms=30)
        after = _queue(metrics) if has_queue else {}
        running.stop()
    found: Found = {
        "interactive in bulk p50 ms": seen.p50,
        "interactive in bulk p99 ms": seen.p99,
        "interactive in bulk failed": seen.failed,
    }
    waited = prometheus.quantile(prometheus.since(before, after), 0.99)
    if waited is not None:
        # No request waits longer in the queue than in all: that bounds the guess that
        # is made inside a wide bucket.
        found["interactive in bulk queue p99 ms"] = min(1000 * waited, seen.p99)
    return found


def _queue(url: str) -> prometheus.Buckets:
    return prometheus.scrape(url, QUEUE, 'lane="interactive"')


def health(server: Server, path: str, plan: Plan) -> Found:
    """The health route, asked each 10 ms or so while 64 clients predict."""
    bodies = payloads.singles(SATURATING, 256)
    url = f"{server.url}/predict"
    seconds = plan.health_seconds
    with load.stream(url, bodies, clients=64, seconds=seconds + 2) as running:
        load.closed_loop(server.url + path, [], clients=1, seconds=1)
        seen = load.closed_loop(
            server.url + path, [], clients=1, seconds=seconds, pause_ms=20
        )
        running.stop()
    return {"p50 ms": seen.p50, "p99 ms": seen.p99, "failed": seen.failed}
