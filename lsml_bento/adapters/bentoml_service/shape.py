"""The processes, GPUs and logging of a service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The processes, GPUs and logging of a service.

    Attributes:
        name: of the service.
        workers: number of serving processes.
        gpus: number of GPUs, distributed among the processes.
        access_log: whether BentoML logs each request.
        tracing: whether BentoML creates OpenTelemetry spans for each request.
        log_format: ``"text"`` or ``"json"``.
        max_batch_size: for the buckets of the histogram.
    """

    name: str
    workers: int = 1
    gpus: int = 0
    access_log: bool = False
    tracing: bool = False
    log_format: str = "text"
    max_batch_size: int = 32
