"""Heartbeats of a backend's processes: two different classes cannot share a name."""

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
"""Seconds between heartbeats."""

GONE_S = 15.0
"""Seconds without a heartbeat after which a process counts as dead."""


class Heartbeat:
    """The heartbeat of one process, which names its class."""

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
        self._stopping = threading.Event()

    def announce(self) -> None:
        """Register this process, then send a heartbeat every ``BEAT_S``.

        If the state is unavailable, the process starts anyway.

        Raises:
            NameTaken: if a process of another class is running under this name.
        """
        try:
            self._state.change(self._register)
        except NameTaken:
            raise
        except StateError as error:
            log.warning("Heartbeat not stored yet: %s", error)
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def beat(self) -> None:
        """Store one heartbeat; do nothing if the state is unavailable."""
        with suppress(StateError):
            self._state.change(self._store)

    def leave(self) -> None:
        """Stop, and remove this process's entry."""
        self._stopping.set()
        with suppress(StateError):
            self._state.change(lambda change: change.delete(self._key))

    def _run(self) -> None:
        while not self._stopping.wait(BEAT_S):
            self.beat()

    def _register(self, change: Change) -> None:
        for key, value in change.scan(below("process")):
            other = json.loads(value)
            if other["seen"] < self._now() - GONE_S:
                change.delete(key)
            elif other["class"] != self._model_class:
                raise NameTaken(
                    f"process {other['pid']} on {other['host']} serves the class "
                    f"{other['class']} under this backend's name, and this one serves "
                    f"{self._model_class}: give one of them another name with "
                    "create_service(..., name=...). If you renamed the class, stop the "
                    f"old process and wait {GONE_S:g} s"
                )
        self._store(change)

    def _store(self, change: Change) -> None:
        entry = {
            "class": self._model_class,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "seen": self._now(),
        }
        change.put(self._key, json.dumps(entry))
