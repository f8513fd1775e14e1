"""The tasks that every benchmark sends, and checks that each gets its own prediction.

Bodies of `/predict` are made from one that Label Studio was recorded to send. Answers
are checked before the clock runs, so that checking costs no measured time.
"""

from __future__ import annotations

import copy
import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from benchmarks import NER, REPOSITORY

_RECORDED = REPOSITORY / "tests/payloads/013-open-task-predict.json"
_NER_CONFIG = NER / "label_config.xml"
_CREATED_AT = 1795426489

_STORY = (
    "Maria Jensen of Northwind Traders met the mayor of Lisbon on Tuesday to sign "
    "the contract that the Harbour Authority had prepared since early spring while "
    "Dr Okafor stayed in Nairobi and reviewed what Acme Robotics had sent him about "
    "the bridge near Porto and the ferry to Oslo"
)
_WORDS = _STORY.split()
_LONG = {"larger": 400, "small": 100}
"""Words per text, for the workloads whose texts all have the same length."""

_CLIENTS = 16
_REQUESTS = 10


@cache
def _recorded() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(_RECORDED.read_text())["request"]["body"]
    return body


def label_config(workload: str) -> str:
    """The label config that the workload's predictions fit."""
    if workload == "pytorch_ner":
        return _NER_CONFIG.read_text()
    return str(_recorded()["label_config"])


def text(task_id: int, workload: str = "") -> str:
    """A text of 6 to 17 words, or of the workload's length; fixed for each id."""
    start, length = task_id * 7, _LONG.get(workload) or 6 + task_id * 5 % 12
    words = (_WORDS[i % len(_WORDS)] for i in range(start, start + length))
    return " ".join(words) + "."


def task(task_id: int, workload: str = "") -> dict[str, Any]:
    """A task in the recorded shape, with its own id and text."""
    made: dict[str, Any] = copy.deepcopy(_recorded()["tasks"][0])
    data = {"text": text(task_id, workload)}
    made.update(id=task_id, inner_id=task_id, data=data)
    return made


def body(
    workload: str, task_ids: range, *, project: int = 1, interactive: bool = False
) -> bytes:
    """A `/predict` body; an interactive one has a context, as the editor sends."""
    region = {
        "id": "r1",
        "from_name": "label",
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
        "value": {"start": 0, "end": 5, "text": "Maria", "labels": ["PER"]},
    }
    made = {
        "tasks": [task(task_id, workload) for task_id in task_ids],
        "project": f"{project}.{_CREATED_AT}",
        "label_config": label_config(workload),
        "params": {
            "login": None,
            "password": None,
            "context": {"result": [region]} if interactive else None,
        },
    }
    return json.dumps(made).encode()


def singles(
    workload: str, count: int, *, projects: int = 1, interactive: bool = False
) -> list[bytes]:
    """Bodies with one task each, ids from 1, cycling through the projects."""
    return [
        body(
            workload,
            range(i + 1, i + 2),
            project=1 + i % projects,
            interactive=interactive,
        )
        for i in range(count)
    ]


# Checks


def slots(answer: bytes) -> list[Any]:
    """The predictions in a `/predict` answer, under `results` or as a plain list."""
    found = json.loads(answer)
    return list(found["results"] if isinstance(found, dict) else found)


def problem(answer: bytes, task_ids: range) -> str | None:
    """What is wrong with an answer to these tasks; None if it is right."""
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
    """Whether a region holds the task's id or quotes the task's text."""
    value = region["value"]
    if "start" not in value:
        return bool(region["id"] == f"t{task_id}")
    quoted = text(task_id)[value["start"] : value["end"]]
    return bool(quoted == value.get("text", quoted))


def far_score(
    scores: Sequence[float], wanted: Sequence[float], within: float
) -> str | None:
    """The first task whose score is not near the wanted one; None if all are near."""
    for task_id, (score, near) in enumerate(zip(scores, wanted, strict=True), 1):
        if not abs(score - near) < within:  # NaN compares false
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
    """What is wrong with the answers to 16 concurrent clients; empty if nothing."""
    numbered = list(enumerate(singles(workload, _CLIENTS * _REQUESTS), 1))
    shares = [numbered[i::_CLIENTS] for i in range(_CLIENTS)]
    with ThreadPoolExecutor(_CLIENTS) as pool:
        found = pool.map(lambda share: _client(port, share), shares)
    return [problem for problems in found for problem in problems]
