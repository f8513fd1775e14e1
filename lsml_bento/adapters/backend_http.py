"""A running backend, called over HTTP as Label Studio calls it.

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
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_before_delay,
    wait_exponential,
)

from lsml_bento.contract import Project, Task
from lsml_bento.errors import ModelError, PredictionError, WrongCount
from lsml_bento.preannotation.bisection import Bisection
from lsml_bento.preannotation.selection import (
    PreannotationError,
    Unreachable,
    VersionChanged,
)

log = logging.getLogger(__name__)

_TIMEOUT_S = 120.0
"""For one request; a server of lsml-bento answers within 90 s."""

_SINGLE_REQUESTS = 8
"""Concurrent requests for single tasks that were answered without a prediction."""

_GROW_AFTER = 10
"""Answers in time, in a row, after which a request may hold more tasks again."""

_UNAVAILABLE = {429, 502, 503}

Slot = bytes


class _Unavailable(Exception):
    """The backend does not answer, or is busy: the same request may succeed later."""


class BackendEngine:
    """Predicts with ``POST /predict``.

    A backend answers a failed task like a task without a prediction, unless it was sent
    alone. Tasks without a prediction are therefore sent again, each alone. If the
    backend does not answer in time, requests hold fewer tasks.

    Args:
        url: of the backend; may include user and password.
        auth: user and password if the URL has none.
        patience_s: how long a request is retried while the backend is unavailable.
        timeout_s: of one request.

    Attributes:
        calls: concurrent requests, so that the backend never waits for the next one.
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
        self._limit, self._in_time = sys.maxsize, 0
        self._single = asyncio.Semaphore(_SINGLE_REQUESTS)
        self._answered_at = 0.0
        self._fault: PreannotationError | None = None

    async def prepare(self, project: Project, label_config: str) -> str:
        """Call ``/setup`` and return the model version.

        Raises:
            PreannotationError: if there is no backend, or it refuses.
        """
        self._fault = None
        about = {"project": str(project), "label_config": label_config, "params": {}}
        self._version = await self._serving(about)
        self._about = about
        return self._version

    async def predict(self, tasks: list[Task]) -> Sequence[Slot | Exception]:
        """Return an answer or an error for each task, after one or more requests.

        Raises:
            ModelError: if all tasks failed.
            Unreachable: if the backend did not become available in time.
            VersionChanged: if another version predicts than ``prepare`` returned.
            PreannotationError: if the backend refuses.
        """
        answers: list[Slot | Exception] = []
        parts = Bisection([tasks], self._limit)
        for part in parts:
            try:
                answers += await self._predict(part)
            except httpx.ReadTimeout:
                if len(part) == 1:
                    answers.append(self._timed_out())
                else:
                    self._send_fewer(len(part))
                    parts.halve(part)
            else:
                self._in_time += 1
                if self._in_time % _GROW_AFTER == 0:
                    self._limit = min(2 * self._limit, sys.maxsize)
            parts.limit = self._limit
        return answers

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _predict(self, tasks: list[Task]) -> list[Slot | Exception]:
        """Send one request, and single ones for tasks without a prediction."""
        entries = await self._entries(tasks)
        if not entries or len(tasks) == 1:
            return [_slot(entry) for entry in entries or [None] * len(tasks)]
        again = [task for task, entry in zip(tasks, entries, strict=True) if not entry]
        found = iter(await asyncio.gather(*map(self._predict_alone, again)))
        return [_slot(entry) if entry else next(found) for entry in entries]

    async def _predict_alone(self, task: Task) -> Slot | Exception:
        async with self._single:
            try:
                return _slot(next(iter(await self._entries([task])), None))
            except httpx.ReadTimeout:
                return self._timed_out()
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
        """Return the version that the backend serves."""
        setup = {"project": about["project"], "schema": about["label_config"]}
        answer = await self._post("/setup", setup)
        version = answer.get("model_version") if isinstance(answer, dict) else None
        if not isinstance(version, str) or not version:
            raise PreannotationError(
                f"the backend {self.url} returned no model_version from "
                "/setup: check that it is a Label Studio ML backend"
            )
        return version

    async def _check_versions(self, entries: list[Any]) -> None:
        """Check that the version is still served; some backends name two at once."""
        named = [one.get("model_version") for one in entries if isinstance(one, dict)]
        others = {str(one) for one in named if one} - {self._version, *self._others}
        if not others:
            return
        version = await self._serving(self._about)
        if version != self._version:
            self._fault = VersionChanged(
                f"the backend {self.url} switched from {self._version!r} to "
                f"{version!r} during the run: run the same command again"
            )
            raise self._fault
        if not self._others:
            log.warning(
                "Predictions of the backend name version %r, but /setup names %r: "
                "written as %r",
                *(min(others), version, version),
            )
        self._others |= others

    def _send_fewer(self, tasks: int) -> None:
        self._in_time = 0
        if tasks // 2 < self._limit:
            self._limit = tasks // 2
            log.warning(
                "Backend did not answer %d tasks in %g s: sending %d at a time",
                *(tasks, self._timeout_s, self._limit),
            )

    def _timed_out(self) -> PredictionError:
        """Return the error of a task, or raise one if the backend answers none."""
        found = f"did not answer in {self._timeout_s:g} s"
        since = asyncio.get_running_loop().time() - self._answered_at
        if since > self._patience_s:
            self._fault = self._unreachable(f"{found} to /predict")
            raise self._fault
        return PredictionError(f"the backend {found} for this task alone")

    def _unreachable(self, found: str) -> Unreachable:
        return Unreachable(
            f"the backend {self.url} {found}, retried for {self._patience_s:g} s: "
            "check that it runs, and run the same command again"
        )

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON of an answer, after retries while there is none.

        Raises:
            httpx.ReadTimeout: if the backend accepted the tasks but did not answer.
        """
        if self._fault is not None:
            raise self._fault
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Unavailable),
            wait=wait_exponential(0.5, max=30),
            stop=stop_before_delay(self._patience_s),
            before_sleep=self._log_first_retry,
            reraise=True,
        )
        try:
            return await retrying(self._post_once, path, body)
        except _Unavailable as error:
            self._fault = self._unreachable(str(error))
            raise self._fault from None

    async def _post_once(self, path: str, body: dict[str, Any]) -> Any:
        if self._http is None:
            self._http = httpx.AsyncClient(auth=self._auth, timeout=self._timeout_s)
        try:
            answer = await self._http.post(f"{self.url}{path}", json=body)
        except httpx.HTTPError as error:
            if isinstance(error, httpx.ReadTimeout) and path == "/predict":
                raise
            found = f"does not answer ({type(error).__name__}) to {path}"
            raise _Unavailable(found) from error
        status = answer.status_code
        if status in _UNAVAILABLE:
            raise _Unavailable(f"answered {status} to {path}{_reason(answer)}")
        self._answered_at = asyncio.get_running_loop().time()
        return self._checked(answer, path)

    def _log_first_retry(self, state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            error = state.outcome.exception()
            log.warning("Backend %s %s; retrying", self.url, error)

    def _checked(self, answer: httpx.Response, path: str) -> Any:
        status = answer.status_code
        if status in {401, 403}:
            self._fault = PreannotationError(
                f"the backend {self.url} answered {status}: set BASIC_AUTH_USER and "
                "BASIC_AUTH_PASS to its credentials"
            )
            raise self._fault
        if path == "/setup" and not answer.is_success:
            raise PreannotationError(
                f"the backend {self.url} answered {status} to /setup{_reason(answer)}"
            )
        if not answer.is_success:
            raise ModelError(f"the backend answered {status}{_reason(answer)}")
        try:
            # As a server of lsml-bento does: Label Studio refuses NaN.
            return answer.json(parse_constant=lambda _: None, parse_float=_finite)
        except ValueError as error:
            raise ModelError(
                f"the backend's answer to {path} is invalid JSON"
            ) from error


def _split(url: str) -> tuple[str, tuple[str, str] | None]:
    """Split a URL into the URL without user and password, and those."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise PreannotationError(
            "--backend must be the URL of a backend, e.g. http://localhost:9090"
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


def _reason(answer: httpx.Response) -> str:
    """Return the reason in an error's body, if there is one."""
    try:
        reason = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {' '.join(str(reason).split())[:500]}"
