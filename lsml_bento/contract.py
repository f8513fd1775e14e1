"""What Label Studio sends, parsed into immutable values.

Source: Label Studio 1.23 ``label_studio/ml/api_connector.py`` and recorded requests
(``tests/payloads``).
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from lsml_bento.errors import BadRequest, UnsupportedMedia

Task = dict[str, Any]
"""A task as Label Studio sends it: ``id``, ``data``, ``annotations``, ..."""

Context = dict[str, Any]
"""The regions that an annotator just drew: ``{"result": [region, ...]}``."""

ROUTING_ERRORS = {404: "no such path", 405: "method not allowed on this path"}
"""Error messages for requests that match no route, by HTTP status."""

_PICKLE = "application/vnd.bentoml+pickle"
_PROJECT = re.compile(r"(?P<id>[A-Za-z0-9_-]{1,64})(?:\.(?P<created_at>[0-9]{1,15}))?")

_LONGEST = 100
"""Longest text that is parsed as a time, in characters."""

_DEPTH = 100
"""Deepest nesting of params; JSON serialisers fail at about 250 levels."""


class Project(NamedTuple):
    """A project of one Label Studio; another Label Studio may use the same id.

    Attributes:
        id: the project's id as text; empty if the client named none.
        created_at: seconds since the epoch. None if the client named none: then it
            stands for the newest known project with that id.
    """

    id: str
    created_at: int | None = None

    def __str__(self) -> str:
        """The id as Label Studio sends it: ``"1.1795426489"``."""
        return self.id if self.created_at is None else f"{self.id}.{self.created_at}"


def check_media_type(content_type: str) -> None:
    """Reject a body that is not JSON; a missing header (an empty text) is accepted.

    Raises:
        UnsupportedMedia: for any other type, including BentoML's pickles.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in {"", "application/json"}:
        advice = (
            "; bentoml.depends sends pickles, so call the backend by its URL, with "
            "bentoml.SyncHTTPClient(url)"
            if media_type == _PICKLE
            else ""
        )
        raise UnsupportedMedia(
            f"the body has the type {media_type[:100]!r}: send application/json{advice}"
        )


def parse_project(value: object) -> Project:
    """The project that a request names.

    Args:
        value: ``"1.1795426489"``, ``"1"``, ``1``, None, or an event's project object.

    Raises:
        ValueError: for anything else, for example a text with ``/`` in it.
    """
    if value is None or value == "":
        return Project("")
    if isinstance(value, dict):
        return _parse_project_object(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(
            f"a project is a string or a number, not {type(value).__name__}"
        )
    found = _PROJECT.fullmatch(str(value))
    if found is None:
        raise ValueError('a project is written as "1" or "1.1795426489"')
    seconds = found["created_at"]
    return Project(found["id"], None if seconds is None else int(seconds))


def _parse_project_object(value: dict[str, Any]) -> Project:
    if isinstance(value.get("id"), dict):
        raise ValueError("a project's id is a string or a number, not an object")
    project = parse_project(value.get("id"))
    created_at = value.get("created_at")
    if not project.id or project.created_at is not None:
        return project
    if not isinstance(created_at, str):
        return project
    seconds = _seconds(created_at[:_LONGEST])
    return project if seconds is None else Project(project.id, seconds)


@lru_cache(maxsize=1024)  # every event of a project repeats the same text
def _seconds(text: str) -> int | None:
    """Seconds since the epoch; None if invalid or earlier."""
    try:
        seconds = int(parse_time(text).timestamp())
    except ValueError:
        return None
    return seconds if seconds >= 0 else None


def parse_time(text: str) -> datetime:
    """An ISO 8601 time, in UTC; a time without a zone is taken as UTC.

    Raises:
        ValueError: if it is not a time between the years 1 and 9999.
    """
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if found.tzinfo is None:
        return found.replace(tzinfo=timezone.utc)
    try:
        return found.astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError(f"out of range in UTC: {text[:_LONGEST]!r}") from error


def iso_time(seconds: float | None) -> str | None:
    """A time for clients: ISO 8601 in UTC, with milliseconds."""
    if seconds is None:
        return None
    found = datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)
    return found.isoformat(timespec="milliseconds") + "Z"


def _params(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    not_too_deep({key: entry for key, entry in value.items() if key != "context"})
    return value


def not_too_deep(value: Any) -> Any:
    """Return a JSON value unchanged.

    Raises:
        ValueError: if it is nested so deeply that JSON libraries may fail on it.
    """
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_DEPTH):
        if not level:
            return value
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
    raise ValueError(f"nested deeper than {_DEPTH} levels")


def _label_config(value: object) -> object:
    return "<View/>" if isinstance(value, str) and not value.strip() else value


ProjectField = Annotated[Project, BeforeValidator(parse_project)]
LabelConfigField = Annotated[str | None, BeforeValidator(_label_config)]


class _Wire(BaseModel):
    """A request body; unknown keys come from other versions of Label Studio."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class SetupRequest(_Wire):
    """``POST /setup``; its hostname and access token are dropped here."""

    project: ProjectField = Project("")
    label_config: LabelConfigField = Field(
        default=None, validation_alias=AliasChoices("schema", "label_config")
    )
    extra_params: Annotated[Any, BeforeValidator(not_too_deep)] = None


class _TaskShape(_Wire):
    """What a task must contain."""

    data: dict[str, Any]
    id: int | str | None = None


class PredictRequest(_Wire):
    """``POST /predict``: tasks of a project, and optionally a context."""

    tasks: list[Any]
    """Validated by ``parse_predict``, since pydantic would copy each task."""
    project: ProjectField = Project("")
    label_config: LabelConfigField = Field(
        default=None, validation_alias=AliasChoices("label_config", "schema")
    )
    params: Annotated[dict[str, Any], BeforeValidator(_params)] = Field(
        default_factory=dict
    )


class _Action(_Wire):
    """What every event contains; ``jobs.events`` reads the rest."""

    action: str = Field(min_length=1, max_length=100)


_WireT = TypeVar("_WireT", bound=_Wire)


def parse_setup(body: object) -> SetupRequest:
    """The body of ``/setup``.

    Raises:
        BadRequest: if it is not an object or a key has the wrong type.
    """
    return _parse(SetupRequest, body)


def parse_predict(body: object) -> PredictRequest:
    """The body of ``/predict``.

    Raises:
        BadRequest: if it is not an object, or a task is not ``{"data": {...}}``.
    """
    request = _parse(PredictRequest, body)
    for place, task in enumerate(request.tasks):
        if not isinstance(task, dict):
            found = _json_type(task)
            raise BadRequest(f"tasks[{place}]: expected a JSON object, found {found}")
        if not _is_task(task):
            _parse(_TaskShape, task, where=f"tasks[{place}].")
    return request


def _is_task(task: dict[str, Any]) -> bool:
    return isinstance(task.get("data"), dict) and isinstance(
        task.get("id"), (int, str, type(None))
    )


def parse_action(body: object) -> str:
    """The action of an event.

    Raises:
        BadRequest: if the body is not an object with an ``action``.
    """
    return _parse(_Action, body).action


def _parse(shape: type[_WireT], body: object, where: str = "") -> _WireT:
    if not isinstance(body, dict):
        raise BadRequest(
            f"expected a JSON object, found {_json_type(body)}: see Label Studio's "
            "ML backend API for the keys"
        )
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        # Inputs are left out of the message: one of them may be an access token.
        first = error.errors(include_input=False, include_url=False)[0]
        place = where + ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{place or 'body'}: {said}") from None


def _json_type(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
