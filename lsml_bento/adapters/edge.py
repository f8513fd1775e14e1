"""ASGI middleware in front of every route, including BentoML's own."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lsml_bento.contract import ROUTING_ERRORS, check_media_type
from lsml_bento.errors import BodyTooLarge, LsmlError

_PROBES = frozenset({"/health", "/healthz", "/livez", "/readyz"})
_MIB = 1024 * 1024


class EdgeMiddleware:
    """Normalises paths, checks Basic auth, and turns errors into JSON.

    Args:
        app: the next ASGI app.
        contract: Label Studio's routes, which check bodies and errors themselves. They
            are mounted in ``app`` too. Calling them directly skips BentoML's router,
            which takes a fifth of the time of a small request.
        max_body_mib: larger bodies get 413.
        root_path: a path prefix that the proxy does not strip.
        basic_auth: user and password; None for no authentication.
    """

    def __init__(
        self,
        app: ASGIApp,
        contract: Starlette,
        max_body_mib: float,
        root_path: str = "",
        basic_auth: tuple[str, str] | None = None,
    ) -> None:
        self._app = app
        self._contract = contract
        self._paths = {r.path for r in contract.routes if isinstance(r, Route)}
        self._max_body_mib = max_body_mib
        self._root_path = root_path
        self._basic_auth = BasicAuth(*basic_auth) if basic_auth else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = self._normalised(scope["path"])
        if path != scope["path"]:
            scope = {**scope, "path": path, "raw_path": path.encode()}
        if not self._may_pass(path, scope):
            await _unauthorised()(scope, receive, send)
        elif path in self._paths or path.startswith("/api/"):
            await self._contract(scope, receive, send)
        else:
            await self._pass_to_bentoml(scope, receive, send)

    def _normalised(self, path: str) -> str:
        if "//" in path:
            path = re.sub("/{2,}", "/", path)
        root = self._root_path
        if root and (path == root or path.startswith(root + "/")):
            path = path[len(root) :]
        return path.rstrip("/") or "/"

    def _may_pass(self, path: str, scope: Scope) -> bool:
        if self._basic_auth is None or path in _PROBES:
            return True
        return self._basic_auth.allows(
            dict(scope["headers"]).get(b"authorization", b"")
        )

    async def _pass_to_bentoml(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            self._check_body(Headers(scope=scope))
        except LsmlError as error:
            await _refusal(error.status, str(error))(scope, receive, send)
            return
        asked = f"{scope['method']} {scope['path'][:200]!r}"
        await self._app(scope, receive, _JsonErrors(asked, send))

    def _check_body(self, headers: Mapping[str, str]) -> None:
        """Reject what BentoML 1.4 would unpickle, upload or read without a limit."""
        check_media_type(headers.get("content-type", ""))
        length = headers.get("content-length", "0")
        has_length = length.isdecimal() and "transfer-encoding" not in headers
        if not has_length or float(length) > self._max_body_mib * _MIB:
            raise BodyTooLarge(self._max_body_mib, has_length=has_length)


class _JsonErrors:
    """Replaces plain-text 404 and 405 responses by the JSON of all other errors."""

    def __init__(self, asked: str, send: Send) -> None:
        self._asked = asked
        self._send = send
        self._body: bytes | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = self._start(message)
        elif self._body is not None:
            message = {**message, "body": self._body, "more_body": False}
        await self._send(message)

    def _start(self, message: Message) -> Message:
        status = message["status"]
        kind = Headers(raw=message.get("headers", [])).get("content-type", "")
        if status not in ROUTING_ERRORS or not kind.startswith("text/plain"):
            return message
        response = _refusal(status, f"{self._asked}: {ROUTING_ERRORS[status]}")
        self._body = bytes(response.body)
        return {**message, "headers": response.raw_headers}


def _refusal(
    status: int, sentence: str, headers: dict[str, Any] | None = None
) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers)


def _unauthorised() -> JSONResponse:
    return _refusal(
        401,
        "this backend requires Basic auth: enter user and password in Label Studio's "
        "model settings, or use http://user:password@host as its URL",
        {"WWW-Authenticate": 'Basic realm="lsml-bento", charset="UTF-8"'},
    )


class BasicAuth:
    """A user and a password, compared in constant time.

    Source: RFC 7617. Label Studio encodes them in Latin-1, as requests does; curl uses
    UTF-8.
    """

    def __init__(self, user: str, password: str) -> None:
        credentials = f"{user}:{password}"
        self._encoded = [credentials.encode("utf-8", "surrogateescape")]
        with suppress(UnicodeEncodeError):
            self._encoded.append(credentials.encode("latin-1"))

    def allows(self, header: bytes) -> bool:
        """Whether an ``Authorization`` header contains them."""
        scheme, _, encoded = header.partition(b" ")
        try:
            sent = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            sent = b""
        # Compare first, so that a wrong scheme takes as long as a wrong password.
        equal = [hmac.compare_digest(sent, known) for known in self._encoded]
        return any(equal) and scheme.lower() == b"basic"
