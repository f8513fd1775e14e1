"""What ``lsml-bento start`` has BentoML serve: the backend in the current directory.

BentoML imports this module in its supervisor and in every worker, both with the
backend's directory as the current one. What fails here ends the server, so it is said
in one sentence; an import of the user's model that fails does not: the server stays up
and answers ``/setup`` with the reason.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import bentoml

from lsml_bento.adapters import label_studio_ml
from lsml_bento.directory import find_target, has_service, with_class
from lsml_bento.errors import LsmlError
from lsml_bento.service import create_service
from lsml_bento.source import locate


def service_of(directory: Path) -> bentoml.Service[Any]:
    """The ``svc`` of the directory's ``service.py``, else one for its model.

    Raises:
        SystemExit: saying what is wrong, where nothing can be served.
    """
    label_studio_ml.install()
    try:
        if has_service(directory):
            return _own_service(directory)
        return create_service(
            with_class(find_target(directory), directory), directory=directory
        )
    except (LsmlError, ValueError) as error:  # a name that BentoML does not take
        raise SystemExit(f"lsml-bento: {error}") from error


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
