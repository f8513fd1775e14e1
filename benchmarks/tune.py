"""Which batch_timeout serves LitServe best: `python -m benchmarks.tune`, by hand.

What it shows on a quiet machine goes into `arms.LITSERVE_BATCH_TIMEOUT_S`.
"""

from __future__ import annotations

import statistics

from benchmarks.common import tasks as payloads
from benchmarks.common import wrk as load
from benchmarks.common.alone import BATCH_OF_CLIENTS
from benchmarks.serving import candidates as arms
from benchmarks.serving import setup

_TIMEOUTS_S = (0.0, 0.001, 0.002, 0.005, 0.01)
_ROUNDS = 3
_SECONDS = 2


def _served(workload: str, timeout_s: float) -> list[float]:
    """Requests/s with 1, 8 and 64 clients."""
    arms.LITSERVE_BATCH_TIMEOUT_S[workload] = timeout_s
    arm = next(arm for arm in arms.ARMS if arm.name == "litserve")
    bodies = payloads.singles(workload, 256)
    with arm.start(workload, arms.environment(1)) as server:
        url = f"{server.url}/predict"
        load.closed_loop(url, bodies, clients=8, seconds=1)
        return [
            load.closed_loop(url, bodies, clients=n, seconds=_SECONDS).per_second
            for n in BATCH_OF_CLIENTS
        ]


def main() -> None:
    load.require_tools()
    setup.main()
    for workload in ("trivial", "device", "transformer"):
        seen: dict[float, list[list[float]]] = {t: [] for t in _TIMEOUTS_S}
        for _ in range(_ROUNDS):
            for timeout_s, rounds in seen.items():
                rounds.append(_served(workload, timeout_s))
        for timeout_s, rounds in seen.items():
            middle = (statistics.median(column) for column in zip(*rounds, strict=True))
            shown = ", ".join(
                f"{n} clients {value:,.0f}/s"
                for n, value in zip(BATCH_OF_CLIENTS, middle, strict=True)
            )
            print(f"{workload}, {1000 * timeout_s:g} ms: {shown}", flush=True)


if __name__ == "__main__":
    main()
