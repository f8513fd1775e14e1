"""Label Studio's HTTP contract as a Starlette app.

Source: Label Studio 1.23.2 ``ml/api_connector.py``; recorded requests in
``tests/payloads``; the older routes: ``label_studio_ml`` up to 1.0.9.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from lsml_bento.backend import Backend
from lsml_bento.errors import (
    BadRequest,
    BodyTooLarge,
    LsmlError,
    MalformedBody,
    UnsupportedMedia,
)
from lsml_bento.label_config import parse_label_config
from lsml_bento.types import (
    check_media_type,
    parse_event,
    parse_predict,
    parse_project,
    parse_setup,
)

log = logging.getLogger(__name__)

_MIB = 1024 * 1024


def contract_app(max_body_mib: float) -> Starlette:
    """The routes that Label Studio calls, for ``app.state.backend`` to answer.

    Args:
        max_body_mib: bodies over it get 413.
    """
    routes = _Routes(int(max_body_mib * _MIB))
    app = Starlette(
        routes=[
            Route("/", routes.health, methods=["GET"]),
            Route("/health", routes.health, methods=["GET"]),
            Route("/setup", routes.setup, methods=["POST"]),
            Route("/predict", routes.predict, methods=["POST"]),
            Route("/webhook", routes.webhook, methods=["POST"]),
            Route("/versions", routes.versions, methods=["GET"]),
            Route("/train", routes.train, methods=["POST"]),
            Route("/job_status", routes.job_status, methods=["POST"]),
            Route("/is_training", routes.is_training, methods=["GET"]),
            Route("/validate", routes.validate, methods=["POST"]),
            Route("/delete", routes.acknowledge, methods=["POST"]),
            Route("/duplicate_model", routes.acknowledge, methods=["POST"]),
            Route("/api/status", routes.status, methods=["GET"]),
        ],
        exception_handlers={
            LsmlError: _answer_error,
            HTTPException: _answer_http_error,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_bug,
        },
    )
    app.router.redirect_slashes = False
    return app


class _Routes:
    """One method per route."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes

    async def health(self, request: Request) -> Response:
        return _json(_backend(request).health())

    async def setup(self, request: Request) -> Response:
        asked = parse_setup(await self._body(request))
        return _json({"model_version": await _backend(request).setup(asked)})

    async def predict(self, request: Request) -> Response:
        asked = parse_predict(await self._body(request))
        slots = await _backend(request).predict(asked, _hang_up(request))
        return Response(
            b'{"results":[' + b",".join(slots) + b"]}", media_type="application/json"
        )

    async def webhook(self, request: Request) -> Response:
        event = parse_event(await self._body(request))
        return _json(_backend(request).event(event))

    async def versions(self, request: Request) -> Response:
        return _json({"versions": await _backend(request).versions()})

    async def status(self, request: Request) -> Response:
        return _json(await _backend(request).status())

    # Routes of older Label Studios

    async def train(self, request: Request) -> Response:
        body = _object(await self._body(request))
        event = parse_event({"action": "START_TRAINING", **_project_of(body)})
        return _json(_backend(request).event(event))

    async def job_status(self, request: Request) -> Response:
        job = _object(await self._body(request)).get("job")
        if not isinstance(job, (str, int)):
            raise BadRequest('expected {"job": id}, as /train answered it')
        return _json({"error": f"there is no job {str(job)[:100]!r}"}, status=410)

    async def is_training(self, request: Request) -> Response:
        try:
            parse_project(request.query_params.get("project"))
        except ValueError as error:
            raise BadRequest(f"project: {error}") from None
        return _json({"is_training": False})

    async def validate(self, request: Request) -> Response:
        config = _object(await self._body(request)).get("config")
        if not isinstance(config, str):
            raise BadRequest('expected {"config": label config}')
        parse_label_config(config)
        return _json({"status": "ok"})

    async def acknowledge(self, request: Request) -> Response:
        _object(await self._body(request))
        return _json({})

    # Bodies

    async def _body(self, request: Request) -> Any:
        """The JSON of a body, read no further than the limit."""
        _check_encoding(request)
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and float(declared) > self._max_body_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._max_body_bytes:
                raise self._too_large()
            chunks.append(chunk)
        try:
            return orjson.loads(b"".join(chunks))
        except orjson.JSONDecodeError as error:
            raise MalformedBody(f"the body is not JSON: {error}") from None

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body is over {self._max_body_bytes / _MIB:g} MiB: send fewer tasks, "
            "or raise LSML_MAX_BODY_MIB"
        )


def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


def _check_encoding(request: Request) -> None:
    check_media_type(request.headers.get("content-type", ""))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("the body is compressed: send it as it is")


def _hang_up(request: Request) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadRequest("expected a JSON object")
    return body


def _project_of(body: dict[str, Any]) -> dict[str, Any]:
    return {"project": body["project"]} if "project" in body else {}


def _json(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        orjson.dumps(content), status, headers, media_type="application/json"
    )


def _asked(request: Request) -> str:
    """Method and path, for one line of a log."""
    return f"{request.method} {request.scope['path'][:200]!r}"


# Starlette gives each of these the errors that it is registered for.


async def _answer_error(request: Request, error: Any) -> Response:
    level = logging.WARNING if error.status < 500 else logging.ERROR
    log.log(level, "%s answered %d: %s", _asked(request), error.status, error)
    wait_s = error.retry_after_s
    headers = None if wait_s is None else {"Retry-After": str(wait_s)}
    return _json({"error": str(error)}, error.status, headers)


async def _answer_http_error(request: Request, error: Any) -> Response:
    sentences = {404: "there is nothing there", 405: "that path has other methods"}
    said = sentences.get(error.status_code, error.detail)
    return _json(
        {"error": f"{_asked(request)}: {said}"}, error.status_code, error.headers
    )


async def _answer_nobody(request: Request, _: Exception) -> Response:
    log.info("%s: the client hung up while sending", _asked(request))
    return _json({"error": "the client hung up"}, status=400)


async def _answer_bug(request: Request, error: Exception) -> Response:
    log.error("%s failed: a bug in lsml-bento", _asked(request), exc_info=error)
    return _json({"error": "the server failed: its log says why"}, status=500)
