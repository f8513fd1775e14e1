"""Calls the user's ``predict``, and turns what it returned into JSON.

Failures are classified on the way.
"""

from __future__ import annotations

import gc
import marshal
import math
import re
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from label_studio_sdk.label_interface.region import Region
from pydantic_core import from_json, to_json

from lsml_bento.contract import Context, Task
from lsml_bento.error_text import describe, locate
from lsml_bento.errors import (
    DeviceLost,
    LsmlError,
    MediaError,
    ModelError,
    OutOfMemory,
    PredictionError,
    WrongCount,
)
from lsml_bento.model.base_class import LabelStudioMLBase, accepted, current_runtime
from lsml_bento.model.response import ModelResponse, PredictionValue

EMPTY_SLOT = b"[]"
"""No prediction for a task, as Label Studio understands it."""

NOTHING_FOUND = b'{"result":[]}'
"""No suggestion for an annotator; Label Studio's page expects an object."""

_SERIALISING = "PydanticSerializationError: Error serializing to JSON: "

_PLAIN_ONLY = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)

Slot = bytes
"""The JSON of one task's entry in ``results``: an object, or a list of objects."""

_LASTING = re.compile(
    "device-side assert|illegal memory access|illegal instruction|misaligned address|"
    "unspecified launch failure|launch timed out|hardware stack error|uncorrectable ECC"
)
"""Errors after which this process can no longer use CUDA.

Source: CUDA's runtime API, ``cudaError_t``: "the process must be terminated".
"""

_device_is_lost = threading.Event()


def call(
    model: LabelStudioMLBase,
    tasks: list[Task],
    params: dict[str, Any],
    context: Context | None,
) -> object:
    """Call ``predict`` with a copy of the tasks.

    Raises:
        OutOfMemory: if the GPU's memory is too small.
        DeviceLost: if this process can no longer use the GPU.
        Exception: whatever ``predict`` raised.
    """
    arguments = {**params, "context": context}
    tasks = _copied(tasks)
    token = current_runtime.set(model._lsml)
    try:
        return model.predict(tasks, **accepted(type(model).predict, arguments))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if _is_out_of_memory(error):
            # The frames of the failed call still reference its tensors.
            traceback.clear_frames(error.__traceback__)
            free_memory()
            raise OutOfMemory(
                f"the GPU's memory is too small for {len(tasks)} tasks: lower "
                "LSML_MAX_BATCH_SIZE"
            ) from error
        if "CUDA error" in str(error) and _LASTING.search(str(error)):
            _device_is_lost.set()
            raise DeviceLost(
                f"this process cannot use the GPU any more: {locate(error)}"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        # asyncio would treat these as its own; a future cannot hold a StopIteration.
        raise ModelError(f"predict() raised {locate(error)}") from error
    finally:
        current_runtime.reset(token)


def is_device_lost() -> bool:
    """Whether a call failed so that only a new process can use the GPU again."""
    return _device_is_lost.is_set()


def try_sample(model: LabelStudioMLBase, task: Task) -> None:
    """Check that a model object can predict a task.

    Raises:
        ModelError: if it cannot. An unreadable file does not count.
    """
    try:
        found = render(call(model, [task], {}, None), 1, "")[0]
        if isinstance(found, Exception):
            raise found
    except MediaError:
        return
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot predict task {task.get('id')!r:.50}: "
            f"{locate(error)}"
        ) from error


def _copied(tasks: list[Task]) -> list[Task]:
    """A copy that user code may modify: a failed call is repeated with the originals.

    marshal copies plain JSON values an order of magnitude faster than deepcopy.
    """
    copied: list[Task] = marshal.loads(marshal.dumps(tasks))  # noqa: S302 - own bytes
    return copied


def _is_out_of_memory(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    said = "CUDA out of memory", "CUDA error: out of memory"
    return "OutOfMemoryError" in names or any(one in str(error) for one in said)


def free_memory() -> None:
    """Collect garbage, frozen objects included, and empty the GPU's cache.

    Other threads run no Python code meanwhile, for 0.1 s or more.
    """
    is_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if is_frozen:
        gc.freeze()
    # Another thread may be importing torch at this moment.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None:
        cuda.empty_cache()


def render(
    returned: object, expected: int, model_version: str
) -> list[Slot | Exception]:
    """One JSON entry per task.

    Args:
        returned: what ``predict`` returned: a ``ModelResponse``, a list with one item
            per task (a dict, a ``PredictionValue``, a list of those, or None), or None
            or an empty list for no predictions at all.
        expected: how many tasks it got.
        model_version: the serving version, set in every prediction.

    Returns:
        ``expected`` entries; a ``PredictionError`` for one that cannot be rendered.

    Raises:
        WrongCount: if the number of items differs from ``expected``.
        PredictionError: if ``returned`` is of any other type.
    """
    entries = _entries(returned)
    if not entries:
        return [EMPTY_SLOT] * expected
    if len(entries) != expected:
        raise WrongCount(expected, len(entries))
    return [_render_slot(entry, model_version) for entry in entries]


def for_annotator(slot: Slot) -> Slot:
    """The entry as one object: the first prediction, or ``NOTHING_FOUND``."""
    if slot == EMPTY_SLOT:
        return NOTHING_FOUND
    return to_json(from_json(slot)[0]) if slot.startswith(b"[") else slot


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
        "list with one item per task"
    )


def _render_slot(entry: object, model_version: str) -> Slot | Exception:
    try:
        if entry is None:
            return EMPTY_SLOT
        if isinstance(entry, LsmlError):  # for this task only
            return entry
        if isinstance(entry, (list, tuple)):
            several = [_prediction(one, model_version) for one in entry if one]
            return _json([one for one in several if one])
        return _json(_prediction(entry, model_version) or [])
    except PredictionError as error:
        return error
    except Exception as error:  # noqa: BLE001 - user objects may raise anything
        reason = describe(error).removeprefix(_SERIALISING)
        return PredictionError(f"a prediction cannot be sent as JSON: {reason}")


def _prediction(entry: object, model_version: str) -> dict[str, Any] | None:
    """The prediction that Label Studio gets, or None if it has no ``result``."""
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
    if isinstance(result, Region):
        result = [result]
    if not isinstance(result, (list, tuple)):
        return result
    # Relations follow the regions; the SDK's own dump nests them in a list.
    relations = [
        relation
        for region in result
        if isinstance(region, Region)
        for relation in region._dict_relations()
    ]
    return [*map(_region, result), *relations]


def _region(region: object) -> object:
    if not isinstance(region, Region):
        return region
    return {
        "id": region.id,
        "from_name": region.from_tag.name,
        "to_name": region.to_tag.name,
        "type": region.from_tag.tag.lower(),
        "value": region.value,
    }


def _score(score: object) -> float | None:
    """A finite number or None: any other score makes Label Studio lose the batch."""
    try:
        number = float(score)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - user objects may raise anything
        return None
    return number if math.isfinite(number) else None


def _json(value: object) -> Slot:
    try:
        # Most predictions are plain JSON, for which this is three times as fast.
        return orjson.dumps(value, option=_PLAIN_ONLY)
    except TypeError:
        return to_json(value, inf_nan_mode="null", fallback=_plain)


def _plain(value: object) -> object:
    """Numbers of numpy and torch as Python numbers, without importing either."""
    to_list = getattr(value, "tolist", None)  # arrays and scalars of both
    if callable(to_list):
        return to_list()
    raise TypeError(f"it contains a value of type {type(value).__name__}")
