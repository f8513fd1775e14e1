"""What the next change will read, guessed from what the last one left.

Events come one after the other, each of a new annotation, into the job that waits. So
what an event reads is nearly always what the one before it left, or not there.
"""

from __future__ import annotations

from lsml_bento.state.memory import BufferedChange, Values

_KEPT = 10_000
"""Characters of a value at most: the journal's largest are not read again."""

CAREFUL = 10
"""Changes that read before the next guess, once one was wrong: where processes take
turns, each would be."""


class Guesses:
    """Guesses for the changes of one thread after the other.

    A guess may be wrong: whoever uses it compares it in the step that writes.
    """

    def __init__(self) -> None:
        self._left: Values | None = None
        self._is_out = False
        self._careful = 0

    def take(self) -> Values | None:
        """The values that the next change reads, every other key being absent.

        None where it has to read: at first, and for a while after a guess that came to
        nothing.
        """
        if self._is_out:
            self._is_out, self._careful = False, CAREFUL
        if self._careful:
            self._careful -= 1
            return None
        guess, self._left = self._left, None
        self._is_out = guess is not None
        return guess

    def keep(self, change: BufferedChange) -> None:
        """Remember what a change left that was done."""
        self._is_out = False
        self._left = {
            key: value
            for key, value in {**change.seen, **change.writes}.items()
            if value is None or len(value) <= _KEPT
        }
