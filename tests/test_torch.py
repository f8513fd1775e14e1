"""What a torch model needs to use a GPU well, on the CPU."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsml_bento.torch import Batches, batches, device, inference, to_device

LENGTHS = st.lists(st.integers(0, 60), max_size=60)


def padded(plan: Batches, lengths: Sequence[int]) -> int:
    """Tokens that all forward calls take, padding included."""
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in plan)


def unsorted(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Batches under the same budget, of items as they come."""
    batch: list[int] = []
    for index in range(len(lengths)):
        longest = max(lengths[i] for i in [*batch, index])
        if batch and (len(batch) + 1) * longest > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    yield batch


# Batches


@given(LENGTHS, st.integers(1, 200), st.none() | st.integers(1, 9))
def test_each_item_is_in_one_batch_and_no_batch_over_the_budget_but_one_item_alone(
    lengths: list[int], max_tokens: int, max_items: int | None
) -> None:
    plan = batches(lengths, max_tokens, max_items)

    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        assert 1 <= len(batch) <= (max_items or len(lengths))
        cells = len(batch) * max(lengths[i] for i in batch)
        assert cells <= max_tokens or len(batch) == 1


@given(LENGTHS, st.integers(1, 200), st.none() | st.integers(1, 9))
def test_answers_come_back_in_the_order_of_the_items(
    lengths: list[int], max_tokens: int, max_items: int | None
) -> None:
    plan = batches(lengths, max_tokens, max_items)

    assert plan.in_order([f"item {i}" for i in batch] for batch in plan) == [
        f"item {i}" for i in range(len(lengths))
    ]


@given(st.permutations(range(1, 25)), st.integers(1, 9))
def test_no_other_batches_of_that_many_items_have_less_padding(
    lengths: list[int], max_items: int
) -> None:
    in_turn = range(0, len(lengths), max_items)
    as_they_come = Batches(
        [range(len(lengths))[start : start + max_items] for start in in_turn]
    )

    plan = batches(lengths, 10_000, max_items)

    assert padded(plan, lengths) <= padded(as_they_come, lengths)


@pytest.mark.parametrize("seed", range(5))
def test_texts_of_uneven_lengths_waste_a_tenth_of_what_they_do_unsorted(
    seed: int,
) -> None:
    draw = random.Random(seed)
    lengths = [1 + int(draw.lognormvariate(4, 0.7)) for _ in range(1000)]
    as_they_come = Batches(list(unsorted(lengths, 4096)))

    plan = batches(lengths, 4096)

    wasted = padded(plan, lengths) - sum(lengths)
    assert wasted < (padded(as_they_come, lengths) - sum(lengths)) / 10


def test_the_longest_come_first_and_items_keep_their_order_inside_a_batch() -> None:
    assert list(batches([2, 9, 3, 4, 0], max_tokens=8)) == [[1], [2, 3], [0, 4]]
    assert list(batches([2, 9, 3, 4, 0], max_tokens=45)) == [[0, 1, 2, 3, 4]]
    assert list(batches([1, 1, 1], max_tokens=45, max_items=2)) == [[0, 1], [2]]
    assert list(batches([], max_tokens=8)) == []


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "max_items", "said"),
    [
        ([1], 0, None, "max_tokens is 0: it must be at least 1"),
        ([1], 8, 0, "max_items is 0: it must be at least 1"),
        ([3, -2, 1], 8, None, "item 1 has the length -2"),
    ],
)
def test_a_budget_of_nothing_and_a_length_below_it_are_refused(
    lengths: list[int], max_tokens: int, max_items: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        batches(lengths, max_tokens, max_items)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([["a"], ["b"]], "batch 1 has 2 items and 1 answers"),
        ([["a"]], "1 of 2 batches have answers"),
        ([["a"], ["b", "c"], ["d"]], "there are answers for more than 2 batches"),
    ],
)
def test_answers_that_do_not_fit_the_batches_are_refused(
    answers: list[list[str]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        batches([9, 1, 2], max_tokens=9).in_order(answers)


def test_a_batch_is_computed_when_the_one_before_it_was_taken() -> None:
    done: list[int] = []
    plan = batches([3, 2, 1], max_tokens=3)

    def answers() -> Iterator[list[int]]:
        for batch in plan:
            done.extend(batch)
            yield [len(done)] * len(batch)

    assert plan.in_order(answers()) == [1, 2, 3]


# Inference


def test_inference_keeps_no_gradients_and_computes_as_the_weights_are_on_a_cpu() -> (
    None
):
    layer = torch.nn.Linear(4, 2)

    with inference("cpu"):
        found = layer(torch.ones(3, 4))

    assert found.is_inference()
    assert found.dtype == torch.float32
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_inference_computes_in_what_it_is_asked_for(dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 2)

    with inference("cpu", dtype=dtype):
        assert layer(torch.ones(3, 4)).dtype == dtype

    assert layer(torch.ones(3, 4)).dtype == torch.float32


def test_weights_are_cast_once_however_many_batches_there_are() -> None:
    layer = torch.nn.Linear(4, 2, bias=False)

    def casts(count: int) -> int:
        with torch.profiler.profile() as seen, inference("cpu", dtype=torch.bfloat16):
            for _ in range(count):
                layer(torch.ones(3, 4))
        return sum(e.count for e in seen.key_averages() if e.key == "aten::_to_copy")

    assert [casts(count) for count in (1, 5)] == [1 + 1, 1 + 5]  # the batches' too


def test_inference_decorates_a_function_that_can_be_called_again() -> None:
    layer = torch.nn.Linear(4, 2)

    @inference("cpu", dtype=torch.bfloat16)
    def logits(count: int) -> torch.Tensor:
        found: torch.Tensor = layer(torch.ones(count, 4))
        return found

    assert [logits(n).shape for n in (1, 2)] == [(1, 2), (2, 2)]
    assert logits(1).dtype == torch.bfloat16
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_training_in_bfloat16_works_after_inference_inside_of_it(
    dtype: torch.dtype | None,
) -> None:
    layer = torch.nn.Linear(4, 2)

    with torch.autocast("cpu", torch.bfloat16):
        with inference("cpu", dtype=dtype):
            layer(torch.ones(3, 4))
        loss = layer(torch.ones(3, 4)).float().sum()
    loss.backward()

    assert layer.weight.grad is not None


def test_an_error_leaves_inference_mode() -> None:
    with pytest.raises(ZeroDivisionError), inference("cpu", dtype=torch.bfloat16):
        _ = 1 / 0

    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


# Devices


def test_only_tensors_are_moved_to_the_device() -> None:
    ids, mask = torch.ones(2, 3), torch.zeros(2, 3)

    named = to_device({"ids": ids, "mask": mask}, "meta")
    listed = to_device((ids, mask), "meta")
    mixed = to_device({"ids": ids, "texts": ["a", "b"]}, "meta")

    assert [tensor.device.type for tensor in named.values()] == ["meta", "meta"]
    assert [tensor.device.type for tensor in listed] == ["meta", "meta"]
    assert mixed["texts"] == ["a", "b"]
    assert to_device(ids, "meta").shape == (2, 3)


def test_a_tensor_on_the_device_is_not_copied() -> None:
    tensor = torch.ones(2, 3)

    assert to_device(tensor, "cpu") is tensor


def test_a_process_without_a_gpu_computes_on_the_cpu_and_importing_asks_for_none() -> (
    None
):
    code = (
        "import torch, lsml_bento.torch as ours; "
        "print(torch.cuda.is_initialized(), ours.device().type)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() in (["False", "cpu"], ["False", "mps"])
    assert device().type in {"cuda", "mps", "cpu"}
