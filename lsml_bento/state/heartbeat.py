"""Which processes of a backend live, so that two different ones do not share a name."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from lsml_bento.errors import NameTaken, StateError
from lsml_bento.state.store import Change, State, below, key_of

log = logging.getLogger(__name__)

BEAT_S = 5.0
"""How often a process says that it lives."""

GONE_S = 15.0
"""A process that was silent for so long is gone."""


class Heartbeat:
    """One process's entry among those of its backend.

    Args:
        state: shared by all of them.
        model_class: the name of the user's class.
        now: the time, in seconds since the epoch.
    """

    def __init__(
        self,
        state: State,
        model_class: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._model_class = model_class
        self._now = now
        self._key = key_of("process", uuid.uuid4().hex)
        self._leaving = threading.Event()

    def announce(self) -> None:
        """Come in, and say every ``BEAT_S`` from now on that this process lives.

        A state that does not answer keeps nobody out.

        Raises:
            NameTaken: if a process of another class is there.
        """
        try:
            self._state.change(self._come)
        except NameTaken:
            raise
        except StateError as error:
            log.warning("this process is not announced yet: %s", error)
        threading.Thread(target=self._stay, name="presence", daemon=True).start()

    def beat(self) -> None:
        """Say that this process lives; nothing happens if nobody can hear it."""
        with suppress(StateError):
            self._state.change(self._say)

    def leave(self) -> None:
        """Go."""
        self._leaving.set()
        with suppress(StateError):
            self._state.change(lambda change: change.delete(self._key))

    def _stay(self) -> None:
        while not self._leaving.wait(BEAT_S):
            self.beat()

    def _come(self, change: Change) -> None:
        for key, value in change.scan(below("process")):
            other = json.loads(value)
            if other["seen"] < self._now() - GONE_S:
                change.delete(key)
            elif other["class"] != self._model_class:
                raise NameTaken(
                    f"process {other['pid']} on {other['host']} serves the class "
                    f"{other['class']} under this backend's name, and this one is "
                    f"{self._model_class}: give one of them another name with "
                    "create_service(.., name=..); if it was renamed, stop the old one "
                    f"and wait {GONE_S:g} s"
                )
        self._say(change)

    def _say(self, change: Change) -> None:
        entry = {
            "class": self._model_class,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "seen": self._now(),
        }
        change.put(self._key, json.dumps(entry))
