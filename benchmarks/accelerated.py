"""The benchmark's transformer on an accelerator, and that model alone.

`python -m benchmarks.accelerated NAME COUNT SECONDS` prints, as JSON, how many tasks a
second the model predicts without anything around it; without arguments, what the device
is.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import limit, payloads, workloads
from benchmarks.models import Served

if TYPE_CHECKING:
    from torch import Tensor


class Transformer(workloads.Transformer):
    """The same network and weights, on BENCH_DEVICE."""

    def __init__(self) -> None:
        super().__init__()
        from lsml_bento import torch as accelerator  # noqa: PLC0415 - see workloads.py

        self._accelerator = accelerator
        self._device = os.environ.get("BENCH_DEVICE") or accelerator.device()
        for part in (self._embedding, self._encoder, self._head):
            part.to(self._device)

    def predict(self, tasks: list[workloads.Task]) -> list[workloads.Prediction]:
        with self._accelerator.inference(self._device):  # in bfloat16 on a GPU
            return super().predict(tasks)

    def _tokens(self, tasks: list[workloads.Task]) -> Tensor:
        return self._accelerator.to_device(super()._tokens(tasks), self._device)


class Larger(Transformer):
    """Of BERT base's depth and width, so that a GPU has work for some milliseconds."""

    WIDTH = 768
    LAYERS = 12


SERVED = "64 clients, tasks/s"
FILES = "file to file, tasks/s"
WORKLOADS = {"transformer": Transformer, "larger": Larger}


class _Served(Served):
    """A workload of a GPU as lsml_bento serves it, made once in a process."""

    workload_name = "transformer"

    def setup(self) -> None:
        """Nothing: what `load` makes is shared by all projects."""

    def load(self, weights: Path | None) -> None:
        self.workload = WORKLOADS[self.workload_name]()


class ServedTransformer(_Served):
    """`benchmarks.accelerated:ServedTransformer`."""


class ServedLarger(_Served):
    """`benchmarks.accelerated:ServedLarger`."""

    workload_name = "larger"


CLASSES = {"transformer": ServedTransformer, "larger": ServedLarger}


def device_name() -> str:
    """What BENCH_DEVICE is, in words; empty if there is no GPU to be `cuda`."""
    import torch  # noqa: PLC0415 - not in the process that only starts others

    wanted = os.environ.get("BENCH_DEVICE") or "cuda"
    if not wanted.startswith("cuda"):
        return f"{wanted}, in float32"
    if not torch.cuda.is_available():
        return ""
    index = torch.device(wanted).index or 0
    memory = torch.cuda.get_device_properties(index).total_memory / 2**30
    return (
        f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB, CUDA "
        f"{torch.version.cuda}"
    )


def measure(name: str, count: int, seconds: float) -> dict[str, float]:
    """Tasks a second of the model alone: in a loop, and `count` of them at once."""
    workload = WORKLOADS[name]()
    limit.batch_seconds(workload, workloads.BATCH, min(2.0, seconds))
    took = limit.batch_seconds(workload, workloads.BATCH, seconds)
    tasks = [payloads.task(i + 1) for i in range(count)]
    started = time.perf_counter()
    workloads.predict_in_batches(workload, tasks)
    return {
        SERVED: workloads.BATCH * len(took) / sum(took),
        f"batch of {workloads.BATCH} ms": 1000 * sum(took) / len(took),
        FILES: count / (time.perf_counter() - started),
    }


if __name__ == "__main__":
    if sys.argv[1:]:
        name, count, seconds = sys.argv[1:]
        print(json.dumps(measure(name, int(count), float(seconds))))
    else:
        print(json.dumps(device_name()))
