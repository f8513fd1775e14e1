"""Helpers for torch models: device, inference mode, batches, transfer to the GPU.

They work the same on a CPU. Import them in your own code::

    from lsml_bento.torch import batches, device, inference, to_device

    def load(self, weights):
        self.network = read(weights).to(device()).eval()

    @inference()
    def predict(self, tasks, context=None, **kwargs):
        rows = [encode(task) for task in tasks]
        plan = batches([len(row) for row in rows], max_tokens=16_384)
        return plan.in_order(self._answers([rows[i] for i in batch]) for batch in plan)

Shapes: B is the number of items in a batch, T the tokens of its longest item.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

__all__ = ["Batches", "batches", "device", "inference", "to_device"]

_Answer = TypeVar("_Answer")
_Value = TypeVar("_Value")

_BF16_CAPABILITY = (8, 0)
"""Ampere. Older GPUs emulate bfloat16, slower than float32."""


def device() -> torch.device:
    """The device for this process: ``cuda``, else Apple's ``mps``, else ``cpu``.

    ``cuda`` is the first GPU that is visible to the process. Each of several serving
    processes sees its share of the service's GPUs, and a ``fit`` sees
    ``LSML_TRAIN_GPUS``. Both are set in ``CUDA_VISIBLE_DEVICES``, which CUDA reads at
    the first call of this function. If it is empty, the CPU is used.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@contextmanager
def inference(
    on: torch.device | str | None = None, *, dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Compute without gradients, and in bfloat16 on GPUs that support it.

    Use it as a context manager, or as a decorator with parentheses. It does not work on
    generator functions, whose body would run outside of it. Tensors created inside
    cannot take part in a backward pass. Weights are cast once per block, so use one
    block for all batches. A float32 weight and its bfloat16 copy take 6 bytes in it.

    Args:
        on: the model's device; ``device()`` by default.
        dtype: the type in which autocast computes matrix products. By default bfloat16
            on GPUs with compute capability 8.0 or higher, and the type of the weights
            elsewhere. ``torch.float32`` turns autocast off.
    """
    where = device() if on is None else torch.device(on)
    chosen = _dtype_of(where) if dtype is None else dtype
    if chosen == torch.float32:
        with torch.inference_mode():
            yield
        return
    # In inference_mode, torch casts the weights in every forward call, which is once
    # per generated token. In no_grad it casts them once.
    with torch.no_grad(), torch.autocast(where.type, chosen):
        try:
            yield
        finally:
            # Before torch 2.10 an outer autocast reused the weights that were cast
            # here, and a training step in it got no gradients.
            torch.clear_autocast_cache()


def _dtype_of(where: torch.device) -> torch.dtype:
    if where.type != "cuda":
        return torch.float32
    is_fast = torch.cuda.get_device_capability(where) >= _BF16_CAPABILITY
    return torch.bfloat16 if is_fast else torch.float32


class Batches:
    """Items in batches; iterating yields the indexes of each batch's items."""

    def __init__(self, indexes: Sequence[Sequence[int]]) -> None:
        self._indexes = [list(batch) for batch in indexes]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._indexes)

    def __len__(self) -> int:
        return len(self._indexes)

    def in_order(self, answers: Iterable[Sequence[_Answer]]) -> list[_Answer]:
        """One answer per item, in the original order of the items.

        Args:
            answers: B answers for each batch in turn, consumed one batch at a time.

        Raises:
            ValueError: if a batch has more or fewer answers than items, or the number
                of batches differs.
        """
        found: dict[int, _Answer] = {}
        answered = 0
        for number, batch in enumerate(answers):
            if number >= len(self):
                raise ValueError(f"there are answers for more than {len(self)} batches")
            items = self._indexes[number]
            if len(batch) != len(items):
                raise ValueError(
                    f"batch {number} has {len(items)} items and {len(batch)} answers"
                )
            found.update(zip(items, batch, strict=True))
            answered += 1
        if answered < len(self):
            raise ValueError(f"{answered} of {len(self)} batches have answers")
        return [found[index] for index in range(len(found))]


def batches(
    lengths: Sequence[int], max_tokens: int, max_items: int | None = None
) -> Batches:
    """Group items of similar length into batches, to reduce padding.

    The longest items come first: if the memory is large enough for the first batch, it
    is for all. A single item may exceed ``max_tokens``. Items keep their order within a
    batch.

    Args:
        lengths: tokens of each item.
        max_tokens: maximum of B x T in a batch, including padding.
        max_items: maximum of B; unlimited by default.

    Raises:
        ValueError: if a length is negative, or a maximum is less than 1.
    """
    for name, maximum in (("max_tokens", max_tokens), ("max_items", max_items)):
        if maximum is not None and maximum < 1:
            raise ValueError(f"{name} is {maximum}: it must be at least 1")
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    if order and lengths[order[-1]] < 0:
        raise ValueError(f"item {order[-1]} has the length {lengths[order[-1]]}")
    found: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        size = min(max(1, max_tokens // longest), max_items or len(order))
        found.append(sorted(order[start : start + size]))
        start += size
    return Batches(found)


@overload
def to_device(tensors: Tensor, to: torch.device | str | None = None) -> Tensor: ...
@overload
def to_device(
    tensors: Mapping[str, _Value], to: torch.device | str | None = None
) -> dict[str, _Value]: ...
@overload
def to_device(
    tensors: list[_Value] | tuple[_Value, ...], to: torch.device | str | None = None
) -> list[_Value]: ...
def to_device(tensors: Any, to: torch.device | str | None = None) -> Any:
    """Move tensors to the model's device without waiting for the copy to a GPU.

    They are copied asynchronously through pinned memory: a copy from other memory would
    wait until the current batch is computed. A tensor that is already pinned is copied
    from where it is, so do not overwrite it before the batch is computed. Tensors that
    are already on the device are not copied.

    Args:
        tensors: a tensor, or a mapping, list or tuple of tensors, such as a tokenizer's
            output. Other values in it stay unchanged.
        to: the device; ``device()`` by default.
    """
    where = device() if to is None else torch.device(to)
    if isinstance(tensors, Mapping):
        return {name: _moved(value, where) for name, value in tensors.items()}
    if isinstance(tensors, (list, tuple)):
        return [_moved(value, where) for value in tensors]
    return _moved(tensors, where)


def _moved(value: Any, where: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    if where.type != "cuda" or value.device.type != "cpu":
        # Copies to the CPU must block: otherwise the caller could read the memory
        # before it is written.
        return value.to(where)
    return value.pin_memory().to(where, non_blocking=True)
