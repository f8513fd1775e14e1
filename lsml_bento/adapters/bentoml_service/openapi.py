"""``/docs``, a page for people, and the description of Label Studio's routes."""

from __future__ import annotations

from typing import Any

import bentoml
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>{name}</title>
<link rel="stylesheet" href="static_content/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "docs.json", dom_id: "#swagger-ui"}})</script>
</html>
"""
"""BentoML's own page is at ``/``, which is Label Studio's, and loads a tracker."""


def documentation(service: bentoml.Service[Any]) -> list[Route]:
    """The routes ``/docs`` and ``/docs.json``."""

    async def page(request: Request) -> Response:
        return HTMLResponse(_PAGE.format(name=service.name))

    async def specification(request: Request) -> Response:
        found = service.openapi_spec.asdict()
        return JSONResponse({**found, "paths": {**_paths(), **found["paths"]}})

    return [Route("/docs", page), Route("/docs.json", specification)]


def _paths() -> dict[str, Any]:
    project = _text("The project as `ID.CREATED_AT`, e.g. `1.1795426489`.")
    task = {"type": "object", "example": {"id": 1, "data": {"text": "A sentence"}}}
    failures = {
        "400": "The body is not what Label Studio sends.",
        "503": "The backend is busy or still starts; the header Retry-After says when "
        "to try again.",
    }
    return {
        "/predict": _post(
            "Predictions for tasks, which Label Studio asks for.",
            {
                "tasks": {"type": "array", "items": task},
                "project": project,
                "label_config": _text("The project's label config, as XML."),
                "params": _object(
                    "May hold `context`, the regions that an annotator just drew."
                ),
            },
            {"200": "`results` has one prediction, or a list of them, per task."}
            | failures,
            required=["tasks"],
        ),
        "/setup": _post(
            "Prepares the model of a project. Label Studio calls it to validate the "
            "connection, and names the version that it answers.",
            {
                "project": project,
                "schema": _text("The project's label config, as XML."),
                "extra_params": _text("The extra params of the connection, as JSON."),
            },
            {"200": "`model_version` is the version that serves."} | failures,
        ),
        "/webhook": _post(
            "Takes an event, e.g. a new annotation, which may start a fit.",
            {
                "action": _text("For example `ANNOTATION_CREATED`."),
                "project": _object("With `id`, `created_at` and `label_config`."),
                "task": _object("The task with its data."),
                "annotation": _object("The annotation with its result."),
            },
            {
                "200": "No job is needed; `status` says why.",
                "201": "`job` is the id of the job that will train.",
            }
            | failures,
            required=["action"],
        ),
    }


def _post(
    description: str,
    properties: dict[str, Any],
    responses: dict[str, str],
    required: list[str] | None = None,
) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {
        "post": {
            "tags": ["Label Studio"],
            "description": description,
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schema}},
            },
            "responses": {
                status: {"description": text} for status, text in responses.items()
            },
        }
    }


def _text(description: str) -> dict[str, str]:
    return {"type": "string", "description": description}


def _object(description: str) -> dict[str, str]:
    return {"type": "object", "description": description}
