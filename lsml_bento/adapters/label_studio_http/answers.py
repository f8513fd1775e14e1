"""Responses in JSON, including errors."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from lsml_bento.contract import ROUTING_ERRORS

log = logging.getLogger(__name__)

_OLDER = {"running": "started", "succeeded": "finished", "cancelled": "failed"}


def older_status(job: dict[str, Any]) -> dict[str, Any]:
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


def json_response(
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


async def answer_error(request: Request, error: Any) -> Response:
    """Respond with the message and the status of an ``LsmlError``."""
    level = logging.WARNING if error.status < 500 else logging.ERROR
    log.log(level, "%s answered %d: %s", _asked(request), error.status, error)
    wait_s = error.retry_after_s
    headers = None if wait_s is None else {"Retry-After": str(wait_s)}
    return json_response({"error": str(error)}, error.status, headers)


async def answer_http_error(request: Request, error: Any) -> Response:
    """Respond to a wrong path or method."""
    said = ROUTING_ERRORS.get(error.status_code, error.detail)
    return json_response(
        {"error": f"{_asked(request)}: {said}"}, error.status_code, error.headers
    )


async def answer_nobody(request: Request, _: Exception) -> Response:
    """Log that a client disconnected while sending."""
    log.info("Client disconnected while sending: %s", _asked(request))
    return json_response({"error": "the client disconnected"}, status=400)


async def answer_bug(request: Request, error: Exception) -> Response:
    """Log a bug, and refer the client to the log."""
    log.error("Bug in lsml-bento: %s failed", _asked(request), exc_info=error)
    return json_response({"error": "the server failed: see its log"}, status=500)
