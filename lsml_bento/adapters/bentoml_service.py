"""The BentoML service: routes, a typed API, metrics and the life of its process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import bentoml
import orjson
from bentoml.exceptions import BentoMLException
from starlette.applications import Starlette

from lsml_bento.backend import Backend
from lsml_bento.errors import LsmlError
from lsml_bento.lanes import Lane, Observer
from lsml_bento.types import Task, parse_predict

log = logging.getLogger(__name__)

_REQUEST_TIMEOUT_S = 120
"""Over Label Studio's 100 s, so that it is our deadline that ends a request."""

_PUBLISH_AFTER_S = 0.25

_WAIT_BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04),
    *(0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 90.0),
)


@dataclass(frozen=True)
class Shape:
    """How many processes and devices a service has.

    Attributes:
        name: a BentoML tag: lowercase letters, digits and ``._-``.
        workers: serving processes.
        gpus: devices of the service, dealt out among the workers.
        access_log: BentoML's line for each request.
        tracing: OpenTelemetry's spans for each request.
        max_batch_size: the largest batch, for the buckets of its histogram.
    """

    name: str
    workers: int = 1
    gpus: int = 0
    access_log: bool = False
    tracing: bool = False
    max_batch_size: int = 32


def build_service(
    shape: Shape,
    app: Starlette,
    make_backend: Callable[[Observer], Backend],
    middlewares: list[tuple[type[Any], dict[str, Any]]],
) -> bentoml.Service[Any]:
    """A BentoML service with ``app`` at its root.

    Args:
        shape: processes and devices.
        app: gets the backend as ``app.state.backend`` when the process starts.
        make_backend: called once in each serving process.
        middlewares: ASGI middlewares, outermost first, and their options.
    """

    class LabelStudioBackend:
        """Label Studio ML backend; its own contract is mounted at the root."""

        def __init__(self) -> None:
            _take_own_gpus(shape)
            self.backend = make_backend(Metrics(shape))
            app.state.backend = self.backend

        @bentoml.on_startup
        async def start(self) -> None:
            _spare_the_collector()
            self._starting = asyncio.create_task(self._start())

        async def _start(self) -> None:
            await self.backend.start()
            _spare_the_collector()

        @bentoml.on_shutdown
        async def stop(self) -> None:
            if not await self.backend.close():
                log.critical("predict() is stuck: the process ends without its answer")

        @bentoml.api
        async def predict_tasks(
            self,
            tasks: list[Task],
            project: str = "",
            label_config: str | None = None,
            params: dict[str, Any] = {},  # noqa: B006 - BentoML copies defaults
        ) -> list[Any]:
            """Predictions for tasks, one entry each, as ``/predict`` gives them."""
            body = {
                "tasks": tasks,
                "project": project,
                "label_config": label_config,
                "params": params,
            }
            try:
                slots = await self.backend.predict(parse_predict(body))
            except LsmlError as error:
                status = HTTPStatus(error.status)
                raise BentoMLException(str(error), error_code=status) from error
            return [orjson.loads(slot) for slot in slots]

    service = bentoml.service(**_configuration(shape))(LabelStudioBackend)
    for middleware, arguments in middlewares:
        service.add_asgi_middleware(middleware, **arguments)
    service.mount_asgi_app(app, path="/")
    return service


def _configuration(shape: Shape) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "name": shape.name,
        "workers": shape.workers,
        "traffic": {"timeout": _REQUEST_TIMEOUT_S},
        "logging": {"access": {"enabled": shape.access_log}},
    }
    if shape.gpus:
        configuration["resources"] = {"gpu": shape.gpus}
    if not shape.tracing:
        # BentoML makes three spans a request even where nobody collects them.
        configuration["tracing"] = {"excluded_urls": ".*"}
    return configuration


class Metrics:
    """The batcher's ``Observer``, in Prometheus' words.

    The histogram of batch sizes has BentoML's own name and labels, so that dashboards
    made for its adaptive batching show ours.
    """

    def __init__(self, shape: Shape) -> None:
        # Imported once BentoML has said where the processes' metrics are joined.
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
            documentation="Tasks that wait",
            labelnames=["lane"],
            multiprocess_mode="livesum",
        )
        self._wait = {lane: wait.labels(lane=lane.value) for lane in Lane}
        self._waiting = {lane: waiting.labels(lane=lane.value) for lane in Lane}
        self._lengths: dict[Lane, int] = {}
        self._publishing: asyncio.TimerHandle | None = None

    def batch(self, size: int) -> None:
        """Observe a batch's size."""
        self._size.observe(size)

    def waited(self, lane: Lane, seconds: float) -> None:
        """Observe a request's wait."""
        self._wait[lane].observe(seconds)

    def waiting(self, lane: Lane, items: int) -> None:
        """Set a lane's length, a moment later: it changes twice with each request."""
        self._lengths[lane] = items
        if self._publishing is None:
            loop = asyncio.get_running_loop()
            self._publishing = loop.call_later(_PUBLISH_AFTER_S, self._publish)

    def _publish(self) -> None:
        self._publishing = None
        for lane, items in self._lengths.items():
            self._waiting[lane].set(items)
        self._lengths.clear()


def _spare_the_collector() -> None:
    """Keep the garbage collector off what was imported.

    A full collection walks some hundred thousand objects that live as long as the
    process, and stops it for 100-230 ms every few thousand requests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _take_own_gpus(shape: Shape) -> None:
    """Give each worker its share of the service's GPUs.

    BentoML 1.4 shows all of a service's GPUs to all of its workers.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shape.gpus and visible:
        index = (bentoml.server_context.worker_index or 1) - 1
        os.environ["CUDA_VISIBLE_DEVICES"] = share(visible, index, shape.workers)


def share(visible: str, index: int, workers: int) -> str:
    """The devices of one worker, in the words of ``CUDA_VISIBLE_DEVICES``.

    Args:
        visible: the devices of all workers, separated by commas.
        index: the worker, from 0.
        workers: how many there are; where they outnumber the devices, some share one.
    """
    devices = [device for device in visible.split(",") if device]
    return ",".join(devices[index::workers] or [devices[index % len(devices)]])
