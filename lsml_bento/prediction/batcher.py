"""Batches formed while the device is busy, so that nobody waits for a timer.

A request's tasks stand in one of three lanes. Whenever a slot of the device is free,
the first lane that has tasks gives up to ``max_batch_size`` of them, all of one group,
to one call. The parts of a batch that failed stand in their lane again, so that who
may go first does. Nothing here knows what a task or an answer is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from math import inf
from typing import Any

from lsml_bento.errors import (
    MediaError,
    OutOfMemory,
    QueueFull,
    ShuttingDown,
    WrongCount,
)
from lsml_bento.prediction.request_queue import (
    Batch,
    Failed,
    Item,
    Lane,
    NoObserver,
    Observer,
    Queue,
    Ticket,
)

log = logging.getLogger(__name__)

_FAILED_CHUNKS = 3
"""Chunks of a request that may fail whole in a row before it is given up."""

_PATIENCE_S = 2.0
"""How long other lanes may be served before one that waits gets a batch."""

_ONE_TASK_ERRORS = (MediaError,)
"""Errors that lie in a task, however many tasks of a chunk have them."""

Call = Callable[[Any, list[Any]], Awaitable[Sequence[Any]]]
"""``await call(group, items)``: one answer per item, an Exception where one failed."""


class Batcher:
    """Turns requests of any size into batches of one group.

    Args:
        call: runs one batch; at most ``slots`` calls are awaited at a time.
        max_batch_size: items in a call at most.
        slots: how many calls the device takes at a time.
        queue_size: items that may wait in a lane. A request that finds its lane empty
            is taken whatever its size.
        observer: is told of batches and waits.
    """

    def __init__(
        self,
        call: Call,
        *,
        max_batch_size: int = 32,
        slots: int = 1,
        queue_size: int = 10_000,
        observer: Observer | None = None,
    ) -> None:
        self._call = call
        self._limit = max_batch_size
        self._queue_size = queue_size
        self._free_slots = slots
        self._observer: Observer = observer or NoObserver()
        self._queues = {lane: Queue(lane, self._observer) for lane in Lane}
        self._working: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def limit(self) -> int:
        """Items in a call at most, as it is now."""
        return self._limit

    def waiting(self) -> dict[Lane, int]:
        """Items that wait, by lane."""
        return {lane: queue.items for lane, queue in self._queues.items()}

    def submit(
        self,
        group: Hashable,
        items: Sequence[Any],
        lane: Lane,
        *,
        alone: bool = False,
        deadline_s: float | None = None,
    ) -> Ticket:
        """Queue a request's items.

        Args:
            group: items of equal groups may share a call.
            items: given to ``call`` in this order.
            lane: who waits.
            alone: never share a call with another request.
            deadline_s: seconds after which the ticket ends with what is done.

        Raises:
            QueueFull: if too many items wait in this lane.
            ShuttingDown: after ``close``.
        """
        if self._closing:
            raise ShuttingDown("the server is shutting down: try again in a moment")
        queue = self._queues[lane]
        if queue.items and queue.items + len(items) > self._queue_size:
            raise QueueFull(
                f"{queue.items} tasks wait already and {len(items)} more would exceed "
                f"LSML_QUEUE_SIZE={self._queue_size}: try again later"
            )
        ticket = Ticket(group, items, lane, alone=alone)
        if not items:
            return ticket
        queue.add(ticket)
        if deadline_s is not None:
            loop = asyncio.get_running_loop()
            ticket.deadline = loop.call_later(deadline_s, self.withdraw, ticket)
        self._start()
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """End a ticket now: its queued items are dropped, a running call goes on."""
        self._queues[ticket.lane].remove(ticket)
        ticket.stop_waiting()

    async def close(self, patience_s: float | None = None) -> bool:
        """Take nothing new and return when all that was taken is answered.

        Args:
            patience_s: seconds after which calls that still run are left alone.

        Returns:
            Whether no call runs any more.
        """
        self._closing = True
        loop = asyncio.get_running_loop()
        until = inf if patience_s is None else loop.time() + patience_s
        while self._working and loop.time() < until:
            left = None if patience_s is None else until - loop.time()
            await asyncio.wait(self._working, timeout=left)
        return not self._working

    def _start(self) -> None:
        """Have one more worker if a slot is free for what waits.

        It takes its batch when it first runs, and then sees whether another is needed.
        """
        if self._free_slots and any(q.lines for q in self._queues.values()):
            self._free_slots -= 1
            worker = asyncio.get_running_loop().create_task(self._work())
            self._working.add(worker)
            worker.add_done_callback(self._working.discard)

    async def _work(self) -> None:
        try:
            while (batch := self._choose()) is not None:
                self._start()
                self._conclude(batch, await self._attempt(batch))
        finally:
            self._free_slots += 1

    def _choose(self) -> Batch | None:
        """The next batch: the first lane's, or that of a lane passed over too long."""
        waiting = [queue for queue in self._queues.values() if queue.lines]
        if not waiting:
            return None
        now = asyncio.get_running_loop().time()
        longest = min(waiting, key=lambda queue: queue.passed_since)
        overdue = now - longest.passed_since > _PATIENCE_S
        chosen = longest if overdue else waiting[0]
        for queue in waiting:
            queue.passed_since = min(queue.passed_since, now)
        chosen.passed_since = inf
        batch = chosen.take(self._limit)
        for item in batch.items:
            if not item.ticket.has_begun:
                item.ticket.has_begun = True
                self._observer.waited(item.ticket.lane, now - item.ticket.came_at)
        return batch

    async def _attempt(self, batch: Batch) -> Exception | None:
        """One call: its answers are given out, or its error is returned.

        A batch that is too large is put back, to be taken again in smaller ones.
        """
        items = batch.items = [item for item in batch.items if item.ticket.is_open]
        if not items:
            return None
        if len(items) > self._limit:  # another slot lowered it since the halving
            self._queues[batch.lane].put_back(items)
            return None
        self._observer.batch(len(items))
        tasks = [item.ticket.items[item.place] for item in items]
        try:
            answers = await self._call(items[0].ticket.call_group, tasks)
            if len(answers) != len(items):
                raise WrongCount(len(items), len(answers))
        except (OutOfMemory, WrongCount) as error:
            if len(items) == 1:
                return error
            self._lower_limit(error, len(items))
            self._queues[batch.lane].put_back(items)
            return None
        except Exception as error:  # noqa: BLE001 - user code raises anything
            return error
        for item, answer in zip(items, answers, strict=True):
            item.ticket.answer(item.place, answer)
        return None

    def _lower_limit(self, error: Exception, size: int) -> None:
        limit = size // 2 if isinstance(error, OutOfMemory) else 1
        if limit < self._limit:
            self._limit = limit
            log.warning("batches hold %d tasks at most from now on: %s", limit, error)

    def _conclude(self, batch: Batch, error: Exception | None) -> None:
        """Give out what a failed call's error means, or have halves of it tried."""
        whole = batch.whole
        if whole is not None:
            whole.ended.append((batch.items, error))
            batch.chunk.has_answers |= error is None
            if len(whole.ended) == whole.parts:
                self._conclude_parts(whole)
        elif error is None:
            self._count(batch, None)
        elif len(batch.items) == 1:
            _fail(batch.items, error)
            self._count(batch, None if isinstance(error, _ONE_TASK_ERRORS) else error)
        else:
            self._queues[batch.lane].add_halves(batch)

    def _conclude_parts(self, whole: Batch) -> None:
        if whole.suspects:
            self._conclude_tries(whole)
            return
        failed = whole.failed
        alike = len(failed) == 2 and _same_fault(failed[0][1], failed[1][1])
        if alike and not whole.chunk.has_answers:
            self._suspect(whole, failed)
        else:
            self._halve(whole, failed)

    def _suspect(self, whole: Batch, halves: list[Failed]) -> None:
        """Is everything down, or has each half a bad task? Try both ends alone."""
        ends = [whole.items[:1], whole.items[-1:]]
        if tries := [end for end in ends if end not in [items for items, _ in halves]]:
            whole.suspects = halves
            self._queues[whole.lane].add_parts(whole, tries)
        else:
            self._give_up(whole, halves)

    def _conclude_tries(self, whole: Batch) -> None:
        halves, whole.suspects = whole.suspects, []
        if all(_same_fault(error, halves[0][1]) for _, error in whole.ended):
            self._give_up(whole, halves)
            return
        whole.chunk.has_answers = True
        for items, error in [*halves, *whole.failed]:
            if len(items) == 1:
                _fail(items, error)
        self._queues[whole.lane].add_parts(whole, [whole.items[1:-1]])

    def _give_up(self, whole: Batch, halves: list[Failed]) -> None:
        for items, error in halves:
            _fail(items, error)
        if whole.whole is None:
            self._count(whole, halves[0][1])

    def _halve(self, whole: Batch, failed: list[Failed]) -> None:
        for items, error in failed:
            if len(items) == 1:
                _fail(items, error)
            else:
                self._queues[whole.lane].add_halves(Batch(whole.lane, items, whole))
        if whole.whole is None:
            self._count(whole, None)

    def _count(self, chunk: Batch, error: Exception | None) -> None:
        """Fail what is left of a request whose chunks keep failing whole."""
        for ticket in {item.ticket for item in chunk.items}:
            ticket.failed_chunks = 0 if error is None else ticket.failed_chunks + 1
            if error is not None and ticket.failed_chunks >= _FAILED_CHUNKS:
                _fail(self._queues[ticket.lane].remove(ticket), error)


def _fail(items: list[Item], error: Exception) -> None:
    for item in items:
        item.ticket.answer(item.place, error)


def _same_fault(first: Exception | None, second: Exception) -> bool:
    return type(first) is type(second) and not isinstance(first, _ONE_TASK_ERRORS)
