"""The models that every server runs, independent of any server's base class."""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from contextlib import AbstractContextManager
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
    """Returns one prediction for each task, in order."""

    def predict(self, tasks: list[Task]) -> list[Prediction]: ...


def choice(task: Task, positive: bool, score: float) -> Prediction:
    """A prediction whose region holds the task's id, so that clients can check it."""
    region = {
        "id": f"t{task['id']}",
        "from_name": "sentiment",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": ["Positive" if positive else "Negative"]},
    }
    return {"result": [region], "score": score}


def sleep_until(deadline: float) -> None:
    """Wait until `time.perf_counter()` reaches the deadline, within microseconds.

    `time.sleep` returns 0.1 ms late or more, which would count as the server's cost.
    The last stretch yields the interpreter's lock, as a real device does.
    """
    remaining = deadline - time.perf_counter()
    if remaining > _SPIN_S:
        time.sleep(remaining - _SPIN_S)
    while time.perf_counter() < deadline:
        time.sleep(0)


class Trivial:
    """Does no work, so that only the server's own cost is measured."""

    def predict(self, tasks: list[Task]) -> list[Prediction]:
        return [choice(task, positive=True, score=0.9) for task in tasks]


class Device:
    """An accelerator, one call at a time: 10 ms per call plus 0.3 ms per task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def predict(self, tasks: list[Task]) -> list[Prediction]:
        with self._lock:
            started = time.perf_counter()
            answers = [choice(task, positive=True, score=0.9) for task in tasks]
            sleep_until(started + DEVICE_CALL_S + DEVICE_TASK_S * len(tasks))
        return answers


class Transformer:
    """A text classifier with 4 layers x 256 and random weights, in plain torch.

    It runs on BENCH_DEVICE where that is set, with lsml_bento's helpers for GPUs.
    """

    VOCABULARY = 8192
    WIDTH = 256
    LAYERS = 4
    HEADS = 4
    MAX_TOKENS = 64

    def __init__(self) -> None:
        # Imported here because trivial and device are measured without torch.
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
        self._device = os.environ.get("BENCH_DEVICE", "")
        if self._device:
            for part in (self._embedding, self._encoder, self._head):
                part.to(self._device)

    def predict(self, tasks: list[Task]) -> list[Prediction]:
        with self._inference():
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
        tokens = self._torch.tensor([row + [0] * (width - len(row)) for row in rows])
        if not self._device:
            return tokens
        from lsml_bento.torch import to_device  # noqa: PLC0415

        return to_device(tokens, self._device)

    def _inference(self) -> AbstractContextManager[object]:
        if not self._device:
            return self._torch.inference_mode()
        from lsml_bento.torch import inference  # noqa: PLC0415

        return inference(self._device)


class Larger(Transformer):
    """As deep and wide as BERT large, for texts of 400 words.

    24 layers x 12 x 1024^2 weights x 2 x 400 tokens = 242 GFLOP per task: a batch takes
    a large GPU about 20 ms, far longer than reading and writing its tasks.
    """

    WIDTH = 1024
    LAYERS = 24
    HEADS = 16
    MAX_TOKENS = 512


class Small(Transformer):
    """Takes the place of `Larger` in a trial run on a CPU."""

    WIDTH = 64
    LAYERS = 2
    HEADS = 2
    MAX_TOKENS = 128


class PyTorchNER:
    """The tagger of examples/pytorch_ner, called as its server calls it."""

    def __init__(self) -> None:
        from benchmarks import NER as DIRECTORY  # noqa: PLC0415
        from benchmarks.common import tasks  # noqa: PLC0415

        sys.path.append(str(DIRECTORY))
        from ner.backend import NER  # noqa: PLC0415

        self._model = NER(label_config=tasks.label_config("pytorch_ner"))
        self._model.setup()
        self._model.load(None)

    def predict(self, tasks: list[Task]) -> list[Prediction]:
        from lsml_bento import ModelResponse  # noqa: PLC0415

        answer = self._model.predict(tasks)
        if isinstance(answer, ModelResponse):
            return [dict(p) for p in answer.model_dump()["predictions"]]
        return list(answer or [])


_CLASSES: dict[str, type[Workload]] = {
    "trivial": Trivial,
    "device": Device,
    "transformer": Transformer,
    "pytorch_ner": PyTorchNER,
    "larger": Larger,
    "small": Small,
}


def make(name: str) -> Workload:
    """The workload of that name.

    Raises:
        KeyError: if there is none.
    """
    return _CLASSES[name]()


def predict_in_batches(workload: Workload, tasks: list[Task]) -> list[Prediction]:
    """Predict any number of tasks, at most BATCH per call."""
    answers: list[Prediction] = []
    for start in range(0, len(tasks), BATCH):
        answers += workload.predict(tasks[start : start + BATCH])
    return answers
