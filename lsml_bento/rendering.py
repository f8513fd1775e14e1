"""From what ``predict`` returned to the JSON of one slot per task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from label_studio_sdk.label_interface.region import Region
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from lsml_bento.errors import PredictionError, WrongCount
from lsml_bento.response import ModelResponse, PredictionValue

EMPTY_SLOT = b"[]"
"""No prediction for a task, as Label Studio understands it."""

NOTHING_FOUND = b'{"result":[]}'
"""No suggestion for an annotator: Label Studio's page reads ``result`` of an object."""

Slot = bytes
"""The JSON of one task's entry in ``results``: an object, or a list of objects."""


def render(
    returned: object, expected: int, model_version: str
) -> list[Slot | Exception]:
    """One slot per task.

    Args:
        returned: what ``predict`` returned: a ``ModelResponse``, a list with one entry
            per task (a dict, a ``PredictionValue``, a list of those, or None), or None
            or an empty list for no prediction at all.
        expected: how many tasks it got.
        model_version: the version that serves; given to every prediction.

    Returns:
        ``expected`` entries; one that can not be rendered is a ``PredictionError``.

    Raises:
        WrongCount: if the number of entries is another one.
        PredictionError: if ``returned`` is nothing of the above.
    """
    entries = _entries(returned)
    if not entries:
        return [EMPTY_SLOT] * expected
    if len(entries) != expected:
        raise WrongCount(expected, len(entries))
    return [_render_slot(entry, model_version) for entry in entries]


def for_annotator(slot: Slot) -> Slot:
    """The slot as an object: the first of several predictions, or nothing found."""
    if not slot.startswith(b"["):
        return slot
    if slot == EMPTY_SLOT:
        return NOTHING_FOUND
    return _first(slot)


def _first(slot: Slot) -> Slot:
    from pydantic_core import from_json  # noqa: PLC0415 - the rare case

    return to_json(from_json(slot)[0])


def _entries(returned: object) -> Sequence[Any]:
    if isinstance(returned, ModelResponse):
        return returned.predictions
    if isinstance(returned, dict) and "predictions" in returned:
        returned = returned["predictions"]
    if returned is None:
        return []
    if isinstance(returned, (list, tuple)):
        return returned
    raise PredictionError(
        f"predict() returned {type(returned).__name__}: return a ModelResponse or a "
        "list with one entry per task"
    )


def _render_slot(entry: object, model_version: str) -> Slot | Exception:
    try:
        if entry is None:
            return EMPTY_SLOT
        if isinstance(entry, (list, tuple)):
            several = [_prediction(one, model_version) for one in entry]
            return _json([one for one in several if one])
        return _json(_prediction(entry, model_version) or [])
    except PredictionError as error:
        return error
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        return PredictionError(f"a prediction can not be sent as JSON: {error}")


def _prediction(entry: object, model_version: str) -> dict[str, Any] | None:
    """The wire object, or None for a prediction without a ``result``."""
    fields: Mapping[str, Any]
    if isinstance(entry, PredictionValue):
        fields = {"result": entry.result, "score": entry.score}
    elif isinstance(entry, Mapping):
        fields = entry
    else:
        raise PredictionError(
            f"a prediction is a dict or a PredictionValue, not {type(entry).__name__}"
        )
    if "result" not in fields:
        return None
    return {
        **fields,
        "result": _result(fields["result"]),
        "score": _score(fields.get("score")),
        "model_version": model_version,
    }


def _result(result: object) -> object:
    if result is None:
        return []
    if not isinstance(result, (list, tuple)):
        return result
    if not any(isinstance(region, Region) for region in result):
        return result
    return PredictionValue.model_construct(result=list(result)).model_dump()["result"]


def _score(score: object) -> float | None:
    """A finite number or None: Label Studio loses a batch over any other score."""
    try:
        number = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _json(value: object) -> Slot:
    return to_json(value, inf_nan_mode="null", fallback=_plain)


def _plain(value: object) -> object:
    """Numbers out of numpy and torch, without importing either."""
    if isinstance(value, Region):
        return value._dict()
    if isinstance(value, BaseModel):
        return value.model_dump()
    to_list = getattr(value, "tolist", None)  # arrays and scalars of both have it
    if callable(to_list):
        return to_list()
    raise PredictionError(
        f"a prediction holds a {type(value).__name__}, which JSON can not"
    )
