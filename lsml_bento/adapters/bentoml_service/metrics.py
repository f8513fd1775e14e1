"""The Prometheus metrics of a serving process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import bentoml

from lsml_bento.adapters.bentoml_service.shape import Shape
from lsml_bento.backend.backend import Backend
from lsml_bento.errors import LsmlError
from lsml_bento.jobs.job_store import FIT_SECONDS, FITS, JOBS, OLDEST_QUEUED
from lsml_bento.prediction.batcher import Lane, Observer

log = logging.getLogger(__name__)

_PUBLISH_AFTER_S = 0.25

_WAIT_BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04),
    *(0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 90.0),
)


class Metrics(Observer):
    """The batcher's measurements as Prometheus metrics.

    The histogram of batch sizes has the name and labels of BentoML's own, so that
    dashboards for BentoML's adaptive batching work.
    """

    def __init__(self, shape: Shape) -> None:
        # Late, after BentoML has set the directory that joins the processes' metrics.
        from prometheus_client import Gauge, Histogram  # noqa: PLC0415

        size = shape.max_batch_size
        self._size = Histogram(
            name="bentoml_service_adaptive_batch_size",
            documentation="Service adaptive batch size",
            labelnames=[
                "runner_name",
                "worker_index",
                "method_name",
                "service_version",
                "service_name",
            ],
            buckets=[2**n for n in range(size.bit_length()) if 2**n < size] + [size],
        ).labels(
            runner_name=shape.name,
            worker_index=bentoml.server_context.worker_index,
            method_name="predict",
            service_version="not available",
            service_name=shape.name,
        )
        wait = Histogram(
            name="lsml_queue_wait_seconds",
            documentation="Time until a request's first task is predicted",
            labelnames=["lane"],
            buckets=_WAIT_BUCKETS_S,
        )
        waiting = Gauge(
            name="lsml_queue_tasks",
            documentation="Waiting tasks",
            labelnames=["lane"],
            multiprocess_mode="livesum",
        )
        self._wait = {lane: wait.labels(lane=lane.value) for lane in Lane}
        self._waiting = {lane: waiting.labels(lane=lane.value) for lane in Lane}
        self.webhook = Histogram(
            name="lsml_webhook_seconds",
            documentation="Time until an event is stored",
            buckets=_WAIT_BUCKETS_S,
        ).observe
        self._learning = _LearningMetrics()
        self._lengths: dict[Lane, int] = {}
        self._publishing: asyncio.TimerHandle | None = None

    def batch(self, size: int) -> None:
        self._size.observe(size)

    def waited(self, lane: Lane, seconds: float) -> None:
        self._wait[lane].observe(seconds)

    def waiting(self, lane: Lane, items: int) -> None:
        """Set a lane's length with a delay, since each request changes it twice."""
        self._lengths[lane] = items
        if self._publishing is None:
            loop = asyncio.get_running_loop()
            self._publishing = loop.call_later(_PUBLISH_AFTER_S, self._publish)

    async def measure(self, backend: Backend) -> None:
        """Read the figures of jobs, and which versions serve in this process."""
        try:
            figures = await backend.status.job_figures()
            self._learning.show(figures, await backend.status.active_versions())
        except LsmlError as error:
            log.debug("Job metrics not updated: %s", error)

    def _publish(self) -> None:
        self._publishing = None
        for lane, items in self._lengths.items():
            self._waiting[lane].set(items)
        self._lengths.clear()


class _LearningMetrics:
    """Metrics of jobs; all processes read the same ones, so the newest value counts."""

    def __init__(self) -> None:
        from prometheus_client import Gauge  # noqa: PLC0415 - as above

        def gauge(name: str, documentation: str, labels: Sequence[str] = ()) -> Any:
            return Gauge(
                name, documentation, labels, multiprocess_mode="livemostrecent"
            )

        self._jobs = gauge(*JOBS, ["status"])
        self._oldest = gauge(*OLDEST_QUEUED)
        self._seconds = gauge(*FIT_SECONDS)
        self._fits = gauge(*FITS)
        self._active = gauge(
            "lsml_active_version_info",
            "1 for the version that serves a project, 0 for earlier versions",
            ["project", "version"],
        )
        self._shown: dict[str, str] = {}

    def show(self, figures: dict[str, Any], active: dict[str, str]) -> None:
        for status, number in figures["jobs"].items():
            self._jobs.labels(status=status).set(number)
        self._oldest.set(figures["oldest_queued_s"])
        self._seconds.set(figures["fit_seconds"])
        self._fits.set(figures["fits"])
        for project, version in active.items():
            before = self._shown.get(project)
            if before not in (None, version):
                self._active.labels(project=project, version=before).set(0)
            self._active.labels(project=project, version=version).set(1)
            self._shown[project] = version
