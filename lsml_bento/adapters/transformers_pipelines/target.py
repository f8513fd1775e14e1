"""Which control of a label config a pipeline fills, and with which labels."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from label_studio_sdk.label_interface.control_tags import ControlTag
from label_studio_sdk.label_interface.object_tags import ObjectTag

from lsml_bento.errors import ModelSetupError
from lsml_bento.model.base_class import LabelStudioMLBase

log = logging.getLogger(__name__)

_SHOWN = 12
_ONE_LABEL = {"Choices": "Choice"}
"""The tag of one label; ``Label`` in all other controls."""


@dataclass(frozen=True)
class Target:
    """A control, and the object that it is about.

    Attributes:
        control: the control's tag, such as ``Labels``.
        object: the object's tag, such as ``Text``.
        from_name: the control's name.
        to_name: the object's name.
        key: of the task's data.
        is_url: whether the data holds the address of a text in place of a text.
        is_multiple: whether several choices may be picked.
        choices: the labels of the label config, in its order.
        labels: a label for each name that the model has for one.
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
        """A region of this control."""
        return {
            "id": uuid.uuid4().hex[:10],
            "from_name": self.from_name,
            "to_name": self.to_name,
            "type": self.control.lower(),
            "value": value,
            **more,
        }


def find_target(
    model: LabelStudioMLBase, pipeline: str, control: str, on: str
) -> Target:
    """The first control of a kind on an object of a kind.

    Raises:
        ModelSetupError: if the label config has none.
    """
    return _targets(model, pipeline, control, on)[0]


def match_target(
    model: LabelStudioMLBase,
    pipeline: str,
    control: str,
    on: str,
    *,
    names: list[str],
    owner: str,
) -> Target:
    """The first control that has a label for one of the model's names.

    Args:
        model: whose label config it is.
        pipeline: as the user calls it.
        control: the control's tag.
        on: the object's tag.
        names: the model's names for its labels.
        owner: the model's name, for the error.

    Raises:
        ModelSetupError: if the label config has no such control, or none of its labels
            is one of the model's.
    """
    found = _targets(model, pipeline, control, on)
    for target in found:
        labels = model.build_label_map(target.from_name, names)
        if not labels:
            continue
        if unused := [name for name in names if name not in labels]:
            log.info(
                "%s: no label of %r is for what the model calls %s",
                pipeline,
                target.from_name,
                listed(unused),
            )
        return replace(target, labels=labels)
    first = found[0]
    one = _ONE_LABEL.get(control, "Label")
    label = first.choices[0] if first.choices else "Name"
    raise ModelSetupError(
        f"the model {owner} knows {listed(names)}, and <{control} "
        f'name="{first.from_name}"> of the label config has {listed(first.choices)}: '
        "none match; say which is which with predicted_values, as in "
        f'<{one} value="{label}" predicted_values="{names[0]}"/>'
    )


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Names for a sentence, the first dozen of many."""
    more = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN]) or "no labels"
    return f"{shown} and {more} more" if more > 0 else shown


def _targets(
    model: LabelStudioMLBase, pipeline: str, control: str, on: str
) -> list[Target]:
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
            f"the pipeline {pipeline} fills <{control}> on <{on}>, and the label "
            f"config has {', '.join(dict.fromkeys(have)) or 'no control'}: add one "
            "under Settings > Labeling Interface, or start another pipeline"
        )
    return found


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
    """What is wrong with an object that does not show one key of a task's data."""
    given = "valueList" if shown.get_attr("valueList") else "value"
    is_key = re.fullmatch(r"\$[^$\s\[\]]+", str(shown.value))
    if is_key and given == "value":
        return ""
    return f' whose {given}="{shown.value}" is more than a key of the data'


def _is_per_region(tag: ControlTag) -> bool:
    return str(tag.get_attr("perRegion")).lower() == "true"
