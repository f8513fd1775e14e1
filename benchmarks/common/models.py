"""The workloads as model classes of lsml_bento: `benchmarks.common.models:Device`."""

from __future__ import annotations

from typing import Any

from benchmarks.common import workloads
from lsml_bento import LabelStudioMLBase


class Served(LabelStudioMLBase):
    """The workload of that name."""

    workload_name = "trivial"

    def setup(self) -> None:
        self.workload = workloads.make(self.workload_name)

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        return self.workload.predict(tasks)


class Trivial(Served):
    """No work."""


class Device(Served):
    """10 ms a call and 0.3 ms a task."""

    workload_name = "device"


class Transformer(Served):
    """4 layers x 256 on the CPU."""

    workload_name = "transformer"
