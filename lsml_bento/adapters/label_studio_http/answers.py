"""Answers as Label Studio and other clients read them: JSON, errors included."""

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
    """A job in the words of ``label_studio_ml`` up to 1.0.9."""
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
    """A value as JSON."""
    return Response(
        orjson.dumps(content), status, headers, media_type="application/json"
    )


def _asked(request: Request) -> str:
    """Method and path, for one line of a log."""
    return f"{request.method} {request.scope['path'][:200]!r}"


# Starlette gives each of these the errors that it is registered for.


async def answer_error(request: Request, error: Any) -> Response:
    """The sentence of an ``LsmlError``, with its status."""
    level = logging.WARNING if error.status < 500 else logging.ERROR
    log.log(level, "%s answered %d: %s", _asked(request), error.status, error)
    wait_s = error.retry_after_s
    headers = None if wait_s is None else {"Retry-After": str(wait_s)}
    return json_response({"error": str(error)}, error.status, headers)


async def answer_http_error(request: Request, error: Any) -> Response:
    """What is wrong with a path or a method."""
    said = ROUTING_ERRORS.get(error.status_code, error.detail)
    return json_response(
        {"error": f"{_asked(request)}: {said}"}, error.status_code, error.headers
    )


async def answer_nobody(request: Request, _: Exception) -> Response:
    """Note a client that hung up while it sent."""
    log.info("%s: the client hung up while sending", _asked(request))
    return json_response({"error": "the client hung up"}, status=400)


async def answer_bug(request: Request, error: Exception) -> Response:
    """Note a bug; the client is told where to look."""
    log.error("%s failed: a bug in lsml-bento", _asked(request), exc_info=error)
    return json_response({"error": "the server failed: its log says why"}, status=500)
