"""How many processes and devices a service has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """How many processes and devices a service has.

    Attributes:
        name: a BentoML tag: lowercase letters, digits and ``._-``.
        workers: serving processes.
        gpus: devices of the service, dealt out among the workers.
        access_log: BentoML's line for each request.
        tracing: OpenTelemetry's spans for each request.
        log_format: ``"text"`` or ``"json"``.
        max_batch_size: the largest batch, for the buckets of its histogram.
    """

    name: str
    workers: int = 1
    gpus: int = 0
    access_log: bool = False
    tracing: bool = False
    log_format: str = "text"
    max_batch_size: int = 32
