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

from lsml_bento.backend.backend import Backend
from lsml_bento.contract import (
    ROUTING_ERRORS,
    check_media_type,
    parse_predict,
    parse_project,
    parse_setup,
)
from lsml_bento.errors import (
    BadRequest,
    BodyTooLarge,
    LsmlError,
    MalformedBody,
    NotFound,
    UnsupportedMedia,
)
from lsml_bento.jobs.events import Event, parse_event
from lsml_bento.model.label_config import parse_label_config

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
_OLDER = {"running": "started", "succeeded": "finished", "cancelled": "failed"}


def contract_app(max_body_mib: float) -> Starlette:
    """The routes that Label Studio calls, handled by ``app.state.backend``.

    Args:
        max_body_mib: larger bodies get 413.
    """
    routes = _Routes(int(max_body_mib * _MIB))
    app = Starlette(
        routes=[
            # Starlette tries them in order: the most frequent come first.
            Route("/predict", routes.predict, methods=["POST"]),
            Route("/webhook", routes.webhook, methods=["POST"]),
            Route("/", routes.health, methods=["GET"]),
            Route("/health", routes.health, methods=["GET"]),
            Route("/setup", routes.setup, methods=["POST"]),
            Route("/versions", routes.versions, methods=["GET"]),
            Route("/train", routes.train, methods=["POST"]),
            Route("/job_status", routes.job_status, methods=["POST"]),
            Route("/is_training", routes.is_training, methods=["GET"]),
            Route("/validate", routes.validate, methods=["POST"]),
            Route("/delete", routes.acknowledge, methods=["POST"]),
            Route("/duplicate_model", routes.acknowledge, methods=["POST"]),
            Route("/api/status", routes.status, methods=["GET"]),
            Route("/api/jobs", routes.jobs, methods=["GET"]),
            Route("/api/jobs/{job}", routes.job, methods=["GET"]),
            Route("/api/jobs/{job}/cancel", routes.cancel, methods=["POST"]),
            Route("/api/jobs/{job}/retry", routes.retry, methods=["POST"]),
            Route(
                "/api/projects/{project}/versions",
                routes.project_versions,
                methods=["GET"],
            ),
            Route(
                # The user's fit names versions, so a name may contain slashes.
                "/api/projects/{project}/versions/{version:path}/activate",
                routes.activate,
                methods=["POST"],
            ),
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
    """The handlers, one method per route."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes

    async def health(self, request: Request) -> Response:
        backend = _backend(request)
        health = backend.status.health()
        if not backend.is_starting:
            return _json_response(health)
        # Label Studio would call /setup next, which cannot answer in time, and would
        # not create the connection.
        said = f"{health['model_class']} is being imported: connect in a few seconds"
        return _json_response({"error": said}, 503, {"Retry-After": "2"})

    async def setup(self, request: Request) -> Response:
        asked = parse_setup(await self._body(request))
        return _json_response({"model_version": await _backend(request).setup(asked)})

    async def predict(self, request: Request) -> Response:
        asked = parse_predict(await self._body(request))
        slots = await _backend(request).predict(asked, _hang_up(request))
        return Response(
            b'{"results":[' + b",".join(slots) + b"]}", media_type="application/json"
        )

    async def webhook(self, request: Request) -> Response:
        return await self._learn(request, parse_event(await self._body(request)))

    async def _learn(self, request: Request, event: Event) -> Response:
        receipt = await _backend(request).training.event(event)
        if receipt.job is None:
            return _json_response({"status": receipt.status})
        return _json_response({"job": receipt.job}, status=201)

    async def versions(self, request: Request) -> Response:
        return _json_response({"versions": await _backend(request).status.versions()})

    async def status(self, request: Request) -> Response:
        return _json_response(await _backend(request).status.overview())

    # Jobs and versions

    async def jobs(self, request: Request) -> Response:
        query = request.query_params
        limit = query.get("limit", "100")
        if not limit.isdecimal() or len(limit) > 6:
            raise BadRequest("limit must be a number of jobs")
        jobs = await _backend(request).training.jobs(
            query.get("project") or None, query.get("status"), int(limit)
        )
        return _json_response({"jobs": jobs})

    async def job(self, request: Request) -> Response:
        return _json_response(
            await _backend(request).training.job(request.path_params["job"])
        )

    async def cancel(self, request: Request) -> Response:
        await self._optional_object(request)
        job = request.path_params["job"]
        return _json_response(await _backend(request).training.cancel(job))

    async def retry(self, request: Request) -> Response:
        await self._optional_object(request)
        job = request.path_params["job"]
        return _json_response(await _backend(request).training.retry(job))

    async def project_versions(self, request: Request) -> Response:
        project = request.path_params["project"]
        versions = await _backend(request).training.versions(project)
        return _json_response({"versions": versions})

    async def activate(self, request: Request) -> Response:
        pin = (await self._optional_object(request)).get("pin", False)
        if not isinstance(pin, bool):
            raise BadRequest('expected {"pin": true}, {"pin": false} or no body')
        versions = await _backend(request).training.activate(
            request.path_params["project"], request.path_params["version"], pin=pin
        )
        return _json_response({"versions": versions})

    # Routes of older Label Studios

    async def train(self, request: Request) -> Response:
        body = _object(await self._body(request))
        event = parse_event({"action": "START_TRAINING", **_project_of(body)})
        return await self._learn(request, event)

    async def job_status(self, request: Request) -> Response:
        job = _object(await self._body(request)).get("job")
        if not isinstance(job, (str, int)):
            raise BadRequest('expected {"job": id} with an id that /train returned')
        try:
            found = await _backend(request).training.job(str(job))
        except NotFound as error:
            return _json_response({"error": str(error)}, status=410)
        return _json_response(_older_status(found))

    async def is_training(self, request: Request) -> Response:
        try:
            project = parse_project(request.query_params.get("project"))
        except ValueError as error:
            raise BadRequest(f"project: {error}") from None
        trains = await _backend(request).training.is_training(project)
        return _json_response({"is_training": trains})

    async def validate(self, request: Request) -> Response:
        config = _object(await self._body(request)).get("config")
        if not isinstance(config, str):
            raise BadRequest('expected {"config": "<View>...</View>"}')
        parse_label_config(config)
        return _json_response({"status": "ok"})

    async def acknowledge(self, request: Request) -> Response:
        _object(await self._body(request))
        return _json_response({})

    # Bodies

    async def _optional_object(self, request: Request) -> dict[str, Any]:
        body = await self._body(request, may_be_empty=True)
        return {} if body is None else _object(body)

    async def _body(self, request: Request, *, may_be_empty: bool = False) -> Any:
        """The parsed JSON of a body; reads no more than the limit."""
        _check_encoding(request)
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and float(declared) > self._max_body_bytes:
            raise BodyTooLarge(self._max_body_bytes / _MIB)
        chunks: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._max_body_bytes:
                raise BodyTooLarge(self._max_body_bytes / _MIB)
            chunks.append(chunk)
        if may_be_empty and not size:
            return None
        try:
            return orjson.loads(b"".join(chunks))
        except orjson.JSONDecodeError as error:
            raise MalformedBody(f"the body is not valid JSON: {error}") from None


def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


def _check_encoding(request: Request) -> None:
    check_media_type(request.headers.get("content-type", ""))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("the body is compressed: send it uncompressed")


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


def _older_status(job: dict[str, Any]) -> dict[str, Any]:
    """A job in the format of ``label_studio_ml`` up to 1.0.9."""
    status = job["status"]
    error = "the job was cancelled" if status == "cancelled" else job["error"]
    return {
        "job_status": _OLDER.get(status, status),
        "error": error,
        "created_at": job["created_at"],
        "enqueued_at": job["created_at"],
        "ended_at": job["finished_at"],
    }


def _json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A response with a value as JSON."""
    return Response(
        orjson.dumps(content), status, headers, media_type="application/json"
    )


def _asked(request: Request) -> str:
    """Method and path, safe for one line of a log."""
    return f"{request.method} {request.scope['path'][:200]!r}"


# Starlette calls these with the errors for which they are registered.


async def _answer_error(request: Request, error: Any) -> Response:
    """Respond with the message and the status of an ``LsmlError``."""
    level = logging.WARNING if error.status < 500 else logging.ERROR
    log.log(level, "%s answered %d: %s", _asked(request), error.status, error)
    wait_s = error.retry_after_s
    headers = None if wait_s is None else {"Retry-After": str(wait_s)}
    return _json_response({"error": str(error)}, error.status, headers)


async def _answer_http_error(request: Request, error: Any) -> Response:
    """Respond to a wrong path or method."""
    said = ROUTING_ERRORS.get(error.status_code, error.detail)
    return _json_response(
        {"error": f"{_asked(request)}: {said}"}, error.status_code, error.headers
    )


async def _answer_nobody(request: Request, _: Exception) -> Response:
    """Log that a client disconnected while sending."""
    log.info("Client disconnected while sending: %s", _asked(request))
    return _json_response({"error": "the client disconnected"}, status=400)


async def _answer_bug(request: Request, error: Exception) -> Response:
    """Log a bug, and refer the client to the log."""
    log.error("Bug in lsml-bento: %s failed", _asked(request), exc_info=error)
    return _json_response({"error": "the server failed: see its log"}, status=500)
