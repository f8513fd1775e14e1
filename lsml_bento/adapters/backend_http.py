"""A backend that runs somewhere, asked over HTTP as Label Studio asks it.

Source: Label Studio 1.23.2 ``ml/api_connector.py``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from math import isfinite
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from lsml_bento.contract import Project, Task
from lsml_bento.errors import ModelError, PredictionError, WrongCount
from lsml_bento.preannotation.selection import (
    PreannotationError,
    Unreachable,
    VersionChanged,
)

log = logging.getLogger(__name__)

_TIMEOUT_S = 120.0
"""For an answer; a server of ours answers after 90."""

_ALONE = 8
"""Requests at a time for tasks that came back empty."""

_QUICK = 10
"""Answers in a row that come in time, after which it may get more tasks again."""

_AWAY = {429, 502, 503}
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

Slot = bytes


class BackendEngine:
    """Predicts by ``POST /predict``.

    A backend answers a task that failed as one without a prediction, unless it was sent
    alone: those that come back empty are sent again, each alone. Where it does not
    answer in time it is asked for fewer tasks at a time.

    Args:
        url: of the backend, perhaps with user and password.
        auth: user and password where the URL has none.
        patience_s: how long a backend that is away, or busy, is waited for.
        timeout_s: how long one request may take.

    Attributes:
        calls: requests at a time, so that the backend always has one that waits.

    Raises:
        PreannotationError: if the URL is none.
    """

    calls = 2

    def __init__(
        self,
        url: str,
        auth: tuple[str, str] | None = None,
        *,
        patience_s: float = 600.0,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self.url, own = _split(url)
        self._auth = own or auth
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._http: httpx.AsyncClient | None = None
        self._about: dict[str, Any] = {}
        self._version = ""
        self._others: set[str] = set()
        self._most, self._quick = sys.maxsize, 0
        self._alone = asyncio.Semaphore(_ALONE)
        self._answered_at = 0.0
        self._fault: PreannotationError | None = None

    async def prepare(self, project: Project, label_config: str) -> str:
        """Ask ``/setup`` for the model version, and remember what is asked for.

        Raises:
            PreannotationError: if there is no backend, or it refuses.
        """
        self._fault = None
        about = {"project": str(project), "label_config": label_config, "params": {}}
        self._version = await self._serving(about)
        self._about = about
        return self._version

    async def predict(self, tasks: list[Task]) -> Sequence[Slot | Exception]:
        """The slots of a few requests, those asked for again among them.

        Raises:
            ModelError: if all tasks failed.
            Unreachable: if the backend was waited for in vain.
            VersionChanged: if another version predicts than ``prepare`` said.
            PreannotationError: if it refuses.
        """
        slots: list[Slot | Exception] = []
        while len(slots) < len(tasks):
            part = tasks[len(slots) :][: self._most]
            try:
                slots += await self._predict(part)
            except httpx.ReadTimeout:
                if len(part) == 1:
                    slots.append(self._too_late())
                else:
                    self._ask_for_fewer(len(part))
                continue
            self._quick += 1
            if self._quick % _QUICK == 0:
                self._most = min(2 * self._most, sys.maxsize)
        return slots

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _predict(self, tasks: list[Task]) -> list[Slot | Exception]:
        """The slots of one request, and of those for what came back empty."""
        entries = await self._entries(tasks)
        if not entries or len(tasks) == 1:
            return [_slot(entry) for entry in entries or [None] * len(tasks)]
        again = [task for task, entry in zip(tasks, entries, strict=True) if not entry]
        found = iter(await asyncio.gather(*map(self._predict_alone, again)))
        return [_slot(entry) if entry else next(found) for entry in entries]

    async def _predict_alone(self, task: Task) -> Slot | Exception:
        async with self._alone:
            try:
                return _slot(next(iter(await self._entries([task])), None))
            except httpx.ReadTimeout:
                return self._too_late()
            except ModelError as error:
                return error

    async def _entries(self, tasks: list[Task]) -> list[Any]:
        answer = await self._post("/predict", {"tasks": tasks, **self._about})
        entries = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise ModelError("the backend's answer to /predict has no list of results")
        if entries and len(entries) != len(tasks):
            raise WrongCount(len(tasks), len(entries))
        await self._check_versions(entries)
        return entries

    async def _serving(self, about: dict[str, Any]) -> str:
        """The model version that serves now."""
        setup = {"project": about["project"], "schema": about["label_config"]}
        answer = await self._post("/setup", setup)
        version = answer.get("model_version") if isinstance(answer, dict) else None
        if not isinstance(version, str) or not version:
            raise PreannotationError(
                f"the backend {self.url} names no model_version in its answer to "
                "/setup: is it a Label Studio ML backend?"
            )
        return version

    async def _check_versions(self, entries: list[Any]) -> None:
        """See that the run's version still predicts; some backends name two at once."""
        named = [one.get("model_version") for one in entries if isinstance(one, dict)]
        others = {str(one) for one in named if one} - {self._version, *self._others}
        if not others:
            return
        version = await self._serving(self._about)
        if version != self._version:
            self._fault = VersionChanged(
                f"the backend {self.url} went from {self._version} to {version} during "
                "the run: run the same command again"
            )
            raise self._fault
        if not self._others:
            said = "the backend's predictions name %s, its /setup %s: which they get"
            log.warning(said, min(others), version)
        self._others |= others

    def _ask_for_fewer(self, tasks: int) -> None:
        self._quick = 0
        if tasks // 2 < self._most:
            self._most = tasks // 2
            said = "the backend did not answer %d tasks in %g s: it gets %d at a time"
            log.warning(said, tasks, self._timeout_s, self._most)

    def _too_late(self) -> PredictionError:
        """What is said of a task; a backend that answers nothing at all is away."""
        found = f"did not answer in {self._timeout_s:g} s"
        since = asyncio.get_running_loop().time() - self._answered_at
        if since > self._patience_s:
            self._fault = self._away(f"{found} to /predict")
            raise self._fault
        return PredictionError(f"the backend {found}, asked for this task alone")

    def _away(self, found: str) -> Unreachable:
        return Unreachable(
            f"the backend {self.url} {found}, though asked for {self._patience_s:g} s: "
            "see that it runs, and run the same command again"
        )

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """An answer, waited for with growing pauses while the backend is away.

        Raises:
            httpx.ReadTimeout: if it took the tasks and does not answer in time.
        """
        if self._fault is not None:
            raise self._fault
        if self._http is None:
            self._http = httpx.AsyncClient(auth=self._auth, timeout=self._timeout_s)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        number = 0
        while True:
            try:
                answer = await self._http.post(f"{self.url}{path}", json=body)
                found = f"answered {answer.status_code}"
            except httpx.HTTPError as error:
                if isinstance(error, httpx.ReadTimeout) and path == "/predict":
                    raise
                answer, found = None, f"does not answer ({type(error).__name__})"
            if answer is not None and answer.status_code not in _AWAY:
                self._answered_at = loop.time()
                return self._checked(answer, path)
            pause = _PAUSES_S[min(number, len(_PAUSES_S) - 1)]
            if loop.time() + pause > deadline:
                self._fault = self._away(f"{found} to {path}{_said(answer)}")
                raise self._fault
            if not number:
                log.warning("the backend %s %s: waiting for it", self.url, found)
            number += 1
            await asyncio.sleep(pause)

    def _checked(self, answer: httpx.Response, path: str) -> Any:
        status = answer.status_code
        if status in {401, 403}:
            self._fault = PreannotationError(
                f"the backend {self.url} answered {status}: set BASIC_AUTH_USER and "
                "BASIC_AUTH_PASS to what it asks for"
            )
            raise self._fault
        if path == "/setup" and not answer.is_success:
            raise PreannotationError(
                f"the backend {self.url} answered {status} to /setup{_said(answer)}"
            )
        if not answer.is_success:
            raise ModelError(f"the backend answered {status}{_said(answer)}")
        try:
            # As a server of ours sends it: NaN is no JSON, and nobody would take it.
            return answer.json(parse_constant=lambda _: None, parse_float=_finite)
        except ValueError as error:
            raise ModelError(f"the backend's answer to {path} is no JSON") from error


def _split(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without user and password, and these."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise PreannotationError(
            "--backend takes the address of a backend, like http://localhost:9090"
        )
    named = f"[{host}]" if ":" in host else host
    netloc = named if port is None else f"{named}:{port}"
    plain = urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
    if parts.username is None:
        return plain, None
    return plain, (unquote(parts.username), unquote(parts.password or ""))


def _slot(entry: Any) -> Slot:
    return json.dumps([] if entry is None else entry).encode()


def _finite(number: str) -> float | None:
    found = float(number)
    return found if isfinite(found) else None


def _said(answer: httpx.Response | None) -> str:
    """What a backend says of its error."""
    if answer is None:
        return ""
    try:
        reason = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {' '.join(str(reason).split())[:500]}"
