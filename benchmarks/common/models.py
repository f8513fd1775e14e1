"""The workloads as model classes of lsml_bento."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common import tasks as made_tasks
from benchmarks.common import workloads
from lsml_bento import LabelStudioMLBase

TARGETS = {
    "trivial": "benchmarks.common.models:Trivial",
    "device": "benchmarks.common.models:Device",
    "transformer": "benchmarks.common.models:Transformer",
    "pytorch_ner": "ner.backend:NER",
}
GPU_TARGETS = {
    "transformer": "benchmarks.common.models:GpuTransformer",
    "larger": "benchmarks.common.models:GpuLarger",
    "small": "benchmarks.common.models:GpuSmall",
}


class _Workload(LabelStudioMLBase):
    """Predicts with the workload of that name."""

    workload_name: str

    def setup(self) -> None:
        self.workload = workloads.make(self.workload_name)

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        return self.workload.predict(tasks)


class Trivial(_Workload):
    workload_name = "trivial"


class Device(_Workload):
    workload_name = "device"


class Transformer(_Workload):
    workload_name = "transformer"


class _GpuWorkload(_Workload):
    """Made once in a process, as all projects share what `load` makes."""

    def setup(self) -> None:
        """Keep what `load` made."""

    def load(self, weights: Path | None) -> None:
        name = self.workload_name
        self.workload = workloads.make(name)
        # The first call on a GPU loads its kernels, which must not count.
        self.workload.predict(
            [made_tasks.task(i, name) for i in range(workloads.BATCH)]
        )


class GpuTransformer(_GpuWorkload):
    workload_name = "transformer"


class GpuLarger(_GpuWorkload):
    workload_name = "larger"


class GpuSmall(_GpuWorkload):
    workload_name = "small"
