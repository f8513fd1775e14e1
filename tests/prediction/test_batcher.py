from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lsml_bento.errors import (
    MediaError,
    OutOfMemory,
    QueueFull,
    ShuttingDown,
    WrongCount,
)
from lsml_bento.prediction.batcher import Batcher, Lane, Observer, Ticket
from tests.fake_clock import FakeClockLoop, NothingLeft, run

INTERACTIVE, SINGLE, BULK = Lane.INTERACTIVE, Lane.SINGLE, Lane.BULK

Model = Callable[[list[Any]], Sequence[Any]]


def shout(items: list[Any]) -> list[Any]:
    return [f"{item}!" for item in items]


@dataclass
class Call:
    at: float
    group: Any
    items: list[Any]


@dataclass
class Device:
    """Runs a model in a second a call, as many calls at a time as it is asked for."""

    model: Model = shout
    seconds: float = 1.0
    calls: list[Call] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def call(self, group: Any, items: list[Any]) -> Sequence[Any]:
        self.calls.append(Call(now(), group, items))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        return self.model(items)

    @property
    def batches(self) -> list[list[Any]]:
        return [call.items for call in self.calls]


@dataclass
class Notes(Observer):
    """An observer that remembers."""

    sizes: list[int] = field(default_factory=list)
    waits: list[tuple[Lane, float]] = field(default_factory=list)
    gauge: dict[Lane, int] = field(default_factory=dict)

    def batch(self, size: int) -> None:
        self.sizes.append(size)

    def waited(self, lane: Lane, seconds: float) -> None:
        self.waits.append((lane, seconds))

    def waiting(self, lane: Lane, items: int) -> None:
        self.gauge[lane] = items


def now() -> float:
    return asyncio.get_running_loop().time()


def failing_on(bad: dict[Any, Exception]) -> Model:
    """A model that raises the error of the first bad item of a batch."""

    def model(items: list[Any]) -> list[Any]:
        for item in items:
            if item in bad:
                raise bad[item]
        return shout(items)

    return model


def always(error: Exception) -> Model:
    def model(items: list[Any]) -> list[Any]:
        raise error

    return model


def out_of_memory_above(size: int) -> Model:
    def model(items: list[Any]) -> list[Any]:
        if len(items) > size:
            raise OutOfMemory(f"no room for {len(items)}")
        return shout(items)

    return model


# Batches


def test_an_idle_device_gets_a_task_at_once() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call)
        assert await batcher.submit("g", ["a"], SINGLE).done() == ["a!"]
        await asyncio.sleep(5)
        assert await batcher.submit("g", ["b"], SINGLE).done() == ["b!"]
        assert device.calls == [Call(0, "g", ["a"]), Call(6, "g", ["b"])]

    run(main())


def test_requests_during_a_call_share_the_next_call() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call)
        first = batcher.submit("g", ["a"], SINGLE)
        await asyncio.sleep(0.1)
        others = [batcher.submit("g", [item], SINGLE) for item in "bcd"]
        assert await first.done() == ["a!"]
        assert [await other.done() for other in others] == [["b!"], ["c!"], ["d!"]]
        assert device.batches == [["a"], ["b", "c", "d"]]

    run(main())


def test_a_request_is_cut_into_calls_of_max_batch_size_and_keeps_its_order() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call, max_batch_size=32)
        answers = await batcher.submit("g", range(100), BULK).done()
        assert answers == shout(list(range(100)))
        assert [len(batch) for batch in device.batches] == [32, 32, 32, 4]

    run(main())


def test_groups_never_share_a_call_and_take_turns() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call, max_batch_size=2)
        for group in "ab":
            batcher.submit(group, [f"{group}{i}" for i in range(4)], BULK)
        await batcher.close()
        assert [(call.group, call.items) for call in device.calls] == [
            ("a", ["a0", "a1"]),
            ("b", ["b0", "b1"]),
            ("a", ["a2", "a3"]),
            ("b", ["b2", "b3"]),
        ]

    run(main())


def test_a_ticket_that_is_alone_shares_no_call_with_its_group() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call)
        for item in "abc":
            batcher.submit("g", [item], INTERACTIVE, alone=item != "b")
        batcher.submit("g", ["d"], INTERACTIVE)
        await batcher.close()
        assert device.batches == [["a"], ["b", "d"], ["c"]]
        assert {call.group for call in device.calls} == {"g"}

    run(main())


def test_as_many_calls_run_as_allowed_and_no_more() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call, max_batch_size=1, max_calls=3)
        await batcher.submit("g", range(7), BULK).done()
        assert device.most_running == 3
        assert now() == 3
        await batcher.submit("g", range(3), BULK).done()
        assert now() == 4

    run(main())


def test_new_tasks_start_a_call_while_another_runs() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call, max_calls=2)
        batcher.submit("g", ["a"], SINGLE)
        await asyncio.sleep(0.5)
        await batcher.submit("g", ["b"], SINGLE).done()
        assert device.calls == [Call(0, "g", ["a"]), Call(0.5, "g", ["b"])]

    run(main())


def test_an_empty_request_is_answered_without_a_call() -> None:
    async def main() -> None:
        device = Device()
        assert await Batcher(device.call).submit("g", [], BULK).done() == []
        assert device.calls == []

    run(main())


# Lanes


def test_interactive_goes_before_single_and_single_before_bulk() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call)
        batcher.submit("g", ["first"], BULK)
        await asyncio.sleep(0.1)
        for lane in (BULK, SINGLE, INTERACTIVE):
            batcher.submit("g", [lane.value], lane)
        await batcher.close()
        assert device.batches == [["first"], ["interactive"], ["single"], ["bulk"]]

    run(main())


@pytest.mark.parametrize("seconds", [0.5, 30])
def test_an_annotator_waits_for_one_call_of_a_bulk_request(seconds: float) -> None:
    async def main() -> None:
        device = Device(seconds=seconds)
        batcher = Batcher(device.call)
        batcher.submit("g", range(1000), BULK)
        for _ in range(5):
            await asyncio.sleep(1.5 * seconds)
            came = now()
            await batcher.submit("g", ["now"], INTERACTIVE, alone=True).done()
            assert now() - came <= 2 * seconds

    run(main())


def test_a_slow_call_does_not_make_a_lane_overdue() -> None:
    """Only being passed over does: whoever waits for one long call waits for it."""

    async def main() -> None:
        device = Device(seconds=30)
        batcher = Batcher(device.call)
        batcher.submit("g", ["first"], BULK)
        await asyncio.sleep(1)
        batcher.submit("g", ["bulk"], BULK)
        batcher.submit("g", ["single"], SINGLE)
        await asyncio.sleep(20)
        batcher.submit("g", ["now"], INTERACTIVE)
        await batcher.close()
        assert device.batches[1] == ["now"]

    run(main())


def test_an_annotator_waits_for_one_call_while_a_failed_chunk_is_halved() -> None:
    async def main() -> None:
        bad = {i: MediaError(str(i)) for i in range(32)}
        device = Device(failing_on(dict(bad)))
        batcher = Batcher(device.call)
        bulk = batcher.submit("g", range(64), BULK)
        for _ in range(5):
            await asyncio.sleep(1.5)
            came = now()
            ticket = batcher.submit("g", ["now"], INTERACTIVE, alone=True)
            assert await ticket.done() == ["now!"]
            assert now() - came <= 2
            assert bulk.is_open
        assert (await bulk.done())[32:] == shout(list(range(32, 64)))

    run(main())


async def keep_busy(batcher: Batcher, *lanes: Lane) -> None:
    """Annotators who never stop, two of them in each lane."""

    async def annotator(lane: Lane) -> None:
        while True:
            await batcher.submit("g", ["now"], lane, alone=True).done()

    await asyncio.gather(*(annotator(lane) for lane in lanes * 2))


def test_no_lane_waits_much_longer_than_two_seconds_for_a_batch() -> None:
    async def main() -> None:
        device = Device(seconds=0.25)
        batcher = Batcher(device.call)
        busy = asyncio.create_task(keep_busy(batcher, INTERACTIVE))
        await asyncio.sleep(1)
        single = batcher.submit("g", ["single"], SINGLE)
        bulk = batcher.submit("g", ["bulk"], BULK)
        await single.done()
        assert now() <= 1 + 2 + 3 * 0.25
        await bulk.done()
        assert now() <= 1 + 2 + 4 * 0.25
        busy.cancel()

    run(main())


def test_a_chunk_that_is_halved_is_not_starved_by_annotators() -> None:
    async def main() -> None:
        device = Device(failing_on({"bad": ValueError()}), seconds=0.25)
        batcher = Batcher(device.call)
        ticket = batcher.submit("g", ["a", "bad", "c", "d"], BULK)
        busy = asyncio.create_task(keep_busy(batcher, INTERACTIVE, SINGLE))
        answers = await ticket.done()
        assert [answers[0], *answers[2:]] == ["a!", "c!", "d!"]
        assert now() <= 5 * (2 + 3 * 0.25)
        busy.cancel()

    run(main())


def test_halves_of_one_group_take_turns_with_other_groups() -> None:
    async def main() -> None:
        bad = {i: MediaError(str(i)) for i in range(16)}
        device = Device(failing_on(dict(bad)))
        batcher = Batcher(device.call, max_batch_size=16)
        batcher.submit("broken", range(16), BULK)
        await asyncio.sleep(1.5)
        await batcher.submit("works", ["fine"], BULK).done()
        assert now() <= 4

    run(main())


def test_patience_restarts_when_a_lane_was_empty() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call)
        busy = asyncio.create_task(keep_busy(batcher, INTERACTIVE))
        await asyncio.sleep(0.5)
        gone = batcher.submit("g", ["gone"], BULK)
        await asyncio.sleep(2)
        batcher.withdraw(gone)
        await asyncio.sleep(5)
        came = now()
        await batcher.submit("g", ["bulk"], BULK).done()
        assert now() - came > 2
        assert ["gone"] not in device.batches
        busy.cancel()

    run(main())


# Failures


def test_after_a_wrong_count_each_call_gets_one_task_which_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        device = Device(lambda items: [f"{items[0]}!"])
        batcher = Batcher(device.call, max_calls=2, max_batch_size=4)
        ticket = batcher.submit("g", range(10), BULK)
        assert await ticket.done() == shout(list(range(10)))
        assert [len(b) for b in device.batches] == [4, 4] + [1] * 10
        assert batcher.limit == 1

    with caplog.at_level(logging.WARNING):
        run(main())
    (record,) = caplog.records
    assert record.getMessage() == (
        "Batch size limited to 1 tasks from now on: predict() got 4 tasks and returned "
        "1 predictions: return one per task, in order, [] for none"
    )


def test_a_wrong_count_for_one_task_fails_it() -> None:
    async def main() -> None:
        device = Device(lambda items: [*items, "more"] if "bad" in items else items)
        batcher = Batcher(device.call)
        answers = await batcher.submit("g", ["a", "bad", "c"], BULK).done()
        assert (answers[0], answers[2]) == ("a", "c")
        assert isinstance(answers[1], WrongCount)
        assert (answers[1].expected, answers[1].found) == (1, 2)

    run(main())


def test_an_answer_that_is_an_exception_fails_its_own_item_only() -> None:
    async def main() -> None:
        error = ValueError("b")
        device = Device(
            lambda items: [error if item == "b" else item for item in items]
        )
        answers = await Batcher(device.call).submit("g", "abc", BULK).done()
        assert answers == ["a", error, "c"]
        assert len(device.calls) == 1

    run(main())


@pytest.mark.parametrize("bad", [0, 13, 31])
def test_one_bad_task_of_a_batch_affects_only_its_own_result(bad: int) -> None:
    async def main() -> None:
        error = ValueError("bad")
        device = Device(failing_on({bad: error}))
        answers = await Batcher(device.call).submit("g", range(32), BULK).done()
        assert answers == [error if i == bad else f"{i}!" for i in range(32)]
        assert len(device.calls) == 1 + 2 * 5

    run(main())


def test_parts_of_a_failed_batch_run_in_all_allowed_calls() -> None:
    async def main() -> None:
        bad = {i: MediaError(str(i)) for i in range(16)}
        device = Device(failing_on(dict(bad)))
        batcher = Batcher(device.call, max_calls=8)
        answers = await batcher.submit("g", range(16), BULK).done()
        assert answers == list(bad.values())
        assert device.most_running == 8
        assert now() == 1 + 1 + 1 + 1 + 2  # 1, 2, 4, 8 and 16 calls

    run(main())


def test_parts_of_a_failed_batch_go_before_other_items_of_their_group() -> None:
    async def main() -> None:
        device = Device(failing_on({3: ValueError()}))
        batcher = Batcher(device.call, max_batch_size=4)
        await batcher.submit("g", range(8), BULK).done()
        assert device.batches == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3], [4, 5, 6, 7]]

    run(main())


def test_a_bad_task_does_not_affect_other_requests_of_its_batch() -> None:
    async def main() -> None:
        error = ValueError("bad")
        device = Device(failing_on({3: error}))
        batcher = Batcher(device.call)
        tickets = [batcher.submit("g", [i], SINGLE) for i in range(8)]
        answers = [await ticket.done() for ticket in tickets]
        assert answers == [[error] if i == 3 else [f"{i}!"] for i in range(8)]

    run(main())


def test_a_task_that_fails_alone_is_not_called_again() -> None:
    async def main() -> None:
        error = ValueError("bad")
        device = Device(always(error))
        assert await Batcher(device.call).submit("g", ["a"], SINGLE).done() == [error]
        assert len(device.calls) == 1

    run(main())


def test_halves_and_tasks_of_them_that_fail_alike_fail_the_chunk() -> None:
    async def main() -> None:
        def model(items: list[Any]) -> list[Any]:
            raise ConnectionError(f"from {items[0]}")

        device = Device(model)
        answers = await Batcher(device.call).submit("g", range(32), BULK).done()
        reasons = ["from 0"] * 16 + ["from 16"] * 16
        assert [str(answer) for answer in answers] == reasons
        assert device.batches[3:] == [[0], [31]]

    run(main())


@pytest.mark.parametrize("bad", [(3, 30), (0, 16), (1, 17, 31), tuple(range(31))])
def test_several_bad_tasks_that_fail_alike_affect_only_their_own_results(
    bad: tuple[int, ...],
) -> None:
    async def main() -> None:
        errors = {i: KeyError(str(i)) for i in bad}
        device = Device(failing_on(dict(errors)))
        answers = await Batcher(device.call).submit("g", range(32), BULK).done()
        assert answers == [errors.get(i, f"{i}!") for i in range(32)]
        assert len(device.calls) <= 2 * 32

    run(main())


def test_halves_that_fail_alike_beside_an_answered_part_are_halved_again() -> None:
    async def main() -> None:
        bad = {i: KeyError(str(i)) for i in (0, 2)}
        device = Device(failing_on(dict(bad)))
        answers = await Batcher(device.call).submit("g", range(8), BULK).done()
        assert answers == [bad.get(i, f"{i}!") for i in range(8)]

    run(main())


def test_halves_that_fail_differently_are_halved_again() -> None:
    async def main() -> None:
        bad = {0: ValueError(), 3: KeyError()}
        device = Device(failing_on(dict(bad)))
        answers = await Batcher(device.call).submit("g", range(4), BULK).done()
        assert answers == [bad[0], "1!", "2!", bad[3]]
        assert len(device.calls) == 7

    run(main())


def test_tasks_whose_media_cannot_be_read_affect_only_their_own_results() -> None:
    async def main() -> None:
        bad = {i: MediaError(f"{i}.wav") for i in range(16) if i != 5}
        device = Device(failing_on(dict(bad)))
        batcher = Batcher(device.call, max_batch_size=4)
        answers = await batcher.submit("g", range(16), BULK).done()
        assert answers == [bad.get(i, "5!") for i in range(16)]
        assert len(device.calls) == 4 * 7

    run(main())


def test_three_chunks_that_fail_whole_in_a_row_fail_the_rest_without_calls() -> None:
    async def main() -> None:
        error = ConnectionError("the API is dead")
        device = Device(always(error))
        batcher = Batcher(device.call)
        ticket = batcher.submit("g", range(2000), BULK)
        assert await ticket.done() == [error] * 2000
        assert len(device.calls) == 3 * 5
        assert batcher.waiting()[BULK] == 0

    run(main())


def test_a_request_that_fails_as_a_whole_fails_no_other_request() -> None:
    async def main() -> None:
        error = ConnectionError("dead")
        device = Device(failing_on(dict.fromkeys(range(100), error)))
        batcher = Batcher(device.call, max_batch_size=4)
        bad = batcher.submit("g", range(100), BULK)
        good = batcher.submit("g", range(100, 120), BULK)
        assert await bad.done() == [error] * 100
        assert await good.done() == shout(list(range(100, 120)))

    run(main())


def test_a_chunk_that_works_resets_the_count_of_failed_chunks() -> None:
    async def main() -> None:
        bad = {i: ValueError(str(i)) for i in range(20) if i not in (4, 5)}
        device = Device(failing_on(dict(bad)))
        batcher = Batcher(device.call, max_batch_size=2)
        answers = await batcher.submit("g", range(20), BULK).done()
        assert answers[4:6] == ["4!", "5!"]
        # two chunks fail, one works, three fail, the rest is not tried
        assert len(device.calls) == 2 * 3 + 1 + 3 * 3
        assert answers[12:] == [answers[12]] * 8

    run(main())


def test_parts_of_a_chunk_that_fail_alike_do_not_count_as_chunks() -> None:
    async def main() -> None:
        value, key, os = ValueError(), KeyError(), OSError()
        device = Device(failing_on({0: value, 1: value, 2: key, 3: key, 4: os, 6: os}))
        batcher = Batcher(device.call, max_batch_size=8)
        answers = await batcher.submit("g", range(16), BULK).done()
        assert answers[:8] == [value, value, key, key, os, "5!", os, "7!"]
        assert answers[8:] == shout(list(range(8, 16)))

    run(main())


def test_three_single_task_chunks_with_bad_media_do_not_fail_a_request() -> None:
    async def main() -> None:
        bad = {i: MediaError(str(i)) for i in range(5)}
        device = Device(failing_on(dict(bad)))
        batcher = Batcher(device.call, max_batch_size=1)
        answers = await batcher.submit("g", range(6), BULK).done()
        assert answers == [*bad.values(), "5!"]

    run(main())


def test_a_class_with_a_wrong_count_that_then_fails_gets_three_calls() -> None:
    async def main() -> None:
        error = ConnectionError("dead")

        def model(items: list[Any]) -> list[Any]:
            if len(items) > 1:
                return []
            raise error

        device = Device(model)
        answers = await Batcher(device.call).submit("g", range(100), BULK).done()
        assert answers == [error] * 100
        assert [len(batch) for batch in device.batches] == [32, 1, 1, 1]

    run(main())


def test_a_call_that_runs_when_its_request_fails_still_answers() -> None:
    async def main() -> None:
        class Slow(Device):
            async def call(self, group: Any, items: list[Any]) -> Sequence[Any]:
                self.calls.append(Call(now(), group, items))
                await asyncio.sleep(100 if items == [0] else 1)
                return self.model(items)

        error = ConnectionError("dead")
        device = Slow(failing_on(dict.fromkeys(range(1, 50), error)))
        batcher = Batcher(device.call, max_batch_size=1, max_calls=2)
        assert (
            await batcher.submit("g", range(50), BULK).done() == ["0!"] + [error] * 49
        )
        assert device.batches == [[0], [1], [2], [3]]

    run(main())


def test_out_of_memory_halves_the_batch_and_the_limit_until_it_fits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        device = Device(out_of_memory_above(10))
        batcher = Batcher(device.call)
        ticket = batcher.submit("g", range(40), BULK)
        assert await ticket.done() == shout(list(range(40)))
        starts_and_sizes = [(batch[0], len(batch)) for batch in device.batches]
        assert starts_and_sizes == [(0, 32), (0, 16)] + [
            (i, 8) for i in range(0, 40, 8)
        ]
        assert [item for batch in device.batches[2:] for item in batch] == [*range(40)]
        assert batcher.limit == 8

    with caplog.at_level(logging.WARNING):
        run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "Batch size limited to 16 tasks from now on: no room for 32",
        "Batch size limited to 8 tasks from now on: no room for 16",
    ]


def test_out_of_memory_at_one_task_fails_it() -> None:
    async def main() -> None:
        device = Device(out_of_memory_above(0))
        batcher = Batcher(device.call, max_batch_size=4)
        answers = await batcher.submit("g", range(2), BULK).done()
        assert [str(answer) for answer in answers] == ["no room for 1"] * 2
        assert [len(batch) for batch in device.batches] == [2, 1, 1]

    run(main())


def test_two_calls_that_run_out_of_memory_together_halve_the_limit_once() -> None:
    async def main() -> None:
        device = Device(out_of_memory_above(4))
        batcher = Batcher(device.call, max_batch_size=8, max_calls=2)
        answers = await batcher.submit("g", range(16), BULK).done()
        assert answers == shout(list(range(16)))
        assert [len(batch) for batch in device.batches] == [8, 8, 4, 4, 4, 4]

    run(main())


def test_out_of_memory_in_half_of_a_failed_batch_loses_nothing() -> None:
    async def main() -> None:
        error = ValueError("bad")

        def model(items: list[Any]) -> Sequence[Any]:
            if 1 in items:
                raise error
            return out_of_memory_above(2)(items)

        device = Device(model)
        batcher = Batcher(device.call, max_batch_size=8)
        answers = await batcher.submit("g", range(8), BULK).done()
        assert answers == [error if i == 1 else f"{i}!" for i in range(8)]
        assert batcher.limit == 2

    run(main())


def test_a_half_is_cut_to_a_limit_that_another_call_has_lowered() -> None:
    async def main() -> None:
        sizes: list[tuple[int, int]] = []

        async def call(group: Any, items: list[Any]) -> Sequence[Any]:
            sizes.append((len(items), batcher.limit))
            if group == "big":
                await asyncio.sleep(0.9)
                return out_of_memory_above(1)(items)
            await asyncio.sleep(1)
            return failing_on({0: ValueError()})(items)

        batcher = Batcher(call, max_batch_size=8, max_calls=2)
        ticket = batcher.submit("bad", range(8), BULK)
        await asyncio.sleep(0.5)
        big = [batcher.submit("big", range(2), INTERACTIVE) for _ in range(2)]
        assert (await ticket.done())[1:] == shout(list(range(1, 8)))
        assert [await t.done() for t in big] == [["0!", "1!"]] * 2
        assert all(size <= limit for size, limit in sizes)
        assert batcher.limit == 1

    run(main())


# Ends


def test_a_full_lane_refuses_and_other_lanes_do_not() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call, queue_size=10, max_batch_size=1)
        batcher.submit("g", range(8), BULK)
        batcher.submit("g", range(2), BULK)
        with pytest.raises(QueueFull) as full:
            batcher.submit("g", ["more"], BULK)
        assert str(full.value) == (
            "10 tasks wait already and 1 more would exceed LSML_QUEUE_SIZE=10: "
            "try again later"
        )
        assert full.value.status == 503
        assert full.value.retry_after_s is not None
        assert batcher.waiting() == {INTERACTIVE: 0, SINGLE: 0, BULK: 10}
        assert await batcher.submit("g", ["now"], SINGLE).done() == ["now!"]
        await batcher.close()
        assert len(device.calls) == 11

    run(main())


def test_an_empty_lane_takes_a_request_of_any_size() -> None:
    async def main() -> None:
        batcher = Batcher(Device().call, queue_size=10)
        assert len(await batcher.submit("g", range(1000), BULK).done()) == 1000

    run(main())


def test_a_client_that_disconnects_drops_what_waits_but_not_what_runs() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call, max_batch_size=2)
        gone = batcher.submit("g", "abcde", BULK)
        stays = batcher.submit("g", "xyz", BULK)
        await asyncio.sleep(0.5)
        batcher.withdraw(gone)
        assert not gone.is_open
        assert await gone.done() == [None] * 5
        assert batcher.waiting()[BULK] == 3
        assert await stays.done() == ["x!", "y!", "z!"]
        batcher.withdraw(gone)
        batcher.withdraw(stays)
        assert device.batches == [["a", "b"], ["x", "y"], ["z"]]
        assert gone.answers == [None] * 5
        assert stays.answers == ["x!", "y!", "z!"]

    run(main())


def test_a_request_withdrawn_before_its_first_call_gets_none() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call)
        batcher.withdraw(batcher.submit("g", ["a"], SINGLE))
        await batcher.close()
        assert device.calls == []

    run(main())


def test_halves_that_nobody_waits_for_are_not_called() -> None:
    async def main() -> None:
        device = Device(failing_on({0: ValueError(), 5: KeyError()}))
        batcher = Batcher(device.call)
        gone = batcher.submit("g", range(4), BULK)
        stays = batcher.submit("g", range(4, 8), BULK)
        await asyncio.sleep(0.5)
        batcher.withdraw(gone)
        answers = await stays.done()
        assert [answers[0], *answers[2:]] == ["4!", "6!", "7!"]
        assert device.batches[1] == [4, 5, 6, 7]

    run(main())


def test_waiting_halves_survive_a_withdrawn_request_of_their_batch() -> None:
    async def main() -> None:
        device = Device(failing_on({"a": ValueError()}))
        batcher = Batcher(device.call, max_batch_size=4)
        stays = batcher.submit("g", "abc", BULK)
        gone = batcher.submit("g", "xyz", BULK)
        await asyncio.sleep(1.5)
        batcher.withdraw(gone)
        assert (await stays.done())[1:] == ["b!", "c!"]
        assert device.batches[2] == ["c"]

    run(main())


def test_a_wait_that_is_cancelled_can_be_withdrawn() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call, max_batch_size=1)
        ticket = batcher.submit("g", "abc", BULK, deadline_s=90)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ticket.done(), 0.5)
        batcher.withdraw(ticket)
        await batcher.close()
        assert device.batches == [["a"]]
        assert batcher.waiting()[BULK] == 0

    run(main())


def test_the_deadline_ends_a_request_with_what_is_done() -> None:
    async def main() -> None:
        device = Device(seconds=40)
        batcher = Batcher(device.call, max_batch_size=2)
        ticket = batcher.submit("g", "abcdefgh", BULK, deadline_s=90)
        assert await ticket.done() == ["a!", "b!", "c!", "d!"] + [None] * 4
        assert now() == 90
        assert batcher.waiting()[BULK] == 0
        await batcher.close()
        assert device.batches == [["a", "b"], ["c", "d"], ["e", "f"]]
        assert ticket.answers == ["a!", "b!", "c!", "d!"] + [None] * 4

    run(main())


def test_a_request_that_is_done_has_no_deadline_any_more() -> None:
    async def main() -> None:
        batcher = Batcher(Device().call)
        await batcher.submit("g", "ab", BULK, deadline_s=90).done()
        await asyncio.get_running_loop().create_future()

    with pytest.raises(NothingLeft, match="after 1 s"):
        run(main())


@pytest.mark.parametrize("how", ["answered", "withdrawn", "late", "cancelled"])
def test_a_request_is_freed_when_it_ends_not_by_the_garbage_collector(how: str) -> None:
    async def main() -> None:
        batcher = Batcher(Device().call, max_batch_size=1)
        deadline_s = 1.5 if how == "late" else 90
        ticket = batcher.submit("g", "abc", BULK, alone=True, deadline_s=deadline_s)
        if how == "cancelled":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ticket.done(), 0.5)
        if how in ("cancelled", "withdrawn"):
            batcher.withdraw(ticket)
        await ticket.done() if how != "cancelled" else None
        await batcher.close()
        await asyncio.sleep(0)
        freed = weakref.ref(ticket)
        del ticket
        assert freed() is None

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_close_answers_accepted_requests_and_refuses_new_ones() -> None:
    async def main() -> None:
        device = Device(failing_on({3: ValueError()}))
        batcher = Batcher(device.call, max_batch_size=4, max_calls=2)
        tickets = [batcher.submit("g", range(20), lane) for lane in Lane]
        await asyncio.sleep(1.5)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown) as refused:
            batcher.submit("g", ["late"], INTERACTIVE)
        assert refused.value.status == 503
        await closing
        for ticket in tickets:
            assert not ticket.is_open
            assert [a for a in ticket.answers if not isinstance(a, ValueError)] == [
                f"{i}!" for i in range(20) if i != 3
            ]

    run(main())


def test_an_idle_batcher_closes_at_once() -> None:
    async def main() -> None:
        await Batcher(Device().call).close()
        assert now() == 0

    run(main())


def test_the_observer_gets_batch_sizes_waits_and_queue_lengths() -> None:
    async def main() -> None:
        notes = Notes()
        device = Device(out_of_memory_above(2))
        batcher = Batcher(device.call, max_batch_size=4, observer=notes)
        bulk = batcher.submit("g", range(6), BULK)
        assert notes.gauge[BULK] == 6
        await asyncio.sleep(0.5)
        assert notes.gauge[BULK] == 2
        gone = batcher.submit("g", "ab", SINGLE)
        assert notes.gauge[SINGLE] == 2
        batcher.withdraw(gone)
        assert notes.gauge[SINGLE] == 0
        await batcher.submit("g", "c", INTERACTIVE).done()
        await bulk.done()
        assert notes.sizes == [4, 1, 2, 2, 2]
        assert notes.waits == [(BULK, 0), (INTERACTIVE, 0.5)]
        assert set(notes.gauge.values()) == {0}

    run(main())


def test_the_gauge_falls_when_a_request_fails_early() -> None:
    async def main() -> None:
        notes = Notes()
        batcher = Batcher(Device(always(ValueError())).call, observer=notes)
        await batcher.submit("g", range(1000), BULK).done()
        assert notes.gauge[BULK] == 0

    run(main())


# Laws


@dataclass(frozen=True)
class Item:
    """An item of a request, and what the model does with it.

    Attributes:
        fault: an exception that the call raises, or that stands in the item's answer.
    """

    request: int
    place: int
    group: str
    fault: type[Exception] | None = None
    in_answer: bool = False


class StrictDevice:
    """Checks every call against the batcher's promises."""

    def __init__(self, max_calls: int, memory: int, counts_up_to: int) -> None:
        self.max_calls = max_calls
        self.memory = memory
        self.counts_up_to = counts_up_to
        self.seconds = 1.0
        self.running = 0
        self.calls = 0
        self.tickets: dict[int, Ticket] = {}
        self.alone: set[int] = set()
        self.in_call: set[tuple[int, int]] = set()
        self.blamed: dict[Exception, set[int]] = {}
        self.broken: list[AssertionError] = []
        self.batcher: Batcher

    async def call(self, group: str, items: list[Item]) -> list[Any]:
        try:
            return await self._call(group, items)
        except AssertionError as broken:
            self.broken.append(broken)
            raise

    async def _call(self, group: str, items: list[Item]) -> list[Any]:
        keys = {(item.request, item.place) for item in items}
        requests = {item.request for item in items}
        self.calls += 1
        assert 0 < len(items) <= self.batcher.limit
        assert len(keys) == len(items)
        assert not keys & self.in_call
        assert {item.group for item in items} == {group}
        assert len(requests) == 1 or not requests & self.alone
        assert all(self.tickets[request].is_open for request in requests)
        self.in_call |= keys
        self.running += 1
        assert self.running <= self.max_calls
        await asyncio.sleep(self.seconds)
        self.running -= 1
        self.in_call -= keys
        if len(items) > self.memory:
            raise OutOfMemory("too many")
        if len(items) > self.counts_up_to:
            return [None]
        for item in items:
            if item.fault is not None and not item.in_answer:
                raise self.error(item.fault, item, requests)
        return [
            (item.request, item.place)
            if item.fault is None
            else self.error(item.fault, item, {item.request})
            for item in items
        ]

    def error(
        self, fault: type[Exception], item: Item, requests: set[int]
    ) -> Exception:
        error = fault(item.request, item.place)
        self.blamed[error] = requests
        return error

    def check(self, ticket: Ticket, *, ended_early: bool, exact: bool) -> None:
        """Every item has its own answer, or an error that it may have."""
        for item, answer in zip(ticket.items, ticket.answers, strict=True):
            if answer is None:
                assert ended_early
            elif not isinstance(answer, Exception):
                assert item.fault is None
                assert answer == (item.request, item.place)
            elif exact:
                assert type(answer) is item.fault
                assert answer.args == (item.request, item.place)
            else:
                assert item.request in self.blamed[answer]


def requests(*faults: type[Exception]) -> st.SearchStrategy[list[list[Any]]]:
    fault = st.sampled_from([None, None, None, *faults])
    return st.lists(st.tuples(fault, st.booleans()).map(list), min_size=1, max_size=12)


lanes = st.sampled_from(Lane)
groups = st.sampled_from("ab")
durations = st.sampled_from([0.01, 0.3, 1.0, 5.0])


class Schedule(RuleBasedStateMachine):
    """Requests of all kinds come, fail, hang up and are late, in any order."""

    faults: tuple[type[Exception], ...] = (ValueError, KeyError, MediaError)

    def __init__(self) -> None:
        super().__init__()
        self.loop = FakeClockLoop()
        self.uncaught: list[Any] = []
        self.loop.set_exception_handler(
            lambda _, context: self.uncaught.append(context)
        )
        self.device: StrictDevice | None = None
        self.early: set[int] = set()

    def pass_time(self, seconds: float) -> None:
        async def main() -> None:
            await asyncio.sleep(seconds)
            for _ in range(10):  # whatever can be done now is done now
                await asyncio.sleep(0)

        self.loop.run_until_complete(main())

    @precondition(lambda self: self.device is None)
    @rule(
        max_calls=st.integers(1, 3),
        limit=st.integers(1, 8),
        memory=st.sampled_from([1, 2, 5, 99, 99]),
        counts_up_to=st.sampled_from([1, 3, 99, 99]),
    )
    def start(self, max_calls: int, limit: int, memory: int, counts_up_to: int) -> None:
        self.device = StrictDevice(max_calls, memory, counts_up_to)
        self.notes = Notes()
        self.batcher = self.device.batcher = Batcher(
            self.device.call,
            max_batch_size=limit,
            max_calls=max_calls,
            queue_size=30,
            observer=self.notes,
        )

    @precondition(lambda self: self.device is not None)
    @rule(
        data=st.data(),
        group=groups,
        lane=lanes,
        alone=st.booleans(),
        deadline_s=st.sampled_from([None, None, 0.5, 4.0]),
    )
    def submit(
        self,
        data: st.DataObject,
        group: str,
        lane: Lane,
        alone: bool,
        deadline_s: float | None,
    ) -> None:
        assert self.device is not None
        device, number = self.device, len(self.device.tickets)
        kinds = data.draw(requests(*self.faults))
        items = [Item(number, i, group, *kind) for i, kind in enumerate(kinds)]

        async def submit() -> None:
            device.tickets[number] = self.batcher.submit(
                group, items, lane, alone=alone, deadline_s=deadline_s
            )
            if alone:
                device.alone.add(number)

        waiting = self.batcher.waiting()[lane]
        try:
            self.loop.run_until_complete(submit())
        except QueueFull:
            assert waiting
            assert waiting + len(items) > 30
            return
        self.pass_time(0)
        if deadline_s is not None:
            self.early.add(number)

    @precondition(lambda self: self.device is not None)
    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0]), each=durations)
    def wait(self, seconds: float, each: float) -> None:
        assert self.device is not None
        self.device.seconds = each
        self.pass_time(seconds)

    @precondition(lambda self: self.device is not None and self.device.tickets)
    @rule(data=st.data(), by_cancelling=st.booleans())
    def disconnect(self, data: st.DataObject, by_cancelling: bool) -> None:
        assert self.device is not None
        number = data.draw(st.sampled_from(sorted(self.device.tickets)))
        ticket = self.device.tickets[number]
        if ticket.is_open:
            self.early.add(number)

        async def cancel() -> None:
            waiter = asyncio.create_task(ticket.done())
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.wait([waiter])
            self.batcher.withdraw(ticket)

        async def withdraw() -> None:
            self.batcher.withdraw(ticket)

        self.loop.run_until_complete(cancel() if by_cancelling else withdraw())
        assert not ticket.is_open
        self.pass_time(0)

    @invariant()
    def nothing_broke(self) -> None:
        assert not self.uncaught
        if self.device is not None and self.device.broken:
            raise self.device.broken[0]

    @invariant()
    def nothing_waits_while_a_call_is_free(self) -> None:
        if self.device is not None:
            waiting = self.batcher.waiting()
            assert {lane: self.notes.gauge.get(lane, 0) for lane in Lane} == waiting
            assert self.device.running == self.device.max_calls or not any(
                waiting.values()
            )

    @precondition(lambda self: self.device is not None)
    @invariant()
    def answers_are_the_items_own(self) -> None:
        assert self.device is not None
        for number, ticket in self.device.tickets.items():
            if not ticket.is_open:
                self.device.check(
                    ticket,
                    ended_early=number in self.early,
                    exact=self.faults == (MediaError,),
                )

    def teardown(self) -> None:
        if self.device is not None:
            self.device.seconds = 1.0
            self.loop.run_until_complete(self.batcher.close())
            self.pass_time(0)
            assert not any(ticket.is_open for ticket in self.device.tickets.values())
            assert not any(self.batcher.waiting().values())
            assert self.device.running == 0
            self.nothing_broke()
            self.answers_are_the_items_own()
            assert not asyncio.all_tasks(self.loop)
        self.loop.close()


class ScheduleWithFaultsOfTasks(Schedule):
    """Where each fault lies in a task, answers are exact whatever came together."""

    faults = (MediaError,)


QUICK = settings(
    max_examples=100,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_every_item_gets_its_own_answer_whatever_fails() -> None:
    run_state_machine_as_test(Schedule, settings=QUICK)


def test_faults_that_lie_in_tasks_cost_exactly_these_tasks() -> None:
    run_state_machine_as_test(ScheduleWithFaultsOfTasks, settings=QUICK)


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    limit=st.integers(1, 8),
    max_calls=st.integers(1, 3),
    bad=st.sets(st.integers(0, 99)),
)
def test_a_request_is_answered_as_its_parts_would_be(
    sizes: list[int], limit: int, max_calls: int, bad: set[int]
) -> None:
    async def answers(requests: list[list[int]]) -> list[Any]:
        errors = {i: MediaError(str(i)) for i in bad}
        device = Device(failing_on(dict(errors)))
        batcher = Batcher(device.call, max_batch_size=limit, max_calls=max_calls)
        tickets = [batcher.submit("g", items, BULK) for items in requests]
        return [str(a) for ticket in tickets for a in await ticket.done()]

    numbers = iter(range(100))
    parts = [[next(numbers) for _ in range(size)] for size in sizes]
    assert run(answers(parts)) == run(answers([list(range(sum(sizes)))]))


@settings(deadline=None, max_examples=60)
@given(
    each=st.sampled_from([0.1, 0.5, 1.9, 7.0]),
    lane=st.sampled_from([SINGLE, BULK]),
    limit=st.integers(1, 8),
    max_calls=st.integers(1, 2),
    items=st.integers(1, 20),
    bad=st.sets(st.integers(0, 19), max_size=4),
)
def test_no_lane_starves_whatever_the_others_do(
    each: float, lane: Lane, limit: int, max_calls: int, items: int, bad: set[int]
) -> None:
    """Each of a request's calls begins within 2 s and one call of each other lane."""

    async def main() -> None:
        errors = {i: MediaError(str(i)) for i in bad}
        device = Device(failing_on(dict(errors)), seconds=each)
        batcher = Batcher(device.call, max_batch_size=limit, max_calls=max_calls)
        others = [other for other in Lane if other is not lane]
        busy = asyncio.create_task(keep_busy(batcher, *others))
        await asyncio.sleep(1)
        ticket = batcher.submit("mine", range(items), lane)
        await ticket.done()
        calls = [call for call in device.calls if call.group == "mine"]
        begins = [1.0] + [call.at for call in calls]
        for before, after in pairwise(begins):
            assert after - before <= 2 + 4 * each + 1e-6
        busy.cancel()

    run(main())


def test_close_abandons_calls_that_run_longer_than_its_patience() -> None:
    async def main() -> None:
        device = Device()
        batcher = Batcher(device.call)
        batcher.submit("g", ["a"], SINGLE)
        await asyncio.sleep(0.1)
        assert not await batcher.close(0.2)
        assert asyncio.get_running_loop().time() < 0.5
        assert await batcher.close(5)

    run(main())
