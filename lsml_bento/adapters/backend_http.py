"""A backend that runs somewhere, asked over HTTP as Label Studio asks it.

Source: Label Studio 1.23.2 ``ml/api_connector.py``.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from lsml_bento.errors import ModelError, WrongCount
from lsml_bento.preannotation import PreannotationError, Unreachable
from lsml_bento.types import Project, Task

log = logging.getLogger(__name__)

_TIMEOUT_S = 120.0
"""For an answer; a server of ours answers after 90."""

_AWAY = {429, 502, 503}
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

Slot = bytes


class BackendEngine:
    """Predicts by ``POST /predict``.

    A backend answers a task that failed as one without a prediction, unless it was sent
    alone: those that come back empty are sent again, one by one.

    Args:
        url: of the backend, perhaps with user and password.
        auth: user and password where the URL has none.
        patience_s: how long a backend that is away, or busy, is waited for.

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
    ) -> None:
        self.url, own = _split(url)
        self._auth = own or auth
        self._patience_s = patience_s
        self._http: httpx.AsyncClient | None = None
        self._about: dict[str, Any] = {}
        self._fault: PreannotationError | None = None

    async def prepare(self, project: Project, label_config: str) -> str:
        """Ask ``/setup`` for the model version, and remember what is asked for.

        Raises:
            PreannotationError: if there is no backend, or it refuses.
        """
        self._fault = None
        named = str(project)
        answer = await self._post("/setup", {"project": named, "schema": label_config})
        self._about = {"project": named, "label_config": label_config, "params": {}}
        version = answer.get("model_version") if isinstance(answer, dict) else None
        if not isinstance(version, str) or not version:
            raise PreannotationError(
                f"the backend {self.url} names no model_version in its answer to "
                "/setup: is it a Label Studio ML backend?"
            )
        return version

    async def predict(self, tasks: list[Task]) -> Sequence[Slot | Exception]:
        """The slots of one request, those asked for again among them.

        Raises:
            ModelError: if all tasks failed.
            Unreachable: if the backend was waited for in vain.
            PreannotationError: if it refuses.
        """
        entries = await self._entries(tasks)
        if not entries:
            return [_slot(None) for _ in tasks]
        if len(tasks) == 1:
            return [_slot(entries[0])]
        slots: list[Slot | Exception] = []
        for task, entry in zip(tasks, entries, strict=True):
            if entry:
                slots.append(_slot(entry))
                continue
            try:
                slots.append(_slot(next(iter(await self._entries([task])), None)))
            except ModelError as error:
                slots.append(error)
        return slots

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _entries(self, tasks: list[Task]) -> list[Any]:
        answer = await self._post("/predict", {"tasks": tasks, **self._about})
        entries = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise ModelError("the backend's answer to /predict has no list of results")
        if entries and len(entries) != len(tasks):
            raise WrongCount(len(tasks), len(entries))
        return entries

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """An answer, waited for with growing pauses while the backend is away."""
        if self._fault is not None:
            raise self._fault
        if self._http is None:
            self._http = httpx.AsyncClient(auth=self._auth, timeout=_TIMEOUT_S)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        number = 0
        while True:
            try:
                answer = await self._http.post(f"{self.url}{path}", json=body)
                found = f"answered {answer.status_code}"
            except httpx.HTTPError as error:
                answer, found = None, f"does not answer ({type(error).__name__})"
            if answer is not None and answer.status_code not in _AWAY:
                return self._checked(answer, path)
            pause = _PAUSES_S[min(number, len(_PAUSES_S) - 1)]
            if loop.time() + pause > deadline:
                self._fault = Unreachable(
                    f"the backend {self.url} {found} to {path}{_said(answer)}, though "
                    f"asked for {self._patience_s:g} s: see that it runs, and run the "
                    "same command again"
                )
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
            return answer.json()
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


def _said(answer: httpx.Response | None) -> str:
    """What a backend says of its error."""
    if answer is None:
        return ""
    try:
        reason = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {' '.join(str(reason).split())[:500]}"
