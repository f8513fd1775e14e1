"""Does a model answer its label config in a way that Label Studio shows?

Label Studio hides or refuses much without a word: a wrong ``from_name`` is saved and
never drawn, one null loses a whole batch. Here it is said in sentences, before.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.control_tags import ControlTag

from lsml_bento.contract import Context, Task
from lsml_bento.errors import LsmlError, MediaError
from lsml_bento.model.label_config import parse_label_config
from lsml_bento.model.media import names_a_file
from lsml_bento.model.render import Slot, for_annotator

Severity = Literal["error", "warning", "note"]
Predict = Callable[[list[Task], Context | None], list[Slot | Exception]]
"""Slots as ``rendering.render`` makes them, or the error that a task met."""

_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Zoë met Ana 🐉 in São Paulo on 3 May; they paid 12.50 € for two coffees.",
    "Terrible! I waited three weeks, and nobody at Example Ltd answered my letters. "
    * 8,
)
_PERCENT = ("x", "y", "width", "height", "radiusX", "radiusY")
_SHAPES = ("rectangle", "ellipse", "polygon", "keypoint")
_KEYS = ("from_name", "to_name", "type", "value")


@dataclass(frozen=True)
class Finding:
    """One thing that a user should know, in a sentence.

    Attributes:
        severity: "error" is what Label Studio hides, refuses or breaks on.
        sentence: what was found, where, and what to do.
    """

    severity: Severity
    sentence: str


@dataclass(frozen=True)
class Report:
    """What came out of a check.

    Attributes:
        tasks: how many sample tasks were predicted.
        predictions: how many predictions came back for them, one by one.
        regions: how many regions these hold.
        first_s: the first call, with whatever the model does only once.
        single_s: the median of the other calls with one task; None with one sample.
        batch_s: one call with all tasks; None if it failed.
        findings: errors first.
    """

    tasks: int
    predictions: int
    regions: int
    first_s: float
    single_s: float | None
    batch_s: float | None
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(finding.severity != "error" for finding in self.findings)


class _Problems:
    """Findings as they come; one that repeats is told once, with a count."""

    def __init__(self) -> None:
        self._places: dict[tuple[Severity, str], list[str]] = {}

    def add(self, severity: Severity, place: str, what: str) -> None:
        """Note what is wrong, and where."""
        self._places.setdefault((severity, what), []).append(place)

    def findings(self) -> list[Finding]:
        """All of them, errors first."""
        order = ("error", "warning", "note")
        rows = sorted(self._places.items(), key=lambda row: order.index(row[0][0]))
        return [
            Finding(
                severity,
                ": ".join(filter(None, (places[0], what)))
                + (f" ({len(places) - 1} more like it)" if len(places) > 1 else ""),
            )
            for (severity, what), places in rows
        ]


def sample_tasks(label_config: str, count: int = 4) -> list[Task]:
    """Tasks as label-studio-sdk makes them up for the label config.

    The SDK knows one text only; the later tasks get others: one with every label in it,
    one with letters outside ASCII, a long one.

    Raises:
        LabelConfigError: if the label config does not parse.
    """
    interface = parse_label_config(label_config)
    labels = [label for control in interface.controls for label in control.labels or []]
    texts = (f"About {', '.join(labels)}.", *_TEXTS)
    tasks: list[Task] = []
    for place in range(count):
        data = interface.generate_sample_task()
        for tag in interface.objects:
            plain = tag.tag == "Text" and not names_a_file(str(data[tag.value_name]))
            if plain and place:
                data[tag.value_name] = texts[(place - 1) % len(texts)]
        tasks.append({"id": place + 1, "data": data, "annotations": []})
    return tasks


def check_model(
    label_config: str, predict: Predict, tasks: list[Task] | None = None
) -> Report:
    """Predict sample tasks one by one and together, and judge every region.

    Args:
        label_config: the XML that the model gets.
        predict: as the serving process calls the model; gets copies of the tasks.
        tasks: with ``data`` for the label config; sample tasks by default.

    Raises:
        LabelConfigError: if the label config does not parse.
    """
    interface = parse_label_config(label_config)
    tasks = tasks or sample_tasks(label_config)
    problems = _Problems()
    singles: list[Slot | None] = []
    times: list[float] = []
    predictions = regions = 0
    for number, task in enumerate(tasks, 1):
        slots, seconds = _call(predict, [task], None, f"task {number}", problems)
        times.append(seconds)
        singles.append(slots[0] if slots else None)
        for prediction in _parse(singles[-1], f"task {number}", problems):
            predictions += 1
            regions += _judge(interface, prediction, task, f"task {number}", problems)
    together, batch_s = _call(predict, tasks, None, "all tasks in one call", problems)
    _compare(singles, together, predict, tasks[0], problems)
    if not regions and not problems.findings():
        problems.add("warning", "all tasks", "predict found nothing in any of them")
    _suggest(interface, predict, tasks[0], singles[0], problems)
    return Report(
        tasks=len(tasks),
        predictions=predictions,
        regions=regions,
        first_s=times[0],
        single_s=statistics.median(times[1:]) if times[1:] else None,
        batch_s=batch_s if together else None,
        findings=problems.findings(),
    )


def check_results(
    label_config: str, results: list[Any], tasks: list[Task]
) -> list[Finding]:
    """Judge ``results`` of a ``/predict`` answer, one entry per task.

    Raises:
        LabelConfigError: if the label config does not parse.
    """
    interface = parse_label_config(label_config)
    problems = _Problems()
    if len(results) != len(tasks):
        problems.add(
            "error",
            "all tasks",
            f"{len(results)} results for {len(tasks)} tasks: Label Studio drops all",
        )
    for number, (slot, task) in enumerate(zip(results, tasks, strict=False), 1):
        place = f"task {number}"
        for prediction in _parse(json.dumps(slot).encode(), place, problems):
            _judge(interface, prediction, task, place, problems)
    return problems.findings()


def _call(
    predict: Predict,
    tasks: list[Task],
    context: Context | None,
    place: str,
    problems: _Problems,
) -> tuple[list[Slot | None], float]:
    """The slots, None for a task that failed; empty if the call failed."""
    started = time.perf_counter()
    try:
        slots = predict(copy.deepcopy(tasks), context)
    except Exception as error:  # noqa: BLE001 - a user's code may raise anything
        problems.add("error", place, _reason(error))
        return [], time.perf_counter() - started
    seconds = time.perf_counter() - started
    if len(slots) != len(tasks):
        problems.add(
            "error",
            place,
            f"predict got {len(tasks)} tasks and returned {len(slots)} predictions: "
            "return one per task, in order, [] for none",
        )
        return [], seconds
    kept: list[Slot | None] = []
    for number, slot in enumerate(slots, 1):
        if isinstance(slot, Exception):
            where = place if len(slots) == 1 else f"{place}, task {number}"
            severity: Severity = "warning" if isinstance(slot, MediaError) else "error"
            problems.add(severity, where, _reason(slot))
        kept.append(None if isinstance(slot, Exception) else slot)
    return kept, seconds


def _compare(
    singles: list[Slot | None],
    together: list[Slot | None],
    predict: Predict,
    task: Task,
    problems: _Problems,
) -> None:
    """Every task must get its own prediction, whatever arrives with it."""
    again = _call(predict, [task], None, "", _Problems())[0] if singles[0] else []
    if again and again[0] and singles[0] and not _same(again[0], singles[0]):
        problems.add("note", "task 1", "predicted twice, it gives two predictions")
        return
    for number, (alone, slot) in enumerate(zip(singles, together, strict=False), 1):
        if alone is None or slot is None or _same(alone, slot):
            continue
        other = [n for n, one in enumerate(singles, 1) if one and _same(one, slot)]
        if other:
            what = f"in one call with others it gets the prediction of task {other[0]}"
            problems.add("error", f"task {number}", f"{what}: keep the tasks' order")
        else:
            problems.add(
                "warning", f"task {number}", "it differs in one call with others"
            )


def _suggest(
    interface: LabelInterface,
    predict: Predict,
    task: Task,
    slot: Slot | None,
    problems: _Problems,
) -> None:
    """Ask as the labeling page does, with a region that the model itself found."""
    regions = [r for p in _parse(slot, "", _Problems()) for r in p["result"]]
    if not regions or any(f.severity == "error" for f in problems.findings()):
        return
    own = _Problems()
    context = {"result": [{**regions[0], "is_positive": True}]}
    slots, _ = _call(predict, [task], context, "a suggestion", own)
    for finding in own.findings():
        problems.add("warning", finding.sentence, "")
    if slots and slots[0] is not None:
        for prediction in _parse(for_annotator(slots[0]), "a suggestion", problems):
            _judge(interface, prediction, task, "a suggestion", problems)


def _same(one: Slot, other: Slot) -> bool:
    return _alike(json.loads(one), json.loads(other))


def _alike(one: Any, other: Any) -> bool:
    """Equal but for ids, which are random, and for the last digits of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = (one.keys() | other.keys()) - {"id", "from_id", "to_id"}
        return all(_alike(one.get(key), other.get(key)) for key in keys)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
        return numbers and math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-3)
    return bool(one == other)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, MediaError):
        return f"the sample's file was not read, try tasks of your own: {text}"
    if isinstance(error, LsmlError):
        return text
    return f"predict raised {type(error).__name__}: {text}"


def _parse(slot: Slot | None, place: str, problems: _Problems) -> list[dict[str, Any]]:
    """The predictions of a slot that Label Studio would save."""
    if slot is None:
        return []
    entry = json.loads(slot)
    predictions = []
    for prediction in entry if isinstance(entry, list) else [entry]:
        if not isinstance(prediction, dict):
            problems.add(
                "error",
                place,
                f"the prediction is {json.dumps(prediction)[:80]}, not an object: "
                "Label Studio fails with 500 and does not open the task; [] means none",
            )
        elif "result" not in prediction:
            problems.add(
                "error", place, "the prediction has no result: Label Studio skips it"
            )
        elif not isinstance(prediction["result"], list):
            problems.add(
                "error",
                place,
                f"result is {json.dumps(prediction['result'])[:80]}, not a list: Label "
                "Studio refuses the whole batch; [] means nothing found",
            )
        else:
            predictions.append(prediction)
    return predictions


def _judge(
    interface: LabelInterface,
    prediction: dict[str, Any],
    task: Task,
    place: str,
    problems: _Problems,
) -> int:
    """Add what is wrong with a prediction; how many regions it has."""
    for severity, what in _prediction_problems(prediction):
        problems.add(severity, place, what)
    result = prediction["result"]
    for number, region in enumerate(result):
        found = list(region_problems(interface, region, result, task))
        for severity, what in found:
            problems.add(severity, f"{place}, region {number}", what)
    ids = Counter(
        (str(region["id"]), str(region.get("from_name")))
        for region in result
        if isinstance(region, dict) and region.get("id")
    )
    for (_, name), times in ids.items():
        if times > 1:
            problems.add(
                "error",
                place,
                f"{times} regions of {name!r} have one id and become one in Label "
                "Studio: give each its own, or none",
            )
    return len(result)


def _prediction_problems(
    prediction: dict[str, Any],
) -> Iterator[tuple[Severity, str]]:
    score = prediction.get("score")
    if score is None:
        yield "note", "no score: the Data Manager can not sort by it"
    elif isinstance(score, bool) or not isinstance(score, (int, float)):
        yield "error", f"score is {score!r}: Label Studio refuses the whole batch"
    elif not 0 <= score <= 1:
        yield (
            "error",
            f"score {score:g} is not between 0 and 1: Label Studio refuses the whole "
            "batch when it validates predictions",
        )
    if "model_version" in prediction and prediction["model_version"] is None:
        yield "error", "model_version is null: Label Studio refuses the whole batch"


def region_problems(
    interface: LabelInterface, region: Any, result: list[Any], task: Task
) -> Iterator[tuple[Severity, str]]:
    """What Label Studio would hide or refuse of one region.

    Args:
        interface: the parsed label config.
        region: one entry of ``result``.
        result: the whole of it, as regions may share an id.
        task: whose ``data`` text offsets count in.
    """
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
    if not any(severity == "error" for severity, _ in found):
        found += _sdk_problems(interface, region, result)
    yield from found
    if not region.get("id"):
        yield "note", "no id: Label Studio makes one up, relations can not name it"


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
        return f"type {type_!r} is no text: Label Studio refuses it"
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
            "does not show it, or refuses the whole batch",
        )


def _shape_problems(
    control: ControlTag, region: dict[str, Any]
) -> Iterator[tuple[Severity, str]]:
    """Images are measured in percent of their width and height."""
    kind, value = str(control.tag).lower().removesuffix("labels"), region["value"]
    if kind in ("brush", "bitmask") and not (
        region.get("original_width") and region.get("original_height")
    ):
        yield "error", "a mask without original_width and original_height is not drawn"
    if kind not in _SHAPES:
        return
    points = value.get("points")
    pairs = [p for p in points if isinstance(p, (list, tuple))] if points else []
    numbers = {key: value[key] for key in _PERCENT if key in value}
    numbers |= {f"point {n}": x for n, p in enumerate(pairs) for x in p if not _in(x)}
    wrong = [f"{key} {number}" for key, number in numbers.items() if not _in(number)]
    if wrong:
        yield (
            "error",
            f"{', '.join(wrong)} is not within 0 to 100: Label Studio measures in "
            "percent of the image, not in pixels",
        )
    elif kind == "rectangle" and not value.get("rotation"):
        for start, size in (("x", "width"), ("y", "height")):
            if value.get(start, 0) + value.get(size, 0) > 100.01:
                yield "warning", f"{start} + {size} is over 100: it leaves the image"


def _in(number: object) -> bool:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return False
    return math.isfinite(number) and 0 <= number <= 100


def _span_problems(
    interface: LabelInterface, control: ControlTag, region: dict[str, Any], task: Task
) -> Iterator[tuple[Severity, str]]:
    """Offsets into a text are half-open and count code points."""
    names = {tag.name: tag.value_name for tag in interface.objects if tag.tag == "Text"}
    text = task["data"].get(names.get(region["to_name"]))
    if control.tag != "Labels" or not isinstance(text, str) or names_a_file(text):
        return
    start, end = region["value"].get("start"), region["value"].get("end")
    if type(start) is not int or type(end) is not int:
        yield "error", f"start {start!r} and end {end!r} should be whole numbers"
    elif not 0 <= start < end <= len(text):
        yield (
            "error",
            f"start {start} and end {end} are not 0 <= start < end <= {len(text)}, the "
            "text's length in code points: Label Studio does not show it",
        )
    elif region["value"].get("text", text[start:end]) != text[start:end]:
        said = str(region["value"]["text"])[:60]
        yield (
            "error",
            f"text is {said!r} where the task has {text[start:end][:60]!r}: count "
            "offsets in code points of the text as it stands in the task",
        )


def _sdk_problems(
    interface: LabelInterface, region: dict[str, Any], result: list[Any]
) -> Iterator[tuple[Severity, str]]:
    """What label-studio-sdk's own validation, which Label Studio uses, refuses."""
    context = {"result": result, "region": region}
    for reason in interface.validate_region(
        region, return_errors=True, context=context
    ):
        yield "error", f"label-studio-sdk refuses it: {reason.split(': ', 1)[-1][:300]}"
