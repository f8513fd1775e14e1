"""Finds the control of a label config that a pipeline fills, and its labels."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from label_studio_sdk.label_interface.control_tags import ControlTag
from label_studio_sdk.label_interface.object_tags import ObjectTag

from lsml_bento.adapters.transformers_pipelines.pretrained import Pretrained
from lsml_bento.errors import ModelSetupError
from lsml_bento.model.base_class import LabelStudioMLBase

log = logging.getLogger(__name__)

_SHOWN = 12
_ONE_LABEL = {"Choices": "Choice"}
"""The tag of a single label; ``Label`` in all other controls."""


@dataclass(frozen=True)
class Target:
    """A control and its object.

    Attributes:
        control: the control's tag, for example ``Labels``.
        object: the object's tag, for example ``Text``.
        from_name: the control's name.
        to_name: the object's name.
        key: the object's key in a task's data, which may be nested (``doc.body``).
        is_url: whether the data contains a URL in place of the text.
        is_multiple: whether several choices may be picked.
        choices: the label config's labels, in its order.
        labels: the model's label name -> the label config's label.
    """

    control: str
    object: str
    from_name: str
    to_name: str
    key: str
    is_url: bool = False
    is_multiple: bool = False
    choices: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def region(self, value: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "id": uuid.uuid4().hex[:10],
            "from_name": self.from_name,
            "to_name": self.to_name,
            "type": self.control.lower(),
            "value": value,
            **more,
        }


def find_targets(
    model: LabelStudioMLBase, pretrained: Pretrained, control: str, on: str
) -> list[Target]:
    """All controls of a type on objects of a type, in the label config's order.

    Raises:
        ModelSetupError: if the label config has no such control.
    """
    pairs = list(_pairs(model))
    found = [
        _target(tag, shown)
        for tag, shown in pairs
        if (tag.tag, shown.tag) == (control, on)
        and not _is_per_region(tag)
        and not _form(shown)
    ]
    if not found:
        have = [
            f"<{tag.tag}> on <{shown.tag}>{_form(shown)}"
            + " per region" * _is_per_region(tag)
            for tag, shown in pairs
        ]
        raise ModelSetupError(
            f"the pipeline {pretrained.pipeline} needs <{control}> on <{on}>, and the "
            f"label config has {', '.join(dict.fromkeys(have)) or 'no control'}: add "
            "one under Settings > Labeling Interface, or use another pipeline"
        )
    return found


def match_target(
    model: LabelStudioMLBase,
    pretrained: Pretrained,
    control: str,
    on: str,
    names: list[str],
) -> Target:
    """The first control with a label that matches one of the model's label names.

    Raises:
        ModelSetupError: if the label config has no such control, or no label matches.
    """
    found = find_targets(model, pretrained, control, on)
    for target in found:
        labels = model.build_label_map(target.from_name, names)
        if not labels:
            continue
        if unused := [name for name in names if name not in labels]:
            log.info(
                "Unused labels of the model: pipeline=%s control=%r labels: %s",
                pretrained.pipeline,
                target.from_name,
                listed(unused),
            )
        return replace(target, labels=labels)
    first = found[0]
    one = _ONE_LABEL.get(control, "Label")
    label = first.choices[0] if first.choices else "Name"
    raise ModelSetupError(
        f'no label of <{control} name="{first.from_name}"> matches a label of the '
        f"model {pretrained.name}: the label config has {listed(first.choices)}, the "
        f"model has {listed(names)}; map them with predicted_values, for example "
        f'<{one} value="{label}" predicted_values="{names[0]}"/>'
    )


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Names as a text; if there are many, only the first ones."""
    more = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN]) or "no labels"
    return f"{shown} and {more} more" if more > 0 else shown


def _pairs(model: LabelStudioMLBase) -> Iterator[tuple[ControlTag, ObjectTag]]:
    objects = {shown.name: shown for shown in model.label_interface.objects or ()}
    for tag in model.label_interface.controls or ():
        for name in tag.to_name or []:
            if name in objects:
                yield tag, objects[name]


def _target(tag: ControlTag, shown: ObjectTag) -> Target:
    return Target(
        control=str(tag.tag),
        object=str(shown.tag),
        from_name=str(tag.name),
        to_name=str(shown.name),
        key=str(shown.value_name),
        is_url=str(shown.value_type).lower() == "url",
        is_multiple=tag.get_attr("choice") == "multiple",
        choices=tuple(tag.labels or ()),
    )


def _form(shown: ObjectTag) -> str:
    """Why an object is unsuitable; empty if it shows one key of a task's data."""
    given = "valueList" if shown.get_attr("valueList") else "value"
    is_key = re.fullmatch(r"\$[^$\s{}]+", str(shown.value))
    if is_key and given == "value":
        return ""
    return f' whose {given}="{shown.value}" is more than a key of the data'


def _is_per_region(tag: ControlTag) -> bool:
    return str(tag.get_attr("perRegion")).lower() == "true"
