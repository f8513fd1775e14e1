"""One serving process: its use cases, its start and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lsml_bento.backend.predict import Predict
from lsml_bento.backend.setup import Setup
from lsml_bento.backend.status import Status
from lsml_bento.backend.training import KnownRules, Training
from lsml_bento.errors import ModelError, StateError
from lsml_bento.jobs.event_writer import EventWriter
from lsml_bento.model.loader import ModelSource
from lsml_bento.prediction.batcher import Batcher
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.version_follower import VersionFollower
from lsml_bento.state.heartbeat import Heartbeat
from lsml_bento.state.store import State

log = logging.getLogger(__name__)

_FOLLOW_EVERY_S = 0.25
"""Seconds between looks at the active versions; a new one serves within a second."""


@dataclass(eq=False)
class Backend:
    """The use cases of one serving process, for the routes to call.

    ``processes.backend`` builds it.

    Attributes:
        predict: answers ``/predict``.
        setup: answers ``/setup``.
        status: answers health, status and metrics.
        training: answers for events, jobs and versions.
        rules: when the user's class learns.
        heartbeat: of this process.
        setup_threads: import the class and make model objects.
        other_threads: are closed with the backend.
        deadline_s: seconds after which a request ends.
        is_ready: whether the user's class was imported.
        is_starting: whether it is being imported for the first time.
    """

    predict: Predict
    setup: Setup
    status: Status
    training: Training
    rules: KnownRules
    heartbeat: Heartbeat
    source: ModelSource
    state: State
    batcher: Batcher
    events: EventWriter
    follower: VersionFollower
    setup_threads: CallThreads
    other_threads: Sequence[CallThreads]
    deadline_s: float
    is_ready: bool = False
    is_starting: bool = False
    _following: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._follower_thread = CallThreads(1, "versions")

    async def start(self) -> None:
        """Import the user's class; call it again if that failed.

        From the first call on, new versions serve as soon as they are promoted.
        """
        is_first = self._following is None
        self.is_starting = is_first
        if is_first:
            self._following = asyncio.create_task(self._follow())
        try:
            await self.setup_threads.run(self.source.load)
            self.is_ready, self.is_starting = True, False
            await self.setup_threads.run(self.rules.store)
        except StateError as error:
            log.warning("Training rules not stored: %s", error)
        except ModelError as error:
            log.log(
                logging.ERROR if is_first else logging.DEBUG,
                "Import failed: %s; the server stays up and tries again",
                error,
                exc_info=error.__cause__,
            )
        finally:
            self.is_starting = False

    async def close(self) -> bool:
        """Answer all accepted requests, then stop threads and close the state.

        Returns:
            Whether every call of ``predict`` ended; a request ends at its deadline.
        """
        if self._following is not None:
            self._following.cancel()
        ended = await self.batcher.close(self.deadline_s)
        await asyncio.to_thread(self.events.close)
        self._follower_thread.close()
        for threads in (self.setup_threads, *self.other_threads):
            threads.close()
        self.heartbeat.leave()
        self.state.close()
        return ended

    async def _follow(self) -> None:
        while True:
            await self._follower_thread.run(self.follower.follow)
            await asyncio.sleep(_FOLLOW_EVERY_S)
