"""Threads that call user code."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Iterator
from typing import TypeVar

import pytest

from lsml_bento.prediction.call_threads import CallThreads

Answer = TypeVar("Answer")


@pytest.fixture
def two() -> Iterator[CallThreads]:
    device = CallThreads(2, "test")
    yield device
    device.close()


async def soon(answer: Awaitable[Answer]) -> Answer:
    return await asyncio.wait_for(answer, 10)


def test_a_call_answers_from_a_thread_of_the_device(two: CallThreads) -> None:
    async def main() -> str:
        return (await soon(two.run(threading.current_thread))).name

    assert asyncio.run(main()) in {"test-0", "test-1"}


@pytest.mark.parametrize("kind", [ValueError, SystemExit, GeneratorExit])
def test_what_a_call_raises_is_raised_to_who_awaits_it(
    two: CallThreads, kind: type[BaseException]
) -> None:
    def fail() -> None:
        raise kind("broken")

    async def main() -> str:
        future = two.run(fail)
        await asyncio.wait({future}, timeout=10)
        assert await soon(two.run(lambda: "alive")) == "alive"
        return type(future.exception()).__name__

    assert asyncio.run(main()) == kind.__name__


def test_as_many_calls_run_at_a_time_as_there_are_threads(two: CallThreads) -> None:
    together = threading.Barrier(2, timeout=10)

    async def main() -> list[int]:
        calls = [two.run(together.wait) for _ in range(6)]
        return await soon(asyncio.gather(*calls))

    assert sorted(asyncio.run(main())) == [0, 0, 0, 1, 1, 1]


def test_a_call_that_ends_after_its_loop_was_closed_is_ignored(
    two: CallThreads,
) -> None:
    gate, ended = threading.Event(), threading.Event()

    def late() -> None:
        gate.wait(10)
        ended.set()

    async def main() -> None:
        two.run(late)
        await asyncio.sleep(0.05)

    asyncio.run(main())
    gate.set()
    assert ended.wait(10)

    async def again() -> int:
        return await soon(two.run(int, "7"))

    assert asyncio.run(again()) == 7


def test_a_closed_device_ends_its_threads_and_leaves_a_stuck_one_alone() -> None:
    device = CallThreads(2, "closing")
    gate = threading.Event()

    async def main() -> None:
        device.run(gate.wait, 10)
        await asyncio.sleep(0.05)

    asyncio.run(main())
    device.close()
    until = time.monotonic() + 10
    while threads("closing") > 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert threads("closing") == 1
    gate.set()
    while threads("closing") and time.monotonic() < until:
        time.sleep(0.01)
    assert threads("closing") == 0


def threads(name: str) -> int:
    return sum(thread.name.startswith(name) for thread in threading.enumerate())
