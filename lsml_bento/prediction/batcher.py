"""Adaptive batching: requests wait in lanes until a call may start.

A request's tasks wait in one of three lanes. When a call may start, it gets up to
``max_batch_size`` tasks of one group from the first lane that has any. No request waits
for a timer. Parts of a failed batch are retried through the same lanes, so a search for
a bad task delays an annotator by at most one call. This module does not depend on what
a task or an answer is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any

from lsml_bento.errors import (
    MediaError,
    OutOfMemory,
    QueueFull,
    ShuttingDown,
    WrongCount,
)

log = logging.getLogger(__name__)

_FAILED_CHUNKS = 3
"""Consecutive chunks of a request that may fail as a whole before the rest fails."""

_PATIENCE_S = 2.0
"""Seconds that other lanes may be served before a waiting lane gets a batch."""

_ONE_TASK_ERRORS = (MediaError,)
"""Errors that belong to one task, however many tasks of a chunk have them."""

Call = Callable[[Any, list[Any]], Awaitable[Sequence[Any]]]
"""``await call(group, items)``: one answer per item, an Exception where one failed.

An answer is never None.
"""


class Lane(str, Enum):
    """The lanes, in the order in which they are served."""

    INTERACTIVE = "interactive"
    """An annotator drew something and waits for a suggestion."""
    SINGLE = "single"
    """An annotator opens a task."""
    BULK = "bulk"
    """Many tasks were selected at once."""


class Observer:
    """Gets the batcher's measurements, and discards them.

    ``adapters.bentoml_service`` exports them.
    """

    def batch(self, size: int) -> None:
        """Record a call with ``size`` items."""

    def waited(self, lane: Lane, seconds: float) -> None:
        """Record how long a request waited for the call with its first item."""

    def waiting(self, lane: Lane, items: int) -> None:
        """Record how many items a lane holds now."""


class Ticket:
    """A request in the queue, and its answers as they arrive.

    Attributes:
        answers: one entry per item, in order: the answer, an Exception if the item
            failed, or None if it was not reached. Await ``done`` before reading.
    """

    def __init__(
        self, group: Hashable, items: Sequence[Any], lane: Lane, *, alone: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        self.group: Hashable = object() if alone else group
        self.call_group = group
        self.items = items
        self.lane = lane
        self.came_at = loop.time()
        self.queued = 0
        self.has_begun = False
        self.failed_chunks = 0
        self.deadline: asyncio.TimerHandle | None = None
        self.answers: list[Any] = [None] * len(items)
        self._unanswered = len(items)
        self._done: asyncio.Future[None] = loop.create_future()
        if not items:
            self.stop_waiting()

    @property
    def is_open(self) -> bool:
        """Whether the client still waits for an answer."""
        return not self._done.done()

    async def done(self) -> list[Any]:
        """Wait until every item is answered or the deadline passes.

        Cancelling the wait closes the ticket: ``withdraw`` it then.
        """
        await self._done
        return self.answers

    def answer(self, place: int, answer: Any) -> None:
        """Set the answer of one item; the last one ends the wait."""
        if self.answers[place] is not None or not self.is_open:
            return
        self.answers[place] = answer
        self._unanswered -= 1
        if not self._unanswered:
            self.stop_waiting()

    def stop_waiting(self) -> None:
        """End the wait with the answers received so far."""
        if self.deadline is not None:
            self.deadline.cancel()
        if self.is_open:
            self._done.set_result(None)


@dataclass
class _Item:
    """One entry of a ticket."""

    ticket: Ticket
    place: int


@dataclass
class _Batch:
    """Items for one call."""

    lane: Lane
    items: list[_Item]


@dataclass
class _Part(_Batch):
    """A part of a batch that failed.

    Attributes:
        tried: the error of its call, None if it was answered.
    """

    tried: asyncio.Future[Exception | None]


@dataclass
class _Line:
    """What waits of one group; parts of failed batches go first."""

    parts: deque[_Part] = field(default_factory=deque)
    items: deque[_Item] = field(default_factory=deque)


class _Queue:
    """One lane: groups take turns, and items of a group are served in order."""

    def __init__(self, lane: Lane, observer: Observer) -> None:
        self.lines: OrderedDict[Hashable, _Line] = OrderedDict()
        self.items = 0
        self.passed_since = inf
        self._lane = lane
        self._observer = observer

    def add(self, ticket: Ticket) -> None:
        """Queue a ticket's items behind those of its group."""
        items = [_Item(ticket, place) for place in range(len(ticket.items))]
        self._line(ticket.group).items.extend(items)
        self._count(items, +1)

    def put_back(self, items: list[_Item]) -> None:
        """Queue items of a call that was too large before all others."""
        self._line(items[0].ticket.group).items.extendleft(reversed(items))
        self._count(items, +1)

    def add_part(self, items: list[_Item]) -> _Part:
        """Queue a part of a batch that failed before the items of its group."""
        part = _Part(self._lane, items, asyncio.get_running_loop().create_future())
        self._line(items[0].ticket.group).parts.append(part)
        return part

    def take(self, limit: int) -> _Batch:
        """Take a part, or up to ``limit`` items, of the group whose turn it is."""
        group, line = self.lines.popitem(last=False)
        batch: _Batch
        if line.parts:
            batch = line.parts.popleft()
        else:
            count = min(limit, len(line.items))
            batch = _Batch(self._lane, [line.items.popleft() for _ in range(count)])
            self._count(batch.items, -1)
        if line.parts or line.items:
            self.lines[group] = line
        return batch

    def remove(self, ticket: Ticket) -> list[_Item]:
        """Remove and return a ticket's items that still wait."""
        if not ticket.queued:
            return []
        line = self.lines[ticket.group]
        removed = [item for item in line.items if item.ticket is ticket]
        line.items = deque(item for item in line.items if item.ticket is not ticket)
        if not line.items and not line.parts:
            del self.lines[ticket.group]
        self._count(removed, -1)
        return removed

    def _line(self, group: Hashable) -> _Line:
        if not self.lines:
            self.passed_since = inf
        line = self.lines.get(group)
        if line is None:
            line = self.lines[group] = _Line()
        return line

    def _count(self, items: list[_Item], sign: int) -> None:
        for item in items:
            item.ticket.queued += sign
        self.items += sign * len(items)
        self._observer.waiting(self._lane, self.items)


class Batcher:
    """Turns requests of any size into batches of one group.

    Args:
        call: runs one batch; never more than ``max_calls`` times at once.
        max_batch_size: maximum number of items in a call.
        max_calls: how many calls may run concurrently.
        queue_size: items that may wait in a lane. A request that finds its lane empty
            is accepted whatever its size.
        observer: gets batch sizes and waiting times.
    """

    def __init__(
        self,
        call: Call,
        *,
        max_batch_size: int = 32,
        max_calls: int = 1,
        queue_size: int = 10_000,
        observer: Observer | None = None,
    ) -> None:
        self._call = call
        self._limit = max_batch_size
        self._queue_size = queue_size
        self._free_calls = max_calls
        self._observer = observer or Observer()
        self._queues = {lane: _Queue(lane, self._observer) for lane in Lane}
        self._running: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def limit(self) -> int:
        """The current maximum number of items in a call."""
        return self._limit

    def waiting(self) -> dict[Lane, int]:
        """The number of waiting items, by lane."""
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
            items: passed to ``call`` in this order.
            lane: where they wait.
            alone: never share a call with another request.
            deadline_s: seconds after which the ticket ends with what is answered.

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
        """End a ticket now: drop its waiting items and ignore calls that run."""
        self._queues[ticket.lane].remove(ticket)
        ticket.stop_waiting()

    async def close(self, patience_s: float | None = None) -> bool:
        """Refuse new requests and wait until all accepted ones are answered.

        Args:
            patience_s: seconds after which running calls are abandoned.

        Returns:
            Whether every call ended.
        """
        self._closing = True
        loop = asyncio.get_running_loop()
        until = inf if patience_s is None else loop.time() + patience_s
        while self._running and loop.time() < until:
            left = None if patience_s is None else until - loop.time()
            await asyncio.wait(self._running, timeout=left)
        return not self._running

    def _start(self) -> None:
        """Start one more loop of calls if one is free and something waits.

        It takes its batch when it first runs, and then checks whether another loop is
        needed.
        """
        if self._free_calls and any(q.lines for q in self._queues.values()):
            self._free_calls -= 1
            self._run(self._work())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _work(self) -> None:
        """Call with one batch after the other while something waits."""
        try:
            while (batch := self._choose()) is not None:
                self._start()
                error = await self._attempt(batch)
                if isinstance(batch, _Part):
                    batch.tried.set_result(error)
                elif error is None:
                    self._count(batch.items, None)
                    continue
                elif len(batch.items) == 1:
                    _fail(batch.items, error)
                    is_own = isinstance(error, _ONE_TASK_ERRORS)
                    self._count(batch.items, None if is_own else error)
                    continue
                else:
                    self._run(self._search(batch.lane, batch.items))
                # Let the search run first, so that the parts that it queues are called
                # before other items.
                await asyncio.sleep(0)
        finally:
            self._free_calls += 1

    def _choose(self) -> _Batch | None:
        """Take a batch of the first lane, or of one that was passed over too long."""
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

    async def _attempt(self, batch: _Batch) -> Exception | None:
        """Make one call; set its answers, or return its error.

        Items of a batch that is too large are queued again, for smaller batches.
        """
        items = batch.items = [item for item in batch.items if item.ticket.is_open]
        if not items:
            return None
        if len(items) > self._limit:  # another call lowered it meanwhile
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
            log.warning("Batch size limited to %d tasks from now on: %s", limit, error)

    async def _search(self, lane: Lane, chunk: list[_Item]) -> None:
        """Find the items that a batch failed for, by halving what fails.

        If both halves fail with the same type of error before any part was answered,
        every item may be affected. Then the first and the last item are tried alone. If
        they fail with that type too, all items fail without more calls.
        """
        has_answers = False
        failed = [chunk]
        while failed:
            level = [(items, self._queue(lane, _halves(items))) for items in failed]
            failed = []
            for items, parts in level:
                errors = [await half.tried for half in parts]
                has_answers |= None in errors
                if not has_answers and _same_fault(errors[0], errors[1]):
                    ends = self._queue(lane, _ends(items, parts))
                    if all([_same_fault(await end.tried, errors[0]) for end in ends]):
                        await _fail_parts(parts)
                        if items is chunk:
                            self._count(chunk, errors[0])
                        continue
                    has_answers = True
                    alone = [half for half in parts if len(half.items) == 1]
                    parts = [*alone, *ends, *self._queue(lane, [items[1:-1]])]
                failed += await _fail_parts(parts, only_single_items=True)
                if items is chunk:
                    self._count(chunk, None)

    def _queue(self, lane: Lane, parts: list[list[_Item]]) -> list[_Part]:
        """Queue parts of a failed batch, each for its own call."""
        queued = [self._queues[lane].add_part(items) for items in parts]
        self._start()
        return queued

    def _count(self, chunk: list[_Item], error: Exception | None) -> None:
        """Count consecutive chunks that failed as a whole; fail the rest after three.

        Args:
            chunk: the items of one batch.
            error: None if any of them was answered.
        """
        for ticket in {item.ticket for item in chunk}:
            ticket.failed_chunks = 0 if error is None else ticket.failed_chunks + 1
            if error is not None and ticket.failed_chunks >= _FAILED_CHUNKS:
                _fail(self._queues[ticket.lane].remove(ticket), error)


def _halves(items: list[_Item]) -> list[list[_Item]]:
    middle = len(items) // 2
    return [items[:middle], items[middle:]]


def _ends(items: list[_Item], halves: list[_Part]) -> list[list[_Item]]:
    """The first and the last item, each alone, unless a half was just that."""
    known = [half.items for half in halves]
    return [end for end in (items[:1], items[-1:]) if end not in known]


async def _fail_parts(
    parts: list[_Part], *, only_single_items: bool = False
) -> list[list[_Item]]:
    """Fail the items of parts whose call failed; return those of parts left out."""
    left_out = []
    for part in parts:
        error = await part.tried
        if error is not None and only_single_items and len(part.items) > 1:
            left_out.append(part.items)
        else:
            _fail(part.items, error)
    return left_out


def _fail(items: list[_Item], error: Exception | None) -> None:
    if error is not None:
        for item in items:
            item.ticket.answer(item.place, error)


def _same_fault(first: Exception | None, second: Exception | None) -> bool:
    return type(first) is type(second) and not isinstance(first, _ONE_TASK_ERRORS)
