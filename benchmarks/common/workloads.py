"""The models that every arm serves, free of any server's base class."""

from __future__ import annotations

import os
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Task = dict[str, Any]
Prediction = dict[str, Any]

NAMES = ("trivial", "device", "transformer", "pytorch_ner")
BATCH = 32
DEVICE_CALL_S = 0.010
DEVICE_TASK_S = 0.0003

_SPIN_S = 0.0005


class Workload(Protocol):
    """What a server calls: one prediction for each task, in order."""

    def predict(self, tasks: list[Task]) -> list[Prediction]: ...


def choice(task: Task, positive: bool, score: float) -> Prediction:
    """A prediction whose region carries the task's id, so clients can check it."""
    region = {
        "id": f"t{task['id']}",
        "from_name": "sentiment",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": ["Positive" if positive else "Negative"]},
    }
    return {"result": [region], "score": score}


def sleep_until(deadline: float) -> None:
    """Wait for `time.perf_counter()` to reach deadline, to some microseconds.

    `time.sleep` wakes 0.1 ms late or more, which would count as the server's cost.
    The last stretch yields instead: a device does not hold the interpreter's lock.
    """
    remaining = deadline - time.perf_counter()
    if remaining > _SPIN_S:
        time.sleep(remaining - _SPIN_S)
    while time.perf_counter() < deadline:
        time.sleep(0)


class Trivial:
    """No work at all: what remains is the server's own cost."""

    def predict(self, tasks: list[Task]) -> list[Prediction]:
        return [choice(task, positive=True, score=0.9) for task in tasks]


class Device:
    """Like an accelerator: 10 ms a call and 0.3 ms a task, one call at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def predict(self, tasks: list[Task]) -> list[Prediction]:
        with self._lock:
            started = time.perf_counter()
            answers = [choice(task, positive=True, score=0.9) for task in tasks]
            sleep_until(started + DEVICE_CALL_S + DEVICE_TASK_S * len(tasks))
        return answers


class Transformer:
    """A text classifier of 4 layers x 256 with random weights, in plain torch."""

    VOCABULARY = 8192
    WIDTH = 256
    LAYERS = 4
    HEADS = 4
    MAX_TOKENS = 64

    def __init__(self) -> None:
        # Here and not above: trivial and device are measured without torch.
        import torch  # noqa: PLC0415
        from torch import nn  # noqa: PLC0415

        torch.set_num_threads(int(os.environ.get("BENCH_TORCH_THREADS", "1")))
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(
            self.WIDTH, self.HEADS, dim_feedforward=4 * self.WIDTH, batch_first=True
        )
        self._torch = torch
        self._embedding = nn.Embedding(self.VOCABULARY, self.WIDTH, padding_idx=0)
        self._encoder = nn.TransformerEncoder(
            layer, self.LAYERS, enable_nested_tensor=False
        ).eval()
        self._head = nn.Linear(self.WIDTH, 2)

    def predict(self, tasks: list[Task]) -> list[Prediction]:
        with self._torch.inference_mode():
            tokens = self._tokens(tasks)  # (B, T)
            padding = tokens == 0  # (B, T)
            hidden = self._encoder(
                self._embedding(tokens), src_key_padding_mask=padding
            )  # (B, T, WIDTH)
            weights = (~padding).unsqueeze(-1).float()  # (B, T, 1)
            pooled = (hidden * weights).sum(1) / weights.sum(1)  # (B, WIDTH)
            scores = self._head(pooled).softmax(-1)[:, 1].tolist()  # (B,)
        return [
            choice(task, positive=score > 0.5, score=score)
            for task, score in zip(tasks, scores, strict=True)
        ]

    def _tokens(self, tasks: list[Task]) -> Tensor:
        rows = [
            [
                1 + zlib.crc32(word.encode()) % (self.VOCABULARY - 1)
                for word in str(task["data"]["text"]).split()[: self.MAX_TOKENS]
            ]
            or [1]
            for task in tasks
        ]
        width = max(map(len, rows))
        return self._torch.tensor([row + [0] * (width - len(row)) for row in rows])


class PyTorchNER:
    """The tagger of examples/pytorch_ner, called the way its server calls it."""

    def __init__(self) -> None:
        from benchmarks.common import tasks as payloads  # noqa: PLC0415
        from examples.pytorch_ner.backend import NER  # noqa: PLC0415

        self._model = NER(label_config=payloads.label_config("pytorch_ner"))
        self._model.setup()
        self._model.load(None)

    def predict(self, tasks: list[Task]) -> list[Prediction]:
        from lsml_bento import ModelResponse  # noqa: PLC0415

        answer = self._model.predict(tasks)
        if isinstance(answer, ModelResponse):
            return [dict(p) for p in answer.model_dump()["predictions"]]
        return list(answer or [])


def make(name: str) -> Workload:
    """The workload of that name.

    Raises:
        ValueError: for a name that is not one of NAMES.
    """
    if name == "trivial":
        return Trivial()
    if name == "device":
        return Device()
    if name == "transformer":
        return Transformer()
    if name == "pytorch_ner":
        return PyTorchNER()
    raise ValueError(f"Workload '{name}' is unknown. Available: {', '.join(NAMES)}")


def predict_in_batches(workload: Workload, tasks: list[Task]) -> list[Prediction]:
    """Predict any number of tasks, at most BATCH a call."""
    answers: list[Prediction] = []
    for start in range(0, len(tasks), BATCH):
        answers += workload.predict(tasks[start : start + BATCH])
    return answers
