"""The wiring of the serving process."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bentoml
from starlette.applications import Starlette

from lsml_bento.adapters import label_studio_ml
from lsml_bento.adapters.bentoml_service import Shape, build_service
from lsml_bento.adapters.edge import EdgeMiddleware
from lsml_bento.adapters.label_studio_api import LabelStudioMedia
from lsml_bento.adapters.label_studio_http import contract_app
from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.backend import Backend
from lsml_bento.directory import is_drop_in
from lsml_bento.lanes import Observer
from lsml_bento.model import LabelStudioMLBase
from lsml_bento.settings import Settings
from lsml_bento.source import ModelSource

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


def create_service(
    model: str | type[LabelStudioMLBase],
    *,
    name: str | None = None,
    max_batch_size: int = 32,
    threads: int = 1,
    workers: int = 1,
    gpus: int = 0,
    directory: Path | None = None,
) -> bentoml.Service[Any]:
    """A BentoML service that is a Label Studio backend.

    ``svc = create_service("model:NER")`` in ``service.py``, then ``bentoml serve
    service:svc``. Every number can be set again by the environment.

    Args:
        model: ``"module:Class"``, imported late and only where it is needed; or the
            class.
        name: the service's name, lowercase; made from the class's by default.
        max_batch_size: tasks in one call of ``predict`` at most.
        threads: calls of ``predict`` at a time, for models that wait on the network.
        workers: serving processes.
        gpus: GPUs of the service; each worker takes its own share.
        directory: where the model's module is and ``.lsml`` goes; that of the calling
            file by default.

    Raises:
        SettingsError: if a variable of the environment can not be used.
        ValueError: if the name is not one that BentoML takes.
    """
    directory = directory or _caller_directory()
    if is_drop_in(directory):
        label_studio_ml.install()
    settings = Settings.from_env(os.environ)
    settings = settings.model_copy(
        update={
            "max_batch_size": settings.max_batch_size or max_batch_size,
            "threads": settings.threads or threads,
            "workers": settings.workers or workers,
        }
    )
    source = ModelSource(model, directory)
    name = _service_name(name or source.name)
    home = settings.home or default_home(directory, name)

    def make(observer: Observer) -> Backend:
        _log_to_stderr(settings.log_level)
        return make_backend(source, settings, home, name, observer)

    app = contract_app(settings.max_body_mib)
    return build_service(
        Shape(
            name=name,
            workers=settings.workers or 1,
            gpus=gpus,
            access_log=settings.access_log,
            tracing=settings.tracing,
            max_batch_size=settings.max_batch_size or 32,
        ),
        app,
        make,
        [(EdgeMiddleware, _edge_options(app, settings))],
    )


def make_backend(
    source: ModelSource,
    settings: Settings,
    home: Path,
    name: str,
    observer: Observer | None = None,
) -> Backend:
    """A backend with its state in ``home``.

    Raises:
        StateError: if ``home`` can not be used or belongs to another backend.
    """
    state = SqliteState(home / "state.db", owner=name)
    media = LabelStudioMedia(
        settings.label_studio_url,
        settings.label_studio_api_key,
        settings.local_files_root,
        home / "media",
    )
    return Backend(source, state, media, settings, observer)


def asgi_app(backend: Backend, settings: Settings) -> Callable[..., Any]:
    """Label Studio's routes over a backend, without BentoML: for tests."""
    app = contract_app(settings.max_body_mib)
    app.state.backend = backend
    return EdgeMiddleware(app, **_edge_options(app, settings))


def default_home(directory: Path, name: str) -> Path:
    """``.lsml`` in a backend's directory, else ``~/.lsml/NAME``.

    A directory inside a bento is no place for state: it is read-only in an image.
    """
    in_bento = (directory.parent / "bento.yaml").exists()
    if not in_bento and os.access(directory, os.W_OK):
        return directory / ".lsml"
    return Path.home() / ".lsml" / name


def _service_name(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)
    lowered = words.lower().replace("_", "-")
    if _NAME.fullmatch(lowered) is None:
        raise ValueError(
            f"{name!r} can not name a BentoML service: use up to 63 lowercase letters, "
            "digits and . _ -, as in create_service(.., name='my-model')"
        )
    return lowered


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


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    # BentoML writes the access log; uvicorn would write a second one.
    logging.getLogger("uvicorn.access").propagate = False
