"""Calls the user's ``predict`` and classifies its failures."""

from __future__ import annotations

import gc
import inspect
import marshal
import re
import sys
import threading
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from lsml_bento.contract import Context, Task
from lsml_bento.error_text import locate
from lsml_bento.errors import DeviceLost, MediaError, ModelError, OutOfMemory
from lsml_bento.model.base_class import LabelStudioMLBase, current_runtime
from lsml_bento.model.render import render

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
        return model.predict(tasks, **_accepted(type(model).predict, arguments))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if _is_out_of_memory(error):
            # The frames of the failed call still reference its tensors.
            traceback.clear_frames(error.__traceback__)
            _free_memory()
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


def _accepted(predict: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the user's ``predict`` accepts."""
    names = _parameters(predict)
    if names is None:
        return arguments
    return {name: value for name, value in arguments.items() if name in names}


@lru_cache(maxsize=16)
def _parameters(predict: Callable[..., Any]) -> frozenset[str] | None:
    """The argument names of ``predict``; None if it accepts any."""
    parameters = inspect.signature(predict).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters)


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


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.cuda.empty_cache()
