"""The options of ``@bentoml.service`` that a user adds to ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from pydantic import ValidationError

from lsml_bento.adapters.bentoml_service.shape import Shape

if TYPE_CHECKING:
    from bentoml.images import Image

_OTHERS = frozenset({"description", "envs", "image", "labels"})
_OURS = {
    "workers": "use the argument workers",
    "threads": "use the argument threads",
    "path_prefix": "set LSML_ROOT_PATH",
    "cmd": "a backend is the server itself",
    "service_class": "a backend has its own",
}
_REQUEST_TIMEOUT_S = 120
"""More than Label Studio's 100 s, so that ``LSML_PREDICT_DEADLINE_S`` applies first."""


def check_options(given: Mapping[str, Any]) -> None:
    """Check the names and values of a user's options; BentoML ignores unknown names.

    Raises:
        TypeError: if BentoML has no such option, or a backend needs it for itself.
        ValueError: if BentoML does not accept a value.
    """
    if not given:
        return
    from _bentoml_sdk.service.config import (  # noqa: PLC0415 - as all of BentoML
        ServiceConfig,
        validate,
    )

    known = {*ServiceConfig.__annotations__, *_OTHERS} - {*_OURS}
    for name in given:
        if name not in known:
            advice = _OURS.get(
                name, f"BentoML's options are {', '.join(sorted(known))}"
            )
            raise TypeError(f"create_service() has no option {name!r}: {advice}")
    try:
        validate({name: v for name, v in given.items() if name not in _OTHERS})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"create_service(): BentoML does not accept {place}: {first['msg']}"
        ) from None


def gpus_of(given: Mapping[str, Any]) -> int:
    """The number of GPUs in ``resources``."""
    gpus: float = (given.get("resources") or {}).get("gpu", 0)
    return math.ceil(gpus)


def service_options(shape: Shape, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``@bentoml.service``: a user's, completed with ours."""
    access = {"enabled": shape.access_log}
    logging = given.get("logging") or {}
    options: dict[str, Any] = {
        **given,
        "name": shape.name,
        "workers": shape.workers,
        "traffic": {"timeout": _REQUEST_TIMEOUT_S, **(given.get("traffic") or {})},
        "logging": {**logging, "access": {**access, **logging.get("access", {})}},
        "image": _with_ours(given.get("image")),
    }
    if shape.gpus:
        options["resources"] = {**(given.get("resources") or {}), "gpu": shape.gpus}
    if not shape.tracing and "tracing" not in given:
        # BentoML creates three spans per request even if no exporter collects them.
        options["tracing"] = {"excluded_urls": ".*"}
    return options


def _with_ours(given: Image | None) -> Image:
    """A user's image that also installs lsml-bento and has a directory for state."""
    # Late, since it loads all of BentoML.
    from lsml_bento.adapters.bentoml_service.image import (  # noqa: PLC0415
        backend_image,
    )

    image = backend_image()
    if given is not None:
        for field in attrs.fields(type(given)):
            setattr(image, field.name, getattr(given, field.name))
    return image
