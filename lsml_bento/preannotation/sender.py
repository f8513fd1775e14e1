"""Predictions sent to a project until each is there, or given up.

A POST of which nobody knows whether it was carried out is never just sent again: what
is there is read back first.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lsml_bento.preannotation.selection import (
    FateUnknown,
    Predicted,
    ProjectPredictions,
    Refused,
    Unreachable,
)

MOST = 500
"""Predictions in a POST, but for those of one task: more are no one transaction."""

_FRUITLESS = 3
"""POSTs of which nothing was stored, after which fewer predictions are sent."""

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)

Group = list[Predicted]
"""The predictions of one task."""


class GivenUp(NamedTuple):
    """A task whose predictions are not stored, and why."""

    task_id: int
    error: Exception


class Sender:
    """Sends predictions, and waits where Label Studio stores none.

    Args:
        project: of Label Studio.
        patience_s: how long predictions of unknown fate are sent again.
    """

    def __init__(self, project: ProjectPredictions, patience_s: float) -> None:
        self._project = project
        self._patience_s = patience_s
        self._deadline = 0.0
        self._tries = 0
        self._stopping = threading.Event()

    def send(self, version: str, groups: Sequence[Group]) -> list[GivenUp]:
        """Have the predictions of a model version stored.

        Those that Label Studio refuses, or fails at, are found by halving. One that it
        fails at is given up if it stores others; if it stores none, it is waited for.

        Returns:
            What is not stored.

        Raises:
            PreannotationError: if it can not be known whether all are.
        """
        self._deadline = time.monotonic() + self._patience_s
        self._tries = 0
        parts = deque(_parts(groups))
        given_up: list[GivenUp] = []
        failing: list[Group] = []
        stores = False
        while parts:
            part = parts.popleft()
            left, error = self._try(version, part)
            stores = stores or len(left) < len(part)
            if len(left) > 1:
                middle = len(left) // 2
                parts += left[:middle], left[middle:]
            elif isinstance(error, FateUnknown) and not stores and self._waits(groups):
                failing += left
            elif error is not None:
                given_up.append(GivenUp(left[0][0].task_id, error))
            if failing and not parts:
                parts += [[group] for group in failing] if stores else [failing]
                failing = []
        return given_up

    def stop(self) -> None:
        """Wait no more."""
        self._stopping.set()

    def _waits(self, groups: Sequence[Group]) -> bool:
        """Whether Label Studio may be to blame; for a single task, for two minutes."""
        return len(groups) > 1 or self._tries < len(_PAUSES_S)

    def _try(
        self, version: str, groups: list[Group]
    ) -> tuple[list[Group], FateUnknown | Refused | None]:
        """What is not there after a few POSTs, and why."""
        fruitless = 0
        while True:
            try:
                self._project.write([one for group in groups for one in group])
            except Refused as error:
                return groups, error
            except FateUnknown as error:
                reason = error
                self._pause(error)
            else:
                self._tries = 0
                return [], None
            ids = [group[0].task_id for group in groups]
            had = self._project.predicted(version, ids)
            groups = [group for group in groups if group[0].task_id not in had]
            fruitless = 0 if had else fruitless + 1
            if not groups:
                return [], None
            if fruitless == _FRUITLESS:
                return groups, reason

    def _pause(self, error: FateUnknown) -> None:
        pause = _PAUSES_S[min(self._tries, len(_PAUSES_S) - 1)]
        self._tries += 1
        if self._stopping.is_set() or time.monotonic() + pause > self._deadline:
            raise Unreachable(
                f"{error}; the same command again finds out and goes on"
            ) from error
        self._stopping.wait(pause)


def _parts(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Tasks whose predictions make one POST."""
    part: list[Group] = []
    size = 0
    for group in groups:
        if part and size + len(group) > MOST:
            yield part
            part, size = [], 0
        part.append(group)
        size += len(group)
    if part:
        yield part
