"""The BentoML service: routes, a typed API, metrics and the process's life cycle."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import bentoml
import orjson
from bentoml.exceptions import BentoMLException
from starlette.applications import Starlette

from lsml_bento.adapters.bentoml_service.metrics import Metrics
from lsml_bento.adapters.bentoml_service.openapi import documentation
from lsml_bento.adapters.bentoml_service.options import service_options
from lsml_bento.adapters.bentoml_service.shape import Shape
from lsml_bento.adapters.bentoml_service.supervisor import check_often
from lsml_bento.backend.backend import Backend
from lsml_bento.backend_spec import BackendSpec
from lsml_bento.contract import Task, parse_predict
from lsml_bento.errors import LsmlError
from lsml_bento.log_format import write_as
from lsml_bento.model.invoke import is_device_lost
from lsml_bento.training.embedded_worker import EmbeddedWorker

log = logging.getLogger(__name__)

_MEASURE_EVERY_S = 5.0
_SWEEP_EVERY_S = 600.0
_CLASS_WAIT_S = 10.0
_IMPORT_EVERY_S = 5.0
_CHECK_EVERY_S = 1.0


def build_service(
    shape: Shape,
    app: Starlette,
    make_backend: Callable[[Metrics], Backend],
    middlewares: list[tuple[type[Any], dict[str, Any]]],
    make_worker: Callable[[], EmbeddedWorker | None],
    spec: BackendSpec,
    claim: Callable[[], None],
    options: Mapping[str, Any],
) -> bentoml.Service[Any]:
    """A BentoML service with ``app`` at its root.

    Args:
        shape: processes, GPUs and logging.
        app: gets the backend as ``app.state.backend`` when the process starts.
        make_backend: called once in each serving process.
        middlewares: ASGI middlewares and their options, outermost first.
        make_worker: the embedded worker that each serving process tries to run, if any.
        spec: returned by ``spec_of`` for the service.
        claim: called once before the serving processes start; may end the command.
        options: of ``@bentoml.service``, as a user gave them.
    """

    class LabelStudioBackend:
        """Label Studio ML backend; Label Studio's routes are mounted at the root."""

        lsml_spec = spec

        @bentoml.on_deployment
        @staticmethod
        def prepare() -> None:
            claim()
            check_often()
            write_as(shape.log_format)

        def __init__(self) -> None:
            _take_own_gpus(shape)
            metrics = Metrics(shape)
            self.process = _Process(make_backend(metrics), make_worker(), metrics)
            self.backend = self.process.backend
            app.state.backend = self.backend

        @bentoml.on_startup
        async def start(self) -> None:
            self.process.start()

        @bentoml.on_shutdown
        async def stop(self) -> None:
            await self.process.stop()

        async def __is_ready__(self) -> bool:
            """Whether the class was imported, for ``/readyz``."""
            return self.backend.is_ready

        @bentoml.api
        async def predict_tasks(
            self,
            tasks: list[Task],
            project: str = "",
            label_config: str | None = None,
            params: dict[str, Any] = {},  # noqa: B006 - BentoML copies defaults
        ) -> list[Any]:
            """Predictions for tasks, one entry each, as ``/predict`` returns them."""
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

    service = bentoml.service(**service_options(shape, options))(LabelStudioBackend)
    for middleware, arguments in middlewares:
        service.add_asgi_middleware(middleware, **arguments)
    app.router.routes += documentation(service)
    service.mount_asgi_app(app, path="/")
    return service


class _Process:
    """The life cycle of a serving process."""

    def __init__(
        self, backend: Backend, worker: EmbeddedWorker | None, metrics: Metrics
    ) -> None:
        self.backend = backend
        self._worker = worker
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        _freeze_imported_objects()
        work = (
            self._import_class(),
            self._measure(),
            self._sweep(),
            _end_if_unusable(),
        )
        self._tasks = [asyncio.create_task(one) for one in work]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.stop)
        if not await self.backend.close():
            log.critical("Stopping although predict() is stuck: its result is lost")

    async def _import_class(self) -> None:
        begun = time.monotonic()
        await self.backend.start()
        if self._worker is not None:
            starting = self._start_worker(self._worker)
            self._tasks.append(asyncio.create_task(starting))
        while not self.backend.is_ready:
            await asyncio.sleep(_IMPORT_EVERY_S)
            await self.backend.start()
        log.info(
            "Ready: %s answers Label Studio process=%d seconds=%.1f",
            self.backend.source.name,
            os.getpid(),
            time.monotonic() - begun,
        )
        _freeze_imported_objects()

    async def _start_worker(self, worker: EmbeddedWorker) -> None:
        """Start the worker once the class is imported and has a ``fit``."""
        deadline = time.monotonic() + _CLASS_WAIT_S
        while not self.backend.is_ready and time.monotonic() < deadline:
            await asyncio.sleep(1.0)
        # If the class cannot be imported, its jobs will say why.
        if not self.backend.is_ready or self.backend.rules.trains:
            worker.start()

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(_MEASURE_EVERY_S)
            await self._metrics.measure(self.backend)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            await self.backend.training.sweep()


def spec_of(service: bentoml.Service[Any]) -> BackendSpec | None:
    """The backend of a service; None if ``build_service`` did not create it."""
    spec = getattr(service.inner, "lsml_spec", None)
    return spec if isinstance(spec, BackendSpec) else None


async def _end_if_unusable() -> None:
    """End this process if BentoML's supervisor was killed, or the GPU is lost.

    In the latter case the supervisor starts a new process, which can use the GPU again.
    """
    parent = os.getppid()
    while os.getppid() == parent and not is_device_lost():
        await asyncio.sleep(_CHECK_EVERY_S)
    if is_device_lost():
        log.error("GPU lost: this process ends, and BentoML starts a new one")
    else:
        log.error("BentoML's supervisor is gone: this process ends")
    os.kill(os.getpid(), signal.SIGTERM)


def _freeze_imported_objects() -> None:
    """Exclude imported objects from garbage collection.

    A full collection visits some hundred thousand objects that live as long as the
    process. It blocks the process for 100-230 ms every few thousand requests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _take_own_gpus(shape: Shape) -> None:
    """Limit each serving process to its share of the service's GPUs.

    BentoML 1.4 shows all of the service's GPUs to each process.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shape.gpus and visible:
        index = (bentoml.server_context.worker_index or 1) - 1
        os.environ["CUDA_VISIBLE_DEVICES"] = share(visible, index, shape.workers)


def share(visible: str, index: int, workers: int) -> str:
    """The GPUs of one serving process, in the format of ``CUDA_VISIBLE_DEVICES``.

    Args:
        visible: the GPUs of all processes, separated by commas.
        index: of the process, from 0.
        workers: number of processes; if there are more than GPUs, some share one.
    """
    devices = [device for device in visible.split(",") if device]
    return ",".join(devices[index::workers] or [devices[index % len(devices)]])
