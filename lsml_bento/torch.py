"""What a torch model needs to use a GPU well, and to do the same on a CPU.

For the user's own code; nothing of lsml_bento imports it before that does::

    from lsml_bento.torch import batches, device, inference, to_device

    def load(self, weights):
        self.network = read(weights).to(device()).eval()

    @inference()
    def predict(self, tasks, context=None, **kwargs):
        rows = [encode(task) for task in tasks]
        plan = batches([len(row) for row in rows], max_tokens=16_384)
        return plan.in_order(self._answers([rows[i] for i in batch]) for batch in plan)

Shape letters: B items of a batch, T tokens of its longest item.
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
"""Ampere's: what GPUs before it do in bfloat16 is emulated, and slower than float32."""


def device() -> torch.device:
    """Where this process's model belongs: ``cuda``, else Apple's ``mps``, else ``cpu``.

    ``cuda`` is the first GPU that the process sees. A serving process of several sees
    its own share of the service's, and a ``fit`` sees ``LSML_TRAIN_GPUS``: both by
    ``CUDA_VISIBLE_DEVICES``, which CUDA reads once, at the first call of this. An empty
    one means the CPU.
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
    """Compute without gradients, and in bfloat16 on a GPU that has it.

    A context manager, and with its parentheses a decorator of functions that return
    (of a generator function only the call would be inside). Tensors made inside can not
    take part in a backward pass. Weights are cast once in each block, so let one block
    hold all batches; float32 weights and their bfloat16 copies take 6 bytes each in it.

    Args:
        on: where the model is; ``device()`` by default.
        dtype: what autocast computes matrix products in. By default bfloat16 on GPUs
            from compute capability 8.0 on, and what the weights are everywhere else.
            ``torch.float32`` asks for none.
    """
    where = device() if on is None else torch.device(on)
    chosen = _dtype_of(where) if dtype is None else dtype
    if chosen == torch.float32:
        with torch.inference_mode():
            yield
        return
    # Inside inference_mode torch casts the weights in each forward call anew: for each
    # token of a text that is generated. Inside no_grad it casts them once.
    with torch.no_grad(), torch.autocast(where.type, chosen):
        try:
            yield
        finally:
            # Before torch 2.10 an autocast around this one kept what was cast in here,
            # and a training step in it got no gradients.
            torch.clear_autocast_cache()


def _dtype_of(where: torch.device) -> torch.dtype:
    if where.type != "cuda":
        return torch.float32
    is_fast = torch.cuda.get_device_capability(where) >= _BF16_CAPABILITY
    return torch.bfloat16 if is_fast else torch.float32


class Batches:
    """Items in batches; iterating gives the indexes of each batch's items."""

    def __init__(self, indexes: Sequence[Sequence[int]]) -> None:
        self._indexes = [list(batch) for batch in indexes]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._indexes)

    def __len__(self) -> int:
        return len(self._indexes)

    def in_order(self, answers: Iterable[Sequence[_Answer]]) -> list[_Answer]:
        """One answer for each item, in the order that the items came in.

        Args:
            answers: for each batch in turn B answers; taken one batch at a time.

        Raises:
            ValueError: naming the batch that has more or fewer answers than items, or
                how many batches were answered if some were not.
        """
        found: dict[int, _Answer] = {}
        answered = 0
        for number, batch in enumerate(answers):
            if number >= len(self):
                raise ValueError(f"there are {len(self)} batches, and more answers")
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
    """Batches of items of about one length, so that little is padding.

    The longest come first: memory that suffices for the first batch does for all. All
    items are in one batch if the budget allows it; a batch of one may exceed it. Inside
    a batch they keep their order.

    Args:
        lengths: tokens of each item.
        max_tokens: B x T of a batch at most, padding included.
        max_items: B at most; any number by default.

    Raises:
        ValueError: if a length is negative, or a maximum is not 1 or more.
    """
    for name, maximum in (("max_tokens", max_tokens), ("max_items", max_items)):
        if maximum is not None and maximum < 1:
            raise ValueError(f"{name} is {maximum}; it must be 1 or more")
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    if order and lengths[order[-1]] < 0:
        raise ValueError(f"item {order[-1]} has a length of {lengths[order[-1]]}")
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
    """Tensors where the model is, on their way to a GPU while the caller goes on.

    They are copied through pinned memory, in the background: a copy out of other memory
    would have the caller wait for the batch that runs. A tensor that is pinned already
    is read from where it is, so do not refill it before the batch is computed. What is
    on the device already is not copied.

    Args:
        tensors: a tensor, or a mapping, a list or a tuple of them, as a tokenizer gives
            it; values that are no tensors stay as they are.
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
        # The way back has to wait: who reads memory that is still written reads noise.
        return value.to(where)
    return value.pin_memory().to(where, non_blocking=True)
