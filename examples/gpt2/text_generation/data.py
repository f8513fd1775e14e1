"""From annotations to pairs and back: pairs, splits, texts of an annotator.

All functions are pure.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """A prompt and an accepted answer.

    Attributes:
        id: of the Label Studio task, or the line number; decides the split.
    """

    id: str
    prompt: str
    answer: str


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file of ``{"prompt", "answer"}`` lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [Pair(str(n), x["prompt"], x["answer"]) for n, x in enumerate(found, 1)]


def prompt_of(task: Mapping[str, Any], value: str) -> str:
    """The prompt in ``task["data"][value]``, or ``""``."""
    found = (task.get("data") or {}).get(value)
    return "" if found is None else str(found).strip()


def task_to_pairs(task: Mapping[str, Any], from_name: str, value: str) -> list[Pair]:
    """A pair of the task's prompt and each text of its newest annotation.

    Empty if the prompt is empty or there is no answer.

    Args:
        task: ``{"id", "data", "annotations"}`` as Label Studio exports it.
        from_name: the name of the ``TextArea`` tag.
        value: the key of the prompt in ``data``.
    """
    prompt = prompt_of(task, value)
    done = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    if not prompt or not done:
        return []
    newest = max(done, key=lambda annotation: str(annotation.get("updated_at") or ""))
    texts = texts_of(newest.get("result"), from_name)
    return [Pair(str(task.get("id")), prompt, text.strip()) for text in texts]


def texts_of(result: Any, from_name: str) -> list[str]:
    """The non-empty texts of a ``TextArea`` in a list of regions."""
    texts: list[Any] = []
    for region in result if isinstance(result, list) else ():
        if isinstance(region, Mapping) and region.get("from_name") == from_name:
            value = region.get("value")
            found = value.get("text") if isinstance(value, Mapping) else None
            texts += found if isinstance(found, list) else [found]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def typed_texts(context: Any, from_name: str) -> list[str]:
    """The texts that an annotator has typed into a ``TextArea`` so far.

    Args:
        context: of ``predict``.
        from_name: the name of the ``TextArea`` tag.
    """
    result = context.get("result") if isinstance(context, Mapping) else None
    return texts_of(result, from_name)


def region(texts: list[str], from_name: str, to_name: str) -> dict[str, Any]:
    """All texts of a ``TextArea`` as a region of Label Studio."""
    return {
        "id": f"{from_name}-text",
        "from_name": from_name,
        "to_name": to_name,
        "type": "textarea",
        "value": {"text": texts},
    }


def pair_to_annotated_task(
    pair: Pair, from_name: str, to_name: str, value: str = "prompt"
) -> dict[str, Any]:
    """A task with one annotation, as ``annotated_tasks`` returns it."""
    result = [region([pair.answer], from_name, to_name)]
    annotation = {"id": pair.id, "result": result, "was_cancelled": False}
    return {
        "id": pair.id,
        "data": {value: pair.prompt},
        "annotations": [annotation],
    }


def split(
    pairs: Iterable[Pair], held_out_percent: int = 20
) -> tuple[list[Pair], list[Pair]]:
    """(train, held out) by a hash of the id, so that a task never changes sides.

    If all are on one side, all are trained on. A held-out prompt is never trained on,
    even if another task has the same prompt.
    """
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        is_held_out = zlib.crc32(pair.id.encode()) % 100 < held_out_percent
        sides[is_held_out].append(pair)
    hidden = {pair.prompt for pair in sides[1]}
    train = [pair for pair in sides[0] if pair.prompt not in hidden]
    return (train, sides[1]) if train else ([*sides[0], *sides[1]], [])
