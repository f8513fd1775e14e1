"""Bodies of `/predict` as Label Studio sends them, made from a recorded one."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_RECORDED = REPOSITORY / "tests/payloads/013-open-task-predict.json"
_NER_CONFIG = REPOSITORY / "examples/pytorch_ner/label_config.xml"
_CREATED_AT = 1795426489

_STORY = (
    "Maria Jensen of Northwind Traders met the mayor of Lisbon on Tuesday to sign "
    "the contract that the Harbour Authority had prepared since early spring while "
    "Dr Okafor stayed in Nairobi and reviewed what Acme Robotics had sent him about "
    "the bridge near Porto and the ferry to Oslo"
)
_WORDS = _STORY.split()
_LONG = {"larger": 400, "small": 100}
"""Words in a text, of the workloads whose texts are all of one length."""


@cache
def _recorded() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(_RECORDED.read_text())["request"]["body"]
    return body


def label_config(workload: str) -> str:
    """The label config that the workload's answers fit."""
    if workload == "pytorch_ner":
        return _NER_CONFIG.read_text()
    return str(_recorded()["label_config"])


def text(task_id: int, workload: str = "") -> str:
    """A text of 6 to 17 words, or the workload's; the same for the same id."""
    start, length = task_id * 7, _LONG.get(workload) or 6 + task_id * 5 % 12
    words = (_WORDS[i % len(_WORDS)] for i in range(start, start + length))
    return " ".join(words) + "."


def task(task_id: int, workload: str = "") -> dict[str, Any]:
    """One task in the recorded shape with its own id and text."""
    made: dict[str, Any] = copy.deepcopy(_recorded()["tasks"][0])
    data = {"text": text(task_id, workload)}
    made.update(id=task_id, inner_id=task_id, data=data)
    return made


def body(
    workload: str, task_ids: range, *, project: int = 1, interactive: bool = False
) -> bytes:
    """One `/predict` body; an interactive one has a context, as from the editor."""
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
    """Bodies of one task each, ids from 1, going through the projects in turn."""
    return [
        body(
            workload,
            range(i + 1, i + 2),
            project=1 + i % projects,
            interactive=interactive,
        )
        for i in range(count)
    ]
