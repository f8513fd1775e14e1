"""Predicts what the next change will read from what the last one left.

Consecutive events are mostly about new annotations and join the same waiting job. So
what an event reads is nearly always what the previous event wrote, or absent.
"""

from __future__ import annotations

from lsml_bento.state.store import Change, Values

_KEPT = 10_000
"""Longest value kept, in characters: the largest annotations are not read again."""

CAREFUL = 10
"""Changes that read after a wrong guess: where processes alternate, every guess would
be wrong."""


class Guesses:
    """Guesses for the consecutive changes of one thread.

    A guess may be wrong: the caller must compare it in the step that writes.
    """

    def __init__(self) -> None:
        self._left: Values | None = None
        self._is_out = False
        self._careful = 0

    def take(self) -> Values | None:
        """The values that the next change will read; every other key is absent.

        None where the change must read: at first, and for a while after a wrong guess.
        """
        if self._is_out:
            self._is_out, self._careful = False, CAREFUL
        if self._careful:
            self._careful -= 1
            return None
        guess, self._left = self._left, None
        self._is_out = guess is not None
        return guess

    def keep(self, change: Change) -> None:
        """Remember what a successful change left."""
        self._is_out = False
        self._left = {
            key: value
            for key, value in {**change.seen, **change.writes}.items()
            if value is None or len(value) <= _KEPT
        }
