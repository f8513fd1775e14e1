"""Version swaps under load, in two serving processes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

from benchmarks.learning import backends, learner
from benchmarks.learning.backends import Learning, learning
from benchmarks.learning.clients import Answer, Clients, percentile

CLIENTS = 8
PROCESSES = 2
WITHIN_S = 1.0

_CALL_S = 0.010
_WARM_S = 2.0
_TRAIN_S = 180.0

Found = dict[str, float]


@dataclass(frozen=True)
class _Swap:
    """One activation: when it was requested, and when it was answered."""

    version: str
    asked: float
    answered: float


@dataclass(frozen=True)
class _Predicted:
    """An answer of `/predict`, with its version and process."""

    answer: Answer

    @cached_property
    def _prediction(self) -> dict[str, object]:
        if not self.answer.is_good:
            return {}
        [found] = json.loads(self.answer.text)["results"]
        return found or {}

    @property
    def version(self) -> object:
        return self._prediction.get("model_version")

    @cached_property
    def process(self) -> str:
        result = self._prediction.get("result")
        return str(result[0]["value"]["text"][0]) if isinstance(result, list) else ""


def swaps(*, mib: int, times: int, every_s: float, from_base: bool) -> Found:
    """Let 8 clients predict while two versions are activated in turn.

    Args:
        mib: size of the weights.
        times: number of activations.
        every_s: seconds between activations.
        from_base: use the base, which has no weights, as one of the two versions.
    """
    env = {
        "WORKERS": str(PROCESSES),
        learner.MIB: str(mib),
        learner.CALL_S: str(_CALL_S),
        learner.POLICY: "1,0.1,0.1",
    }
    with learning(env) as backend:
        backend.set_up()
        made = [_train(backend)]
        made += [learner.BASE] if from_base else [_train(backend)]
        with Clients(
            backends.requests(64),
            backend.server.port,
            "/predict",
            clients=CLIENTS,
            processes=PROCESSES,
        ) as clients:
            time.sleep(_WARM_S)
            began = time.monotonic()
            done = []
            for number in range(times):
                done.append(_activate(backend, made[number % 2 - 1]))
                time.sleep(max(0.0, done[-1].asked + every_s - time.monotonic()))
            answers = clients.finish()
    # The first second opens connections and fills caches, so it does not count.
    predicted = [_Predicted(a) for a in answers if a.sent >= began - _WARM_S / 2]
    return _found(predicted, done, every_s)


def _train(backend: Learning) -> str:
    """Run a fit and return its version."""
    backend.train()

    def ended() -> str | None:
        newest = backend.jobs()[0]
        if newest["status"] == "failed":
            raise RuntimeError(f"the fit failed: {newest['error']}")
        return newest["version"] if newest["status"] == "succeeded" else None

    return backends.until(ended, _TRAIN_S, "a version")


def _activate(backend: Learning, version: str) -> _Swap:
    where = f"/api/projects/{backends.project().id}/versions/{quote(version)}/activate"
    asked = time.monotonic()
    backend.ask("POST", where)
    return _Swap(version, asked, time.monotonic())


def _found(predicted: Sequence[_Predicted], done: list[_Swap], every_s: float) -> Found:
    took: list[float] = []
    windows: list[tuple[float, float]] = []
    unseen = late = 0
    processes = sorted({p.process for p in predicted if p.process})
    for swap in done:
        mine = [
            p for p in predicted if swap.asked <= p.answer.sent < swap.asked + every_s
        ]
        end = swap.answered
        for process in processes:
            new = [
                p.answer.done
                for p in mine
                if (p.process, p.version) == (process, swap.version)
            ]
            if not new:
                unseen += 1
                continue
            took.append(max(0.0, min(new) - swap.answered))
            end = max(end, min(new))
        windows.append((swap.asked, end))
        late += sum(
            p.version != swap.version and p.answer.sent > swap.answered + WITHIN_S
            for p in mine
        )
    inside, outside = _apart(predicted, windows)
    failed = sum(not p.answer.is_good or not p.version for p in predicted)
    usual = percentile(outside, 0.99)
    return {
        "promotions": len(done),
        "processes": len(processes),
        "requests": len(predicted),
        "failed": failed,
        "promotions that a process never served": unseen,
        "served s, median": percentile(took, 0.5),
        "served s, at most": max(took, default=float("nan")),
        "old answers more than 1 s after": late,
        "usual p50 ms": percentile(outside, 0.5),
        "usual p99 ms": usual,
        "requests during a swap": len(inside),
        "during a swap p50 ms": percentile(inside, 0.5),
        "during a swap p99 ms": percentile(inside, 0.99),
        "during a swap max ms": max(inside, default=float("nan")),
        "p99 during a swap, of the usual": percentile(inside, 0.99) / usual,
    }


def _apart(
    predicted: Sequence[_Predicted], windows: list[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Milliseconds of the requests that overlap a window, and of the others."""
    inside: list[float] = []
    outside: list[float] = []
    for one in predicted:
        answer = one.answer
        met = any(a <= answer.done and answer.sent <= b for a, b in windows)
        (inside if met else outside).append(answer.ms)
    return inside, outside
