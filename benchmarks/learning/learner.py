"""The model class of the learning benchmark; the environment sets its load."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.common import workloads
from lsml_bento import LabelStudioMLBase, TrainingPolicy

NAME = "learner"
"""The name of the backend."""

FIT_S = "BENCH_FIT_S"
"""How many seconds `fit` trains, on all threads that it gets."""
MIB = "BENCH_MIB"
"""The size of a version's weights in MiB."""
CALL_S = "BENCH_CALL_S"
"""How many seconds a call of `predict` takes; calls run one at a time."""
POLICY = "BENCH_POLICY"
"""min_new_annotations, quiet_s and max_wait_s, separated by commas."""

BASE = "base-0"
_FILE = "weights.bin"
_PIECE = 1 << 20


def _policy() -> TrainingPolicy:
    least, quiet_s, max_wait_s = os.environ.get(POLICY, "1,0.1,0.1").split(",")
    return TrainingPolicy(int(least), float(quiet_s), float(max_wait_s))


class Learner(LabelStudioMLBase):
    """Each prediction holds the pid of the process that made it."""

    training = _policy()

    def setup(self) -> None:
        self.set("model_version", BASE)

    def load(self, weights: Path | None) -> None:
        self.call_s = float(os.environ.get(CALL_S, "0"))
        self.device = threading.Lock()
        # This releases the interpreter's lock, as safetensors and torch do. A bytearray
        # would first be filled with zeros under the lock.
        self.weights = b"" if weights is None else (weights / _FILE).read_bytes()

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        with self.device:
            started = time.perf_counter()
            region = {
                "from_name": "served",
                "to_name": "text",
                "type": "textarea",
                "value": {"text": [str(os.getpid())]},
            }
            if self.call_s:
                workloads.sleep_until(started + self.call_s)
        return [{"result": [region], "score": 1.0} for _ in tasks]

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        learned = sum(len(task["annotations"]) for task in self.annotated_tasks())
        train(self, float(os.environ.get(FIT_S, "0")))
        with (
            self.save_weights(metrics={"learned": learned}) as directory,
            (directory / _FILE).open("wb") as file,
        ):
            for _ in range(int(os.environ.get(MIB, "1"))):
                file.write(os.urandom(_PIECE))


def train(model: Learner, seconds: float) -> None:
    """Train a tagger with torch for that many seconds, as examples/pytorch_ner does."""
    if not seconds:
        return
    import torch  # noqa: PLC0415 - serving processes do not need it
    from torch import nn  # noqa: PLC0415

    tagger = nn.Sequential(nn.Embedding(8192, 256), nn.Linear(256, 1024), nn.ReLU())
    tagger.append(nn.Linear(1024, 9))
    optimizer = torch.optim.AdamW(tagger.parameters())
    end = None
    while not model.should_stop:
        tokens = torch.randint(8192, (32, 64))  # (B, T)
        scores = tagger(tokens).flatten(0, 1)  # (B*T, tags)
        loss = nn.functional.cross_entropy(scores, tokens.flatten() % 9)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch's own lack of types
        optimizer.step()
        # The clock starts after the first step, at which torch imports more modules.
        end = end or time.monotonic() + seconds
        left = end - time.monotonic()
        model.report(progress=max(0.01, 1 - left / seconds), loss=loss.item())
        if left <= 0:
            return
