"""The wiring of the serving process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import bentoml
from starlette.applications import Starlette

from lsml_bento.adapters import label_studio_ml
from lsml_bento.adapters.bentoml_service import build_service
from lsml_bento.adapters.bentoml_service.metrics import Metrics
from lsml_bento.adapters.bentoml_service.options import check_options, gpus_of
from lsml_bento.adapters.bentoml_service.shape import Shape
from lsml_bento.adapters.edge import EdgeMiddleware
from lsml_bento.adapters.label_studio_http import contract_app
from lsml_bento.backend.backend import Backend
from lsml_bento.backend_dir import is_drop_in
from lsml_bento.errors import StateTaken
from lsml_bento.jobs.event_writer import Dispatcher
from lsml_bento.jobs.job import Job
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.processes.backend import build_backend
from lsml_bento.processes.opening import load_env_file
from lsml_bento.processes.wiring import (
    claim_home,
    log_to_stderr,
    open_media,
    open_queue,
    open_state,
    open_weights,
    settle,
)
from lsml_bento.processes.worker import child_environ, worker_command
from lsml_bento.settings import Settings
from lsml_bento.training.embedded_worker import EmbeddedWorker


def create_service(
    model: str | type[LabelStudioMLBase],
    *,
    name: str | None = None,
    max_batch_size: int = 32,
    threads: int = 1,
    workers: int = 1,
    gpus: int = 0,
    directory: Path | None = None,
    **bentoml_options: Any,
) -> bentoml.Service[Any]:
    """A BentoML service that is a Label Studio backend.

    Write ``svc = create_service("model:NER")`` in ``service.py``, then run ``bentoml
    serve service:svc``. The environment overrides every number; a file ``.env`` in the
    directory adds variables that the environment lacks.

    Args:
        model: ``"module:Class"``, imported only where it is needed, or the class.
        name: the service's name in lowercase; by default, made from the class's name.
        max_batch_size: maximum number of tasks in one call of ``predict``.
        threads: concurrent calls of ``predict``, for models that wait on the network.
        workers: number of serving processes.
        gpus: GPUs of the service, shared out among the workers.
        directory: contains the model's module and ``.lsml``; by default, the directory
            of the calling file.
        **bentoml_options: others of ``@bentoml.service``, e.g. ``resources``,
            ``traffic``, ``envs``, ``image``, ``labels`` or ``http``. They are completed
            with what a backend needs.

    Raises:
        SettingsError: if a variable of the environment cannot be used.
        TypeError: if BentoML has no such option.
        ValueError: if BentoML does not accept the name or a value.
    """
    directory = directory or _caller_directory()
    check_options(bentoml_options)
    if is_drop_in(directory):
        label_studio_ml.install()
    load_env_file(directory)
    settings = Settings.from_env(os.environ)
    settings = settings.model_copy(
        update={
            "max_batch_size": settings.max_batch_size or max_batch_size,
            "threads": settings.threads or threads,
            "workers": settings.workers or workers,
        }
    )
    source = ModelSource(model, directory)
    spec = settle(name or source.name, source.target, directory, settings)
    name, home = spec.name, spec.home_path

    def make(metrics: Metrics) -> Backend:
        log_to_stderr(settings)
        queue = cache(partial(open_queue, settings, spec))
        enqueue = Dispatcher(lambda *job: queue().enqueue(*job)).dispatch
        backend = make_backend(source, settings, home, name, metrics, enqueue)
        backend.heartbeat.announce()
        return backend

    def embed() -> EmbeddedWorker | None:
        if settings.worker == "external":
            return None
        return EmbeddedWorker(worker_command(spec), child_environ(), home)

    app = contract_app(settings.max_body_mib)

    def claim() -> None:
        try:
            claim_home(home, name)
        except StateTaken as error:
            # In a serving process it would be raised again with each restart.
            raise SystemExit(f"lsml-bento: {error}") from error

    return build_service(
        Shape(
            name=name,
            workers=settings.workers or 1,
            gpus=gpus or gpus_of(bentoml_options),
            access_log=settings.access_log,
            tracing=settings.tracing,
            log_format=settings.log_format,
            max_batch_size=settings.max_batch_size or 32,
        ),
        app,
        make,
        [(EdgeMiddleware, _edge_options(app, settings))],
        embed,
        spec,
        claim,
        bentoml_options,
    )


def make_backend(
    source: ModelSource,
    settings: Settings,
    home: Path,
    name: str,
    metrics: Metrics | None = None,
    enqueue: Callable[[Job], None] = lambda _: None,
) -> Backend:
    """A backend with its files in ``home``.

    Without ``enqueue``, workers find the jobs that have no message.

    Raises:
        StateError: if ``home`` cannot be used or belongs to another backend.
        WeightsError: if ``LSML_MODEL_REPO`` cannot be opened.
    """
    return build_backend(
        source,
        open_state(settings, home, name),
        open_media(settings, home),
        settings,
        metrics,
        weights=open_weights(settings),
        inbox=home / "inbox",
        enqueue=enqueue,
        measure_event=None if metrics is None else metrics.webhook,
    )


def asgi_app(backend: Backend, settings: Settings) -> Callable[..., Any]:
    """Label Studio's routes over a backend, without BentoML: for tests."""
    app = contract_app(settings.max_body_mib)
    app.state.backend = backend
    return EdgeMiddleware(app, **_edge_options(app, settings))


def _edge_options(app: Starlette, settings: Settings) -> dict[str, Any]:
    return {
        "contract": app,
        "max_body_mib": settings.max_body_mib,
        "root_path": settings.root_path,
        "basic_auth": settings.basic_auth,
    }


def _caller_directory() -> Path:
    """The directory of the file that calls ``create_service``."""
    frame = sys._getframe(2)
    file = frame.f_globals.get("__file__")
    return Path(file).resolve().parent if file else Path.cwd()
