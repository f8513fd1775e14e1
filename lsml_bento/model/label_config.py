"""Label configs, parsed by Label Studio's own parser only."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from typing import Any

from label_studio_sdk._extensions.label_studio_tools.core.label_config import (
    parse_config,
)
from label_studio_sdk.label_interface import LabelInterface

from lsml_bento.errors import LabelConfigError

EMPTY = "<View/>"
"""The label config of a project that has none."""


def parse_label_config(label_config: str) -> LabelInterface:
    """The label config's controls, objects and labels; a new object for each call.

    Args:
        label_config: the XML as Label Studio sends it.

    Raises:
        LabelConfigError: if it is not valid, or declares a document type. Label Studio
            never writes one, and an entity could read files or grow without limit.
    """
    lowered = label_config.lower()
    if "<!doctype" in lowered or "<!entity" in lowered:
        raise LabelConfigError(
            "the label config declares a DOCTYPE or an entity: remove the declaration"
        )
    try:
        return LabelInterface(config=label_config)
    except Exception as error:  # the parser raises many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise LabelConfigError(
            f"the label config is invalid: {reason}; check it in Label Studio under "
            "Settings > Labeling Interface"
        ) from error


@lru_cache(maxsize=64)
def _tags(label_config: str) -> dict[str, Any]:
    parsed: dict[str, Any] = parse_config(label_config)
    return parsed


def parse_tags(label_config: str) -> dict[str, Any]:
    """The control tags by name, in the format of HumanSignal's ``parsed_label_config``.

    Returns:
        ``{from_name: {"type", "to_name", "inputs", "labels", "labels_attrs", ...}}``
    """
    return deepcopy(_tags(label_config))
