"""Label configs, parsed by Label Studio's own parser only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

from label_studio_sdk._extensions.label_studio_tools.core.label_config import (
    parse_config,
)
from label_studio_sdk.label_interface import LabelInterface

from lsml_bento.errors import LabelConfigError

INDEX_FLAG = "{{idx}}"
"""Stands for the item's number in a ``<Repeater>`` without ``indexFlag``."""

_VARIABLE = re.compile(r"\$([\w\[\].{}]+)")
_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")

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
    for tag in parsed.values():
        for shown in tag["inputs"]:
            shown.setdefault("value", shown.get("valueList"))
    return parsed


def parse_tags(label_config: str) -> dict[str, Any]:
    """The control tags by name, in the format of HumanSignal's ``parsed_label_config``.

    Returns:
        ``{from_name: {"type", "to_name", "inputs", "labels", "labels_attrs", ...}}``
    """
    return deepcopy(_tags(label_config))


# Task data, as Label Studio's editor reads it (its Tree.tsx, and lodash's get)


def variables(value: str | None) -> list[str]:
    """The keys of task data in a tag's ``value``, e.g. ``["doc.body"]``."""
    return _VARIABLE.findall(value or "")


def look_up(data: Any, key: str) -> Any:
    """The value of a key such as ``text``, ``doc.body`` or ``pages[0].url``."""
    if isinstance(data, Mapping) and key in data:
        return data[key]
    for part in key_parts(key):
        if isinstance(data, list) and str(part).isdecimal():
            data = data[int(part)] if int(part) < len(data) else None
        elif isinstance(data, Mapping):
            data = data.get(str(part))
        else:
            return None
    return data


def key_parts(key: str) -> list[str | int]:
    """Split a key: ``pages[0].url`` is ``["pages", 0, "url"]``."""
    return [int(index) if index else name for index, name in _PART.findall(key)]


def unroll(interface: LabelInterface, data: Any) -> LabelInterface:
    """The label config that Label Studio shows for a task: with Repeaters repeated.

    Returns:
        The same object if the label config has no ``<Repeater>``.
    """
    config: str = interface.config
    if "epeater" not in config:
        return interface
    root = ElementTree.fromstring(config)  # noqa: S314 - it declares no entities
    _repeat(root, data)
    return _parsed(ElementTree.tostring(root, encoding="unicode"))


def index_flags(interface: LabelInterface) -> list[str]:
    """The texts that stand for an item's number in the label config's Repeaters."""
    if "epeater" not in interface.config:
        return []
    root = ElementTree.fromstring(interface.config)  # noqa: S314
    found = [_flag(tag) for tag in root.iter() if _is_repeater(tag)]
    return list(dict.fromkeys(found))


@lru_cache(maxsize=64)
def _parsed(label_config: str) -> LabelInterface:
    return parse_label_config(label_config)


def _repeat(parent: ElementTree.Element, data: Any) -> None:
    children = []
    for child in parent:
        if not _is_repeater(child):
            _repeat(child, data)
            children.append(child)
            continue
        keys = variables(child.get("on"))
        items = look_up(data, keys[0]) if keys else None
        for number in range(len(items) if isinstance(items, list) else 0):
            view = deepcopy(child)
            view.tag = "View"
            for tag in view.iter():
                for name, value in tag.items():
                    tag.set(name, value.replace(_flag(child), str(number)))
            view.attrib.clear()
            _repeat(view, data)
            children.append(view)
    parent[:] = children


def _is_repeater(tag: ElementTree.Element) -> bool:
    return str(tag.tag).lower() == "repeater"


def _flag(repeater: ElementTree.Element) -> str:
    return repeater.get("indexFlag") or INDEX_FLAG
