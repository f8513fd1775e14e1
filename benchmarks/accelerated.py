"""The benchmark's transformer on an accelerator, and that model alone.

`python -m benchmarks.accelerated` prints, as JSON, what BENCH_DEVICE is; with
`alone NAME SECONDS` how many tasks a second the model predicts without anything around
it, and with `scores NAME COUNT` the scores of the first tasks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import alone as limit
from benchmarks.common import tasks as payloads
from benchmarks.common import workloads
from benchmarks.common.models import Served

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
        with self._accelerator.inference(self._device):
            return super().predict(tasks)

    def _tokens(self, tasks: list[workloads.Task]) -> Tensor:
        return self._accelerator.to_device(super()._tokens(tasks), self._device)


class Larger(Transformer):
    """Of BERT large's depth and width, with texts of 400 words.

    24 layers x 12 x 1024^2 weights x 2 x 400 tokens = 242 GFLOP a task: a batch takes a
    large GPU some 20 ms, beside which reading and writing tasks is little.
    """

    WIDTH = 1024
    LAYERS = 24
    HEADS = 16
    MAX_TOKENS = 512


class Small(Transformer):
    """What stands for `Larger` on a CPU, to see that everything runs through."""

    WIDTH = 64
    LAYERS = 2
    HEADS = 2
    MAX_TOKENS = 128


SERVED = "64 clients, tasks/s"
FILES = "file to file, tasks/s"
WORKLOADS = {"transformer": Transformer, "larger": Larger, "small": Small}


class _Served(Served):
    """A workload of a GPU as lsml_bento serves it, made once in a process."""

    workload_name = "transformer"

    def setup(self) -> None:
        """Nothing: what `load` makes is shared by all projects."""

    def load(self, weights: Path | None) -> None:
        name = self.workload_name
        self.workload = WORKLOADS[name]()
        # A GPU's first call loads its kernels, which is no part of a rate.
        self.workload.predict([payloads.task(i, name) for i in range(workloads.BATCH)])


class ServedTransformer(_Served):
    """`benchmarks.accelerated:ServedTransformer`."""


class ServedLarger(_Served):
    """`benchmarks.accelerated:ServedLarger`."""

    workload_name = "larger"


class ServedSmall(_Served):
    """`benchmarks.accelerated:ServedSmall`."""

    workload_name = "small"


CLASSES = {
    "transformer": ServedTransformer,
    "larger": ServedLarger,
    "small": ServedSmall,
}


def device_name() -> str:
    """What BENCH_DEVICE is, in words; empty if there is no GPU to be `cuda`."""
    import torch  # noqa: PLC0415 - not in the process that only starts others

    from lsml_bento.torch import inference  # noqa: PLC0415 - it imports torch

    wanted = torch.device(os.environ.get("BENCH_DEVICE") or "cuda")
    if wanted.type != "cuda":
        return f"{wanted}, in float32"
    if not torch.cuda.is_available():
        return ""
    with inference(wanted):
        is_cast = torch.is_autocast_enabled("cuda")
    memory = torch.cuda.get_device_properties(wanted).total_memory / 2**30
    return (
        f"{torch.cuda.get_device_name(wanted)}, {memory:.0f} GiB, CUDA "
        f"{torch.version.cuda}, in {'bfloat16 autocast' if is_cast else 'float32'}"
    )


def alone(name: str, seconds: float) -> dict[str, float]:
    """Tasks a second of the model alone, for about that long."""
    workload = WORKLOADS[name]()
    limit.batch_seconds(workload, workloads.BATCH, min(2.0, seconds), name)
    took = limit.batch_seconds(workload, workloads.BATCH, seconds, name)
    rate = workloads.BATCH * len(took) / sum(took)
    return {
        SERVED: rate,
        FILES: rate,
        f"batch of {workloads.BATCH} ms": 1000 * sum(took) / len(took),
    }


def scores(name: str, count: int) -> list[float]:
    """What the model alone says of tasks 1 to `count`."""
    tasks = [payloads.task(i + 1, name) for i in range(count)]
    answers = workloads.predict_in_batches(WORKLOADS[name](), tasks)
    return [answer["score"] for answer in answers]


def _asked(arguments: list[str]) -> object:
    if not arguments:
        return device_name()
    what, name, number = arguments
    return alone(name, float(number)) if what == "alone" else scores(name, int(number))


if __name__ == "__main__":
    print(json.dumps(_asked(sys.argv[1:])))
