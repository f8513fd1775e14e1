"""Batches formed while the device is busy, so that nobody waits for a timer.

A request's tasks stand in one of three lanes. Whenever a slot of the device is free, the
first lane that has tasks gives up to ``max_batch_size`` of them, all of one group, to one
call. Nothing here knows what a task or an answer is: pure asyncio, on the loop's clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from lsml_bento.errors import (
    MediaError,
    OutOfMemory,
    QueueFull,
    ShuttingDown,
    WrongCount,
)

log = logging.getLogger(__name__)

_FAILED_CHUNKS = 3
"""Chunks of a request that may fail whole in a row before the rest is given up."""

_PATIENCE_S = 2.0
"""How long a lane waits while others are served before it gets one batch."""

_ONE_TASK_ERRORS = (MediaError,)
"""Errors that lie in a task, however many tasks of a chunk have them."""

_PENDING = object()


class Lane(str, Enum):
    """Who waits, in the order in which they are served."""

    INTERACTIVE = "interactive"
    """An annotator has just drawn something and looks at the screen."""
    SINGLE = "single"
    """A task is being opened."""
    BULK = "bulk"
    """Many tasks were selected at once."""


Call = Callable[[Any, list[Any]], Awaitable[Sequence[Any]]]
"""``await call(group, items)``: one answer per item, an Exception where one failed."""


class Observer(Protocol):
    """Is told what the batcher does; see ``adapters.bentoml_service`` for Prometheus."""

    def batch(self, size: int) -> None:
        """A call with ``size`` items begins."""

    def waited(self, lane: Lane, seconds: float) -> None:
        """A request's first item begins ``seconds`` after the request came."""

    def waiting(self, lane: Lane, items: int) -> None:
        """So many items now wait in a lane."""


class NoObserver:
    """Looks away."""

    def batch(self, size: int) -> None:
        """Nothing."""

    def waited(self, lane: Lane, seconds: float) -> None:
        """Nothing."""

    def waiting(self, lane: Lane, items: int) -> None:
        """Nothing."""


class Ticket:
    """A request's place in the queue, and its answers when they are there.

    Attributes:
        answers: one entry per item, in order: the answer, an Exception if that item
            failed, or None if the deadline came first. Await ``done`` before reading.
    """

    def __init__(
        self, group: Hashable, items: Sequence[Any], lane: Lane, *, alone: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        self.group: Hashable = (group, id(self)) if alone else group
        self.call_group = group
        self.items = items
        self.lane = lane
        self.came_at = loop.time()
        self.dispatched = 0
        self.failed_chunks = 0
        self.deadline: asyncio.TimerHandle | None = None
        self._answers: list[Any] = [_PENDING] * len(items)
        self._open = len(items)
        self._done: asyncio.Future[None] = loop.create_future()
        if not items:
            self._finish()

    @property
    def is_open(self) -> bool:
        """Whether somebody still waits for an answer."""
        return not self._done.done()

    @property
    def answers(self) -> list[Any]:
        """One entry per item; None for items that were not reached."""
        return [None if a is _PENDING else a for a in self._answers]

    async def done(self) -> list[Any]:
        """Wait until every item is answered, or the deadline; returns ``answers``."""
        await self._done
        return self.answers

    def answer(self, place: int, answer: Any) -> None:
        """Give one item its answer; the last one ends the wait."""
        if self._answers[place] is not _PENDING or not self.is_open:
            return
        self._answers[place] = answer
        self._open -= 1
        if not self._open:
            self._finish()

    def give_up(self, error: Exception) -> None:
        """Fail every item that has no answer yet."""
        for place in range(len(self.items)):
            self.answer(place, error)

    def stop_waiting(self) -> None:
        """End the wait with the answers that are there."""
        if self.is_open:
            self._finish()

    def _finish(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        if not self._done.done():
            self._done.set_result(None)


@dataclass(frozen=True)
class _Item:
    ticket: Ticket
    place: int


@dataclass
class _Queue:
    """One lane: groups take turns, tickets of a group are served as they came."""

    groups: OrderedDict[Hashable, deque[Ticket]] = field(default_factory=OrderedDict)
    items: int = 0
    waits_since: float = 0.0

    def add(self, ticket: Ticket, now: float) -> None:
        if not self.items:
            self.waits_since = now
        self.groups.setdefault(ticket.group, deque()).append(ticket)
        self.items += len(ticket.items)

    def take(self, limit: int) -> list[_Item]:
        """Up to ``limit`` items of the group whose turn it is."""
        group, tickets = next(iter(self.groups.items()))
        taken: list[_Item] = []
        while tickets and len(taken) < limit:
            ticket = tickets[0]
            start, left = ticket.dispatched, len(ticket.items) - ticket.dispatched
            count = min(left, limit - len(taken))
            taken += [_Item(ticket, start + i) for i in range(count)]
            ticket.dispatched += count
            if count == left:
                tickets.popleft()
        self.items -= len(taken)
        del self.groups[group]
        if tickets:
            self.groups[group] = tickets
        return taken

    def remove(self, ticket: Ticket) -> None:
        """Forget what is left of a ticket that nobody waits for."""
        left = len(ticket.items) - ticket.dispatched
        if not left:
            return
        ticket.dispatched = len(ticket.items)
        tickets = self.groups[ticket.group]
        tickets.remove(ticket)
        if not tickets:
            del self.groups[ticket.group]
        self.items -= left


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
        self._queues = {lane: _Queue() for lane in Lane}
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
        queue = self._queues[lane]
        if self._closing:
            raise ShuttingDown("the server is shutting down: try again in a moment")
        if queue.items and queue.items + len(items) > self._queue_size:
            raise QueueFull(
                f"{queue.items} tasks wait already and {len(items)} more would exceed "
                f"LSML_QUEUE_SIZE={self._queue_size}: try again later"
            )
        ticket = Ticket(group, items, lane, alone=alone)
        if not items:
            return ticket
        queue.add(ticket, ticket.came_at)
        self._observer.waiting(lane, queue.items)
        if deadline_s is not None:
            loop = asyncio.get_running_loop()
            ticket.deadline = loop.call_later(deadline_s, self.withdraw, ticket)
        self._start()
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """End a ticket now: its queued items are dropped, a running call goes on."""
        self._queues[ticket.lane].remove(ticket)
        ticket.stop_waiting()

    async def close(self) -> None:
        """Take nothing new and return when all that was taken is answered."""
        self._closing = True
        while self._working:
            await asyncio.wait(self._working)

    def _start(self) -> None:
        while self._free_slots and any(q.items for q in self._queues.values()):
            self._free_slots -= 1
            worker = asyncio.get_running_loop().create_task(self._work())
            self._working.add(worker)
            worker.add_done_callback(self._working.discard)
            if self._free_slots:
                # The new worker takes its batch when it first runs; another one is
                # needed only if something is left then.
                break

    async def _work(self) -> None:
        try:
            while (chosen := self._choose()) is not None:
                lane, items = chosen
                if self._free_slots:
                    self._start()
                await self._serve(lane, items)
        finally:
            self._free_slots += 1

    def _choose(self, above: Lane | None = None) -> tuple[Lane, list[_Item]] | None:
        """The next batch: the first lane's, or that of a lane that waited too long."""
        now = asyncio.get_running_loop().time()
        waiting = [lane for lane in _lanes(above) if self._queues[lane].items]
        if not waiting:
            return None
        longest = min(waiting, key=lambda lane: self._queues[lane].waits_since)
        overdue = now - self._queues[longest].waits_since > _PATIENCE_S
        lane = longest if overdue else waiting[0]
        queue = self._queues[lane]
        items = queue.take(self._limit)
        queue.waits_since = now
        self._observer.waiting(lane, queue.items)
        for item in items:
            if item.place == 0:
                self._observer.waited(lane, now - item.ticket.came_at)
        return lane, items

    async def _serve(self, lane: Lane, items: list[_Item]) -> None:
        error = await self._attempt(lane, items)
        failed = error is not None and await self._halve(lane, items, error)
        for ticket in {item.ticket for item in items}:
            ticket.failed_chunks = ticket.failed_chunks + 1 if failed else 0
            if error and ticket.failed_chunks >= _FAILED_CHUNKS and ticket.is_open:
                self._queues[ticket.lane].remove(ticket)
                ticket.give_up(error)

    async def _halve(self, lane: Lane, items: list[_Item], error: Exception) -> bool:
        """Find out which of the items that failed together are to blame.

        Returns:
            Whether all of them failed, for what seems to be one reason.
        """
        if len(items) == 1:
            _fail(items, error)
            return not isinstance(error, _ONE_TASK_ERRORS)
        middle = len(items) // 2
        halves = items[:middle], items[middle:]
        errors: list[Exception | None] = []
        for half in halves:
            await self._let_pass(lane)
            errors.append(await self._attempt(lane, half))
        first, second = errors
        if first and second and _same_fault(first, second):
            _fail(items, first)
            return True
        for half, found in zip(halves, errors, strict=True):
            if found is not None:
                await self._halve(lane, half, found)
        return False

    async def _attempt(self, lane: Lane, items: list[_Item]) -> Exception | None:
        """One call; its answers are given out, or its error is returned."""
        items = [item for item in items if item.ticket.is_open]
        if not items:
            return None
        tasks = [item.ticket.items[item.place] for item in items]
        self._observer.batch(len(items))
        try:
            answers = await self._call(items[0].ticket.call_group, tasks)
            if len(answers) != len(items):
                raise WrongCount(len(items), len(answers))
        except (OutOfMemory, WrongCount) as error:
            if len(items) == 1:
                return error
            self._lower_limit(error, len(items))
            await self._serve_in_parts(lane, items)
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

    async def _serve_in_parts(self, lane: Lane, items: list[_Item]) -> None:
        while items:
            part, items = items[: self._limit], items[self._limit :]
            await self._serve(lane, part)
            await self._let_pass(lane)

    async def _let_pass(self, lane: Lane) -> None:
        """Serve the lanes above before the slot goes on with more calls of this one."""
        while (chosen := self._choose(above=lane)) is not None:
            await self._serve(*chosen)


def _lanes(above: Lane | None) -> Iterator[Lane]:
    for lane in Lane:
        if lane is above:
            return
        yield lane


def _fail(items: list[_Item], error: Exception) -> None:
    for item in items:
        item.ticket.answer(item.place, error)


def _same_fault(first: Exception, second: Exception) -> bool:
    return type(first) is type(second) and not isinstance(first, _ONE_TASK_ERRORS)
