"""Send predictions to a project until each is stored or refused.

A POST whose result is unknown is never just sent again: what is stored is read back
first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lsml_bento.preannotation.bisection import Bisection
from lsml_bento.preannotation.selection import (
    Predicted,
    ProjectPredictions,
    Refused,
    ResultUnknown,
    Unreachable,
)

MOST = 500
"""The most predictions in a POST, unless they are of one task: Label Studio stores so
many in one transaction."""

_MOST_WITHOUT_PROGRESS = 3
"""POSTs that store nothing before fewer predictions are sent."""

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)

Group = list[Predicted]
"""The predictions of one task."""


class NotStored(NamedTuple):
    """A task whose predictions are not stored, and why."""

    task_id: int
    error: Exception


class Sender:
    """Sends predictions, and retries with back-off while Label Studio stores none.

    Predictions with an unknown result are sent again for ``timeout_s``.
    """

    def __init__(self, project: ProjectPredictions, timeout_s: float) -> None:
        self._project = project
        self._timeout_s = timeout_s
        self._deadline = 0.0
        self._pauses = 0
        self._stopping = threading.Event()

    def send(self, version: str, groups: Sequence[Group]) -> list[NotStored]:
        """Store the predictions of a model version; return those that are not stored.

        Bisection finds those that Label Studio refuses or fails to store. A task that
        it fails to store is given up if it stores others. If it stores none, the sender
        waits for it.

        Raises:
            PreannotationError: if it is unknown whether all are stored.
        """
        self._deadline = time.monotonic() + self._timeout_s
        self._pauses = 0
        parts = Bisection(_parts(groups))
        not_stored: list[NotStored] = []
        failing: list[Group] = []
        stores_some = False
        for part in parts:
            left, error = self._try(version, part)
            stores_some = stores_some or len(left) < len(part)
            if len(left) > 1:
                parts.halve(left)
            elif (
                isinstance(error, ResultUnknown)
                and not stores_some
                and (len(groups) > 1 or self._pauses < len(_PAUSES_S))
            ):
                failing += left
            elif error is not None:
                not_stored.append(NotStored(left[0][0].task_id, error))
            if failing and not parts:
                parts.add([[group] for group in failing] if stores_some else [failing])
                failing = []
        return not_stored

    def stop(self) -> None:
        """Stop waiting."""
        self._stopping.set()

    def _try(
        self, version: str, groups: list[Group]
    ) -> tuple[list[Group], ResultUnknown | Refused | None]:
        """Return what is not stored after a few POSTs, and why."""
        without_progress = 0
        while True:
            try:
                self._project.write([one for group in groups for one in group])
            except Refused as error:
                return groups, error
            except ResultUnknown as error:
                reason = error
                self._pause(error)
            else:
                self._pauses = 0
                return [], None
            ids = [group[0].task_id for group in groups]
            stored = self._project.predicted(version, ids)
            groups = [group for group in groups if group[0].task_id not in stored]
            without_progress = 0 if stored else without_progress + 1
            if not groups:
                return [], None
            if without_progress == _MOST_WITHOUT_PROGRESS:
                return groups, reason

    def _pause(self, error: ResultUnknown) -> None:
        pause = _PAUSES_S[min(self._pauses, len(_PAUSES_S) - 1)]
        self._pauses += 1
        if self._stopping.is_set() or time.monotonic() + pause > self._deadline:
            raise Unreachable(
                f"{error}; run the same command again to find out and continue"
            ) from error
        self._stopping.wait(pause)


def _parts(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Split tasks into parts whose predictions fit one POST."""
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
