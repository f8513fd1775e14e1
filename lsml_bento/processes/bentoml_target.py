"""What ``lsml-bento start`` has BentoML serve: the current directory, or a pipeline.

BentoML imports this module in its supervisor and in every worker, with the backend's
directory as the current one. An error here ends the server, with the reason in one
sentence. If the user's model cannot be imported, the server starts nevertheless and
answers ``/setup`` with the reason.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import bentoml

from lsml_bento.adapters import label_studio_ml
from lsml_bento.backend_dir import find_target, has_service, with_class
from lsml_bento.backend_spec import service_name
from lsml_bento.error_text import locate
from lsml_bento.errors import LsmlError
from lsml_bento.pipelines import pipeline_name
from lsml_bento.processes.server import create_service
from lsml_bento.settings import Settings

_PIPELINE_MODEL = "lsml_bento.adapters.transformers_pipelines:PipelineModel"


def service_of(directory: Path) -> bentoml.Service[Any]:
    """The service of a pipeline, of the directory's ``service.py``, or of its model.

    Raises:
        SystemExit: with the reason, if nothing can be served.
    """
    label_studio_ml.install()
    try:
        settings = Settings.from_env(os.environ)
        if settings.pipeline is not None:
            return _pipeline_service(settings)
        if has_service(directory):
            return _own_service(directory)
        return create_service(
            with_class(find_target(directory), directory), directory=directory
        )
    except (LsmlError, ValueError) as error:  # a name that BentoML does not accept
        raise SystemExit(f"lsml-bento: {error}") from error


def _pipeline_service(settings: Settings) -> bentoml.Service[Any]:
    given = pipeline_name(str(settings.pipeline), str(settings.pipeline_model))
    name = service_name(settings.pipeline_name or given)
    home = settings.home or Path.home() / ".lsml" / name
    # There is no code directory to keep state in.
    os.environ["LSML_HOME"] = str(home)
    return create_service(_PIPELINE_MODEL, name=name, directory=home)


def _own_service(directory: Path) -> bentoml.Service[Any]:
    try:
        found = importlib.import_module("service").svc
    except LsmlError:
        raise
    except Exception as error:
        raise SystemExit(
            f"lsml-bento: {directory / 'service.py'} does not import: {locate(error)}"
        ) from error
    if not isinstance(found, bentoml.Service):
        raise SystemExit(
            f"lsml-bento: svc in {directory / 'service.py'} is a "
            f"{type(found).__name__}: make it with `svc = create_service(..)`"
        )
    return found


svc = service_of(Path.cwd())
