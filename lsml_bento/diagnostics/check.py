"""Does a model answer its label config in a way that Label Studio accepts?"""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from label_studio_sdk.label_interface import LabelInterface

from lsml_bento.contract import Context, Task
from lsml_bento.diagnostics.results import (
    Finding,
    Findings,
    Severity,
    check_prediction,
    predictions_of,
)
from lsml_bento.errors import LsmlError, MediaError, TrainingError
from lsml_bento.model.base_class import (
    FIT_SHAPE,
    LabelStudioMLBase,
    bind_fit,
    takes_annotations,
)
from lsml_bento.model.invoke import Slot, for_annotator
from lsml_bento.model.label_config import (
    index_flags,
    key_parts,
    parse_label_config,
    variables,
)
from lsml_bento.model.media import names_a_file
from lsml_bento.model.training_policy import START_TRAINING

Predict = Callable[[list[Task], Context | None], list[Slot | Exception]]
"""Returns slots that ``model.invoke`` makes, or the errors of single tasks."""

_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Zoë met Ana 🐉 in São Paulo on 3 May; they paid 12.50 € for two coffees.",
    "Terrible! I waited three weeks, and nobody at Example Ltd answered my letters. "
    * 8,
)


@dataclass(frozen=True)
class ModelReport:
    """The result of ``check_model``.

    Attributes:
        tasks: number of sample tasks.
        predictions: number of predictions in the calls with one task.
        regions: number of regions in these predictions.
        first_s: seconds of the first call, which may include initialization.
        single_s: median seconds of the other calls with one task; None with one sample.
        batch_s: seconds of one call with all tasks; None if it failed.
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
        return all(finding.severity != "error" for finding in self.findings)


def sample_tasks(label_config: str, count: int = 4) -> list[Task]:
    """Sample tasks for the label config, with the values that label-studio-sdk has.

    The SDK has one sample text only. The later tasks get others: one with every label,
    one with characters outside ASCII, a long one. A ``<Repeater>`` gets two items.
    """
    interface = parse_label_config(label_config)
    labels = [label for control in interface.controls for label in control.labels or []]
    texts = (f"About {', '.join(labels)}.", *_TEXTS)
    tasks: list[Task] = []
    for place in range(count):
        text = texts[(place - 1) % len(texts)] if place else None
        data: dict[str, Any] = {}
        for value, example in _examples(interface, text):
            for key in variables(value):
                _put(data, key, copy.deepcopy(example))
        tasks.append({"id": place + 1, "data": data, "annotations": []})
    return tasks


def _examples(
    interface: LabelInterface, text: str | None
) -> Iterator[tuple[str, object]]:
    """Each tag's ``value`` without index flags, and an example for its data."""
    flags = index_flags(interface)
    for tag in interface.objects:
        if not tag.value:  # e.g. <Chat>, which may have none
            continue
        try:
            example = tag.generate_example_value()
        except NotImplementedError:  # a TimeSeries with a timeFormat: as a URL
            example = tag.generate_example_value(secure_mode=True)
        if text is not None and tag.tag == "Text" and not names_a_file(str(example)):
            example = text
        if tag.get_attr("valueList"):
            example = [example]
        yield from ((value, example) for value in _repeated(str(tag.value), flags))
    for control in interface.controls:
        if control.dynamic_value and (value := control.get_attr("value")):
            options = [{"value": "First option"}, {"value": "Second option"}]
            yield from ((one, options) for one in _repeated(value, flags))


def _repeated(value: str, flags: list[str]) -> list[str]:
    """The value for two items of each Repeater that it is in."""
    values = [value]
    for flag in flags:
        values = [one.replace(flag, number) for one in values for number in ("0", "1")]
    return list(dict.fromkeys(values))


def _put(data: Any, key: str, value: object) -> None:
    """Set what ``look_up`` finds for a key, unless another tag has set it."""
    parts = key_parts(key)
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        missing = value if after is None else [] if isinstance(after, int) else {}
        if isinstance(part, int) and isinstance(data, list):
            data += [None] * (part + 1 - len(data))
            data[part] = missing if data[part] is None else data[part]
            data = data[part]
        elif isinstance(part, str) and isinstance(data, dict):
            data = data.setdefault(part, missing)
        else:
            return


def check_model(
    label_config: str,
    predict: Predict,
    tasks: list[Task] | None = None,
    model_class: type[LabelStudioMLBase] = LabelStudioMLBase,
) -> ModelReport:
    """Predict sample tasks one by one and together, and check every region.

    Args:
        label_config: the XML that the model gets.
        predict: calls the model as a server does. It gets copies of the tasks.
        tasks: with ``data`` for the label config (default: sample tasks).
        model_class: whose ``fit`` is checked: a job must be able to call it.

    Raises:
        LabelConfigError: if the label config does not parse.
    """
    interface = parse_label_config(label_config)
    tasks = tasks or sample_tasks(label_config)
    findings = Findings()
    singles: list[Slot | None] = []
    times: list[float] = []
    predictions = regions = 0
    for number, task in enumerate(tasks, 1):
        place = f"task {number}"
        slots, seconds = _call(predict, [task], None, place, findings)
        times.append(seconds)
        singles.append(slots[0] if slots else None)
        for prediction in predictions_of(singles[-1], place, findings):
            predictions += 1
            regions += check_prediction(interface, prediction, task, place, findings)
    together, batch_s = _call(predict, tasks, None, "all tasks in one call", findings)
    _compare(singles, together, predict, tasks[0], findings)
    if not regions and not findings.all():
        what = "predict returned no regions for any of them"
        findings.add("warning", "all tasks", what)
    _suggest(interface, predict, tasks[0], singles[0], findings)
    _check_fit(model_class, findings)
    return ModelReport(
        tasks=len(tasks),
        predictions=predictions,
        regions=regions,
        first_s=times[0],
        single_s=statistics.median(times[1:]) if times[1:] else None,
        batch_s=batch_s if together else None,
        findings=findings.all(),
    )


def _call(
    predict: Predict,
    tasks: list[Task],
    context: Context | None,
    place: str,
    findings: Findings,
) -> tuple[list[Slot | None], float]:
    """Call the model.

    Returns:
        The slots, None for a failed task, or [] if the call failed; and the seconds.
    """
    started = time.perf_counter()
    try:
        slots = predict(copy.deepcopy(tasks), context)
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        findings.add("error", place, _reason(error))
        return [], time.perf_counter() - started
    seconds = time.perf_counter() - started
    if len(slots) != len(tasks):
        findings.add(
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
            findings.add(severity, where, _reason(slot))
        kept.append(None if isinstance(slot, Exception) else slot)
    return kept, seconds


def _compare(
    singles: list[Slot | None],
    together: list[Slot | None],
    predict: Predict,
    task: Task,
    findings: Findings,
) -> None:
    """A task must get the same prediction alone and in a call with others."""
    again = _call(predict, [task], None, "", Findings())[0] if singles[0] else []
    if again and again[0] and singles[0] and not _same(again[0], singles[0]):
        what = "not deterministic: two calls returned different predictions"
        findings.add("note", "task 1", what)
        return
    for number, (alone, slot) in enumerate(zip(singles, together, strict=False), 1):
        if alone is None or slot is None or _same(alone, slot):
            continue
        other = [n for n, one in enumerate(singles, 1) if one and _same(one, slot)]
        if other:
            what = f"in a call with others it gets the prediction of task {other[0]}"
            findings.add("error", f"task {number}", f"{what}: keep the tasks' order")
        else:
            what = "it gets another prediction in a call with others"
            findings.add("warning", f"task {number}", what)


def _suggest(
    interface: LabelInterface,
    predict: Predict,
    task: Task,
    slot: Slot | None,
    findings: Findings,
) -> None:
    """Ask for a suggestion, as the labeling page does, with a region of the model."""
    regions = [r for p in predictions_of(slot, "", Findings()) for r in p["result"]]
    if not regions or any(f.severity == "error" for f in findings.all()):
        return
    own = Findings()
    context = {"result": [{**regions[0], "is_positive": True}]}
    slots, _ = _call(predict, [task], context, "a suggestion", own)
    for finding in own.all():
        findings.add("warning", finding.message, "")
    if slots and slots[0] is not None:
        answer = for_annotator(slots[0])
        for prediction in predictions_of(answer, "a suggestion", findings):
            check_prediction(interface, prediction, task, "a suggestion", findings)


def _check_fit(model_class: type[LabelStudioMLBase], findings: Findings) -> None:
    """Check that a job can call ``fit``, and say so if it is one of 1.0."""
    fit = partial(model_class.fit, None)  # type: ignore[arg-type]  # in place of self
    try:
        bind_fit(fit, START_TRAINING, {}, list, job_id="", workdir="")
    except TrainingError as error:
        findings.add("error", "training", str(error))
    else:
        if takes_annotations(fit):
            findings.add(
                "note",
                "training",
                "fit has the shape of label_studio_ml 1.0: it gets the annotated tasks "
                "and a directory below MODEL_DIR, and what it returns becomes "
                f"self.train_output; in new code write {FIT_SHAPE}",
            )


def _same(one: Slot, other: Slot) -> bool:
    return _alike(json.loads(one), json.loads(other))


def _alike(one: Any, other: Any) -> bool:
    """Whether values are equal except for ids and the last digits of numbers."""
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
        return f"cannot read the sample's file; use tasks of your own: {text}"
    if isinstance(error, LsmlError):
        return text
    return f"predict raised {type(error).__name__}: {text}"
