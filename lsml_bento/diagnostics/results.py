"""What Label Studio hides or rejects of the results of ``/predict``.

Label Studio does much of this without an error: a region with a wrong ``from_name`` is
saved and never drawn, and one null loses a whole batch.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.control_tags import ControlTag

from lsml_bento.contract import Task
from lsml_bento.model.invoke import Slot
from lsml_bento.model.label_config import look_up, parse_label_config, unroll
from lsml_bento.model.media import names_a_file

Severity = Literal["error", "warning", "note"]

_PERCENT = ("x", "y", "width", "height", "radiusX", "radiusY")
_SIZES = ("width", "height", "radiusX", "radiusY")
_PIXELS, _PIXELS_ROTATED = 150, 1000
"""Above these a coordinate is plainly not a percentage."""
_SHAPES = ("rectangle", "ellipse", "polygon", "keypoint")
_OUTSIDE = "is outside the image, which spans 0 to 100"
_KEYS = ("from_name", "to_name", "type", "value")


@dataclass(frozen=True)
class Finding:
    """One thing that the author of the model should know.

    Attributes:
        severity: "error" if Label Studio hides it, rejects it or fails on it.
        message: where, what was found, and what to do.
    """

    severity: Severity
    message: str


class Findings:
    """Collects findings; those that differ only in the place become one."""

    def __init__(self) -> None:
        self._places: dict[tuple[Severity, str], list[str]] = {}

    def add(self, severity: Severity, place: str, message: str) -> None:
        self._places.setdefault((severity, message), []).append(place)

    def all(self) -> list[Finding]:
        """All findings, errors first."""
        order = ("error", "warning", "note")
        rows = sorted(self._places.items(), key=lambda row: order.index(row[0][0]))
        return [
            Finding(
                severity,
                ": ".join(filter(None, (places[0], message)))
                + (f" ({len(places) - 1} more)" if len(places) > 1 else ""),
            )
            for (severity, message), places in rows
        ]


def check_results(
    label_config: str, results: list[Any], tasks: list[Task]
) -> list[Finding]:
    """What Label Studio would hide or reject of ``/predict``'s ``results``.

    Raises:
        LabelConfigError: if the label config does not parse.
    """
    interface = parse_label_config(label_config)
    findings = Findings()
    if len(results) != len(tasks):
        findings.add(
            "error",
            "all tasks",
            f"{len(results)} results for {len(tasks)} tasks: Label Studio drops all",
        )
    for number, (slot, task) in enumerate(zip(results, tasks, strict=False), 1):
        place = f"task {number}"
        for prediction in predictions_of(json.dumps(slot).encode(), place, findings):
            check_prediction(interface, prediction, task, place, findings)
    return findings.all()


def predictions_of(
    slot: Slot | None, place: str, findings: Findings
) -> list[dict[str, Any]]:
    """The predictions of a slot that Label Studio would save."""
    if slot is None:
        return []
    entry = json.loads(slot)
    error = partial(findings.add, "error", place)
    predictions = []
    for prediction in entry if isinstance(entry, list) else [entry]:
        if not isinstance(prediction, dict):
            error(
                f"the prediction is {json.dumps(prediction)[:80]}, not an object: "
                "Label Studio answers 500 and does not open the task; use [] for none"
            )
        elif "result" not in prediction:
            error("the prediction has no result: Label Studio skips it")
        elif not isinstance(prediction["result"], list):
            error(
                f"result is {json.dumps(prediction['result'])[:80]}, not a list: Label "
                "Studio rejects the whole batch; use [] for no regions"
            )
        else:
            predictions.append(prediction)
    return predictions


def check_prediction(
    interface: LabelInterface,
    prediction: dict[str, Any],
    task: Task,
    place: str,
    findings: Findings,
) -> int:
    """Add what is wrong with a prediction. Returns how many regions it has."""
    interface = unroll(interface, task["data"])
    for severity, what in _prediction_problems(prediction):
        findings.add(severity, place, what)
    result = prediction["result"]
    for number, region in enumerate(result):
        for severity, what in _region_problems(interface, region, result, task):
            findings.add(severity, f"{place}, region {number}", what)
    ids = Counter(
        (str(region["id"]), str(region.get("from_name")))
        for region in result
        if isinstance(region, dict) and region.get("id")
    )
    for (_, name), times in ids.items():
        if times > 1:
            findings.add(
                "error",
                place,
                f"{times} regions of {name!r} have the same id and become one in Label "
                "Studio: give each its own id, or none",
            )
    return len(result)


def _prediction_problems(prediction: dict[str, Any]) -> Iterator[tuple[Severity, str]]:
    score = prediction.get("score")
    if score is None:
        yield "note", "no score: the Data Manager cannot sort by it"
    elif isinstance(score, bool) or not isinstance(score, (int, float)):
        yield "error", f"score is {score!r}: Label Studio rejects the whole batch"
    elif not 0 <= score <= 1:
        yield (
            "error",
            f"score {score:g} is not between 0 and 1: Label Studio rejects the whole "
            "batch when it validates predictions",
        )
    if "model_version" in prediction and prediction["model_version"] is None:
        yield "error", "model_version is null: Label Studio rejects the whole batch"


def _region_problems(
    interface: LabelInterface, region: Any, result: list[Any], task: Task
) -> Iterator[tuple[Severity, str]]:
    """What Label Studio would hide or reject of one region of ``result``."""
    if not isinstance(region, dict):
        yield "error", f"a region is {json.dumps(region)[:80]}, not an object"
        return
    if region.get("type") == "relation":
        if reason := interface.validate_relation(region, result, return_errors=True):
            yield "error", "; ".join([reason] if isinstance(reason, str) else reason)
        return
    if missing := [key for key in _KEYS if key not in region]:
        yield "error", f"{' and '.join(missing)} missing: Label Studio does not show it"
        return
    control = _control(interface, region)
    if isinstance(control, str):
        yield "error", control
        return
    found = [*_label_problems(control, region), *_shape_problems(control, region)]
    found += _span_problems(interface, control, region, task)
    # The SDK rejects what is outside by more or less, which is only a warning here.
    if not any(severity == "error" or _OUTSIDE in what for severity, what in found):
        found += _sdk_problems(interface, region, result)
    yield from found
    if not region.get("id"):
        yield "note", "no id: Label Studio generates one, relations cannot refer to it"


def _control(interface: LabelInterface, region: dict[str, Any]) -> ControlTag | str:
    """The region's control tag, or what is wrong with the names of the region."""
    controls = {str(control.name): control for control in interface.controls}
    name, to_name, type_ = region["from_name"], region["to_name"], region["type"]
    control: ControlTag | None = controls.get(str(name))
    if control is None:
        return (
            f"from_name {name!r} is not in the label config, which has "
            f"{', '.join(controls) or 'no control'}: Label Studio does not show it"
        )
    targets = control.to_name or []
    if to_name not in targets:
        return (
            f"to_name {to_name!r} should be {' or '.join(targets)} for {name!r}: Label "
            "Studio does not show it"
        )
    if not isinstance(type_, str):
        return f"type {type_!r} is not a string: Label Studio rejects it"
    if not isinstance(region["value"], dict):
        return f"value is {type(region['value']).__name__}, not an object"
    return control


def _label_problems(
    control: ControlTag, region: dict[str, Any]
) -> Iterator[tuple[Severity, str]]:
    key = getattr(control, "_label_attr_name", None)
    given = region["value"].get(key) if key else None
    labels: list[str] = control.labels or []
    if not isinstance(given, list) or not labels or control.dynamic_value:
        return
    unknown = [label for label in given if str(label) not in labels]
    if unknown and key != "taxonomy":
        yield (
            "error",
            f"{', '.join(map(repr, unknown))} is not in the label config, where "
            f"{control.name!r} has {', '.join(labels[:20])}: Label Studio "
            "does not show it, or rejects the whole batch",
        )


def _shape_problems(
    control: ControlTag, region: dict[str, Any]
) -> Iterator[tuple[Severity, str]]:
    """Coordinates are in percent of the image's width and height."""
    kind, value = str(control.tag).lower().removesuffix("labels"), region["value"]
    if kind in ("brush", "bitmask") and not (
        region.get("original_width") and region.get("original_height")
    ):
        yield "error", "a mask without original_width and original_height is not drawn"
    if kind not in _SHAPES:
        return
    points = value.get("points")
    pairs = (
        [p for p in points if isinstance(p, list)] if isinstance(points, list) else []
    )
    numbers = [(key, value[key]) for key in _PERCENT if key in value]
    numbers += [
        (f"point {n}", number) for n, pair in enumerate(pairs) for number in pair
    ]
    if wrong := [f"{key} {x!r}" for key, x in numbers if not _is_number(x)]:
        yield "error", f"{', '.join(wrong)} is not a number"
        return
    # The corner of a rotated box may lie outside, and its sides are in percent of the
    # unrotated image's width and height.
    limit = _PIXELS_ROTATED if value.get("rotation") else _PIXELS
    if wrong := [f"{key} {x}" for key, x in numbers if abs(x) > limit]:
        what = "coordinates are in percent of the image, not in pixels"
        yield "error", f"{', '.join(wrong)}: {what}"
        return
    if wrong := [f"{key} {x}" for key, x in numbers if key in _SIZES and x < 0]:
        what = "is not a size: use a number that is not negative"
        yield "error", f"{', '.join(wrong)} {what}"
        return
    if outside := [f"{key} {x}" for key, x in numbers if not 0 <= x <= 100]:
        yield (
            "warning",
            f"{', '.join(outside)} {_OUTSIDE}: Label Studio may reject it when it "
            "validates predictions",
        )
    elif kind == "rectangle" and not value.get("rotation"):
        for start, size in (("x", "width"), ("y", "height")):
            if value.get(start, 0) + value.get(size, 0) > 100.01:
                yield "warning", f"{start} + {size} is over 100: outside the image"


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)


def _span_problems(
    interface: LabelInterface, control: ControlTag, region: dict[str, Any], task: Task
) -> Iterator[tuple[Severity, str]]:
    """Text offsets count code points, and the end is exclusive."""
    names = {tag.name: tag.value_name for tag in interface.objects if tag.tag == "Text"}
    key = names.get(region["to_name"])
    text = None if key is None else look_up(task["data"], key)
    if control.tag != "Labels" or not isinstance(text, str) or names_a_file(text):
        return
    start, end = region["value"].get("start"), region["value"].get("end")
    if type(start) is not int or type(end) is not int:
        yield "error", f"start {start!r} and end {end!r} must be integers"
    elif not 0 <= start < end <= len(text):
        yield (
            "error",
            f"start {start} and end {end} are not 0 <= start < end <= {len(text)}, the "
            "text's length in code points: Label Studio does not show it",
        )
    elif region["value"].get("text", text[start:end]) != text[start:end]:
        given = str(region["value"]["text"])[:60]
        yield (
            "error",
            f"text is {given!r} where the task has {text[start:end][:60]!r}: count "
            "offsets in code points of the text in the task",
        )


def _sdk_problems(
    interface: LabelInterface, region: dict[str, Any], result: list[Any]
) -> Iterator[tuple[Severity, str]]:
    """What label-studio-sdk's validation, which Label Studio uses, rejects."""
    context = {"result": result, "region": region}
    for reason in interface.validate_region(
        region, return_errors=True, context=context
    ):
        yield "error", f"label-studio-sdk rejects it: {reason.split(': ', 1)[-1][:300]}"
