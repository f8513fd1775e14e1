"""Every answer is its own task's: read before the clock runs, not while it does."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.common import tasks as payloads

_CLIENTS = 16
_REQUESTS = 10


def slots(answer: bytes) -> list[Any]:
    """The predictions of a `/predict` answer, in the contract's shape or as a list."""
    found = json.loads(answer)
    return list(found["results"] if isinstance(found, dict) else found)


def problem(answer: bytes, task_ids: range) -> str | None:
    """What is wrong with an answer for these tasks; None if nothing is."""
    got = slots(answer)
    if len(got) != len(task_ids):
        return f"{len(got)} answers for {len(task_ids)} tasks"
    for task_id, slot in zip(task_ids, got, strict=True):
        if not isinstance(slot, dict):
            return f"task {task_id}: {slot!r}"
        for region in slot["result"]:
            if not _belongs(region, task_id):
                return f"task {task_id} got {json.dumps(region)[:200]}"
    return None


def _belongs(region: dict[str, Any], task_id: int) -> bool:
    """Whether a region names the task, or quotes the task's own text."""
    value = region["value"]
    if "start" not in value:
        return bool(region["id"] == f"t{task_id}")
    quoted = payloads.text(task_id)[value["start"] : value["end"]]
    return bool(quoted == value.get("text", quoted))


def far_score(
    scores: Sequence[float], wanted: Sequence[float], within: float
) -> str | None:
    """Which of the tasks from 1 on has another score than wanted; None if none has."""
    for task_id, (score, near) in enumerate(zip(scores, wanted, strict=True), 1):
        if not abs(score - near) < within:  # what is not a number is near to nothing
            return f"task {task_id} has the score {score}, not {near} +- {within}"
    return None


def _client(port: int, bodies: list[tuple[int, bytes]]) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    problems: list[str] = []
    try:
        for task_id, body in bodies:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/predict", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                problems.append(f"task {task_id}: {answer.status} {text[:200]!r}")
                continue
            found = problem(text, range(task_id, task_id + 1))
            if found:
                problems.append(found)
    finally:
        connection.close()
    return problems


def concurrent(port: int, workload: str) -> list[str]:
    """What is wrong with answers to many clients at a time; empty if nothing is."""
    numbered = list(enumerate(payloads.singles(workload, _CLIENTS * _REQUESTS), 1))
    shares = [numbered[i::_CLIENTS] for i in range(_CLIENTS)]
    with ThreadPoolExecutor(_CLIENTS) as pool:
        found = pool.map(lambda share: _client(port, share), shares)
    return [problem for problems in found for problem in problems]
