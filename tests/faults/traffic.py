"""Requests that go on while processes are killed, and what became of each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import NamedTuple

import httpx

from tests.faults.site import CONFIG, PROJECT, Site

_PREDICT_EVERY_S = 0.05
_EVENT_EVERY_S = 0.3
_TIMEOUT_S = 25.0
BIG_MIB = 30


class Served(NamedTuple):
    """What a prediction says about the weights that it was made with."""

    version: str
    crc: int
    is_whole: bool


class Miss(NamedTuple):
    """A request that was not answered as it should be."""

    what: str
    said: str


class Traffic:
    """Predictions and events, one after the other each, from ``with`` to its end.

    Args:
        site: who gets them.
        dice: decides what ``fit`` is to do.
        is_big: whether all weights are big.

    Attributes:
        served: how often each version answered.
        events: how many were answered.
        misses: requests without an answer, or with an error.
        predicted_at: when the last prediction came, in seconds since the epoch.
        promised_at: when the last event got a job.
        slowest_event_s: the longest that an answered event took.
    """

    def __init__(self, site: Site, dice: Random, *, is_big: bool) -> None:
        self.served: Counter[Served] = Counter()
        self.events = 0
        self.misses: list[Miss] = []
        self.predicted_at = 0.0
        self.promised_at = 0.0
        self.slowest_event_s = 0.0
        self._site = site
        self._dice = dice
        self._is_big = is_big
        self._ended = threading.Event()
        self._no_more_events = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=arguments)
            for arguments in (
                ("/predict", self._predict, _PREDICT_EVERY_S, self._ended),
                ("/webhook", self._event, _EVENT_EVERY_S, self._no_more_events),
            )
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_events()
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * _TIMEOUT_S)

    def end_events(self) -> None:
        """Send no more events."""
        self._no_more_events.set()

    def _repeat(
        self,
        what: str,
        send: Callable[[httpx.Client], httpx.Response],
        pause_s: float,
        ended: threading.Event,
    ) -> None:
        # A connection a request, as Label Studio makes them.
        limits = httpx.Limits(max_keepalive_connections=0)
        url = self._site.server.url
        with httpx.Client(base_url=url, limits=limits, timeout=_TIMEOUT_S) as http:
            while not ended.is_set():
                try:
                    answer = send(http)
                except httpx.HTTPError as error:
                    self.misses.append(Miss(what, type(error).__name__))
                else:
                    if not answer.is_success:
                        said = f"{answer.status_code} {answer.text[:300]}"
                        self.misses.append(Miss(what, said))
                ended.wait(pause_s)

    def _predict(self, http: httpx.Client) -> httpx.Response:
        body = {
            "project": str(PROJECT),
            "label_config": CONFIG,
            "tasks": [{"id": 1, "data": {"text": "which weights?"}}],
        }
        answer = http.post("/predict", json=body)
        if answer.is_success:
            [slot] = answer.json()["results"]
            crc, state = slot["result"][0]["value"]["text"]
            self.served[Served(slot["model_version"], int(crc), state == "whole")] += 1
            self.predicted_at = time.time()
        return answer

    def _event(self, http: httpx.Client) -> httpx.Response:
        big = self._is_big or self._dice.random() < 0.2
        mib = BIG_MIB if big else self._dice.randint(1, 4)
        start = time.time()
        plan = {"steps": self._dice.randint(2, 10), "mib": mib}
        answer = self._site.event(http, plan)
        now = time.time()
        if answer.is_success:
            self.events += 1
            self.slowest_event_s = max(self.slowest_event_s, now - start)
        if answer.status_code == 201:
            self.promised_at = now
        return answer
