"""Who waits, and in which order: lanes, groups that take turns, tickets.

Nothing here knows what an item or an answer is, or when a batch runs.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any, Protocol

_PENDING = object()


class Lane(str, Enum):
    """Who waits, in the order in which they are served."""

    INTERACTIVE = "interactive"
    """An annotator has just drawn something and looks at the screen."""
    SINGLE = "single"
    """A task is being opened."""
    BULK = "bulk"
    """Many tasks were selected at once."""


class Observer(Protocol):
    """Is told what the batcher does; ``adapters.bentoml_service`` has Prometheus's."""

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
        self.group: Hashable = object() if alone else group
        self.call_group = group
        self.items = items
        self.lane = lane
        self.came_at = loop.time()
        self.queued = 0
        self.has_begun = False
        self.failed_chunks = 0
        self.deadline: asyncio.TimerHandle | None = None
        self._answers: list[Any] = [_PENDING] * len(items)
        self._open = len(items)
        self._done: asyncio.Future[None] = loop.create_future()
        if not items:
            self.stop_waiting()

    @property
    def is_open(self) -> bool:
        """Whether somebody still waits for an answer."""
        return not self._done.done()

    @property
    def answers(self) -> list[Any]:
        """One entry per item; None for items that were not reached."""
        return [None if a is _PENDING else a for a in self._answers]

    async def done(self) -> list[Any]:
        """Wait until every item is answered, or the deadline; returns ``answers``.

        Cancelling the wait closes the ticket: ``withdraw`` it then.
        """
        await self._done
        return self.answers

    def answer(self, place: int, answer: Any) -> None:
        """Give one item its answer; the last one ends the wait."""
        if self._answers[place] is not _PENDING or not self.is_open:
            return
        self._answers[place] = answer
        self._open -= 1
        if not self._open:
            self.stop_waiting()

    def stop_waiting(self) -> None:
        """End the wait with the answers that are there."""
        if self.deadline is not None:
            self.deadline.cancel()
        if self.is_open:
            self._done.set_result(None)


@dataclass
class Item:
    """One entry of a ticket."""

    ticket: Ticket
    place: int


Failed = tuple[list[Item], Exception]
"""Items, and why their call failed."""


@dataclass
class Batch:
    """Items for one call: a chunk as it was taken, or a part of a batch that failed.

    Attributes:
        whole: the batch that this is a part of.
        parts: how many parts of it are tried.
        ended: what became of them: their items, and the error if there was one.
        suspects: both halves, while tasks of them are tried alone.
        has_answers: of a chunk: whether any call for a part of it was answered.
    """

    lane: Lane
    items: list[Item]
    whole: Batch | None = None
    parts: int = 0
    ended: list[tuple[list[Item], Exception | None]] = field(default_factory=list)
    suspects: list[Failed] = field(default_factory=list)
    has_answers: bool = False

    @property
    def chunk(self) -> Batch:
        """The batch as it was taken."""
        return self if self.whole is None else self.whole.chunk

    @property
    def failed(self) -> list[Failed]:
        """The parts that failed."""
        return [(items, error) for items, error in self.ended if error is not None]


@dataclass
class _Line:
    """What waits of one group; parts of failed batches go first."""

    parts: deque[Batch] = field(default_factory=deque)
    items: deque[Item] = field(default_factory=deque)


class Queue:
    """One lane: groups take turns, items of a group are served as they came."""

    def __init__(self, lane: Lane, observer: Observer) -> None:
        self.lines: OrderedDict[Hashable, _Line] = OrderedDict()
        self.items = 0
        self.passed_since = inf
        self._lane = lane
        self._observer = observer

    def add(self, ticket: Ticket) -> None:
        """Let a ticket's items wait behind those of its group."""
        items = [Item(ticket, place) for place in range(len(ticket.items))]
        self._line(ticket.group).items.extend(items)
        self._count(items, +1)

    def put_back(self, items: list[Item]) -> None:
        """Let items that a call was too large for be taken again, before others."""
        self._line(items[0].ticket.group).items.extendleft(reversed(items))
        self._count(items, +1)

    def add_halves(self, whole: Batch) -> None:
        """Let both halves of a batch that failed be tried, before other items."""
        middle = len(whole.items) // 2
        self.add_parts(whole, [whole.items[:middle], whole.items[middle:]])

    def add_parts(self, whole: Batch, parts: list[list[Item]]) -> None:
        """Let parts of a batch that failed be tried, before other items."""
        whole.parts, whole.ended = len(parts), []
        line = self._line(whole.items[0].ticket.group)
        line.parts.extend(Batch(self._lane, items, whole) for items in parts)

    def take(self, limit: int) -> Batch:
        """A part, or up to ``limit`` items, of the group whose turn it is."""
        group, line = self.lines.popitem(last=False)
        if line.parts:
            batch = line.parts.popleft()
        else:
            count = min(limit, len(line.items))
            batch = Batch(self._lane, [line.items.popleft() for _ in range(count)])
            self._count(batch.items, -1)
        if line.parts or line.items:
            self.lines[group] = line
        return batch

    def remove(self, ticket: Ticket) -> list[Item]:
        """Take out what is left of a ticket."""
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

    def _count(self, items: list[Item], sign: int) -> None:
        for item in items:
            item.ticket.queued += sign
        self.items += sign * len(items)
        self._observer.waiting(self._lane, self.items)
