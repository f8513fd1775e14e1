"""From the backend to Label Studio: address, API key, a project, one media file."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.client_wrapper import SyncClientWrapper

from lsml_bento.contract import Task, parse_project
from lsml_bento.diagnostics.connection import (
    Check,
    SampleProject,
    is_loopback,
    json_of,
    port_of,
    split_url,
    without_secrets,
)
from lsml_bento.errors import MediaError
from lsml_bento.model.media import Media, names_a_file

_TIMEOUT = httpx.Timeout(30, connect=5)
_NEW_KEY = (
    "create a personal access token in Label Studio under Account & Settings and set "
    "LABEL_STUDIO_API_KEY to it"
)


def check_label_studio(
    url: str,
    key: str,
    media: Media | None,
    project: int | None,
    in_container: bool | None,
) -> Generator[Check, None, SampleProject | None]:
    """Yield the checks up to the first that fails. Returns the project, if any.

    The arguments are those of ``doctor.diagnose``.
    """
    found = None
    reach = _check_address(
        url, _in_container() if in_container is None else in_container
    )
    yield reach
    if reach.status == "fail":
        return None
    with httpx.Client(base_url=url.rstrip("/") + "/", timeout=_TIMEOUT) as http:
        version = _check_version(http, url)
        yield version
        if version.status == "fail":
            return None
        authorized = _check_key(http, key)
        yield authorized
        if authorized.status == "ok":
            readable, found = _check_project(http, project)
            yield readable
    if media is not None and found and found.tasks:
        yield _check_file(media, found.tasks)
    return found


def _check_address(url: str, in_container: bool) -> Check:
    check = partial(Check, "reach Label Studio")
    parts = split_url(url)
    if parts is None:
        return check(
            "fail",
            f"{url!r} is not an HTTP URL",
            "set LABEL_STUDIO_URL to a URL such as http://192.168.1.5:8080",
        )
    host, port = str(parts.hostname), port_of(parts)
    remedy = "set LABEL_STUDIO_URL to an address that this machine can reach"
    if in_container and is_loopback(host):
        remedy = (
            "inside a container, localhost is the container itself: set "
            "LABEL_STUDIO_URL to Label Studio's service name, or to "
            f"http://host.docker.internal:{port}"
        )
    try:
        socket.create_connection((host, port), timeout=5).close()
    except socket.gaierror:
        return check("fail", f"unknown host name: {host}", remedy)
    except OSError as error:
        timed_out = isinstance(error, TimeoutError)
        reason = "no answer within 5 s" if timed_out else error.strerror
        return check("fail", f"cannot connect to {host}:{port}: {reason}", remedy)
    return check("ok", f"{host}:{port} accepts connections")


def _check_version(http: httpx.Client, url: str) -> Check:
    check, shown = partial(Check, "Label Studio's version"), without_secrets(url)
    try:
        answer = http.get("api/version/")
    except httpx.HTTPError as error:
        return check(
            "fail",
            f"{shown} does not answer as an HTTP server: {type(error).__name__}",
            "check http:// or https:// in LABEL_STUDIO_URL",
        )
    if answer.is_redirect:
        to = answer.headers["Location"].removesuffix("/").removesuffix("/api/version")
        to = without_secrets(to)
        return check(
            "fail",
            f"{shown} redirects to {to}, and redirects drop the API key",
            f"set LABEL_STUDIO_URL to {to}",
        )
    body = json_of(answer)
    if not answer.is_success or not isinstance(body, dict) or "release" not in body:
        return check(
            "fail",
            f"{shown} answers {answer.status_code}, but not as Label Studio does",
            "check the port and the path in LABEL_STUDIO_URL",
        )
    return check("ok", f"Label Studio {body['release']} answers at {shown}")


def _check_key(http: httpx.Client, key: str) -> Check:
    """Whether Label Studio accepts the key. If it does, the client sends it."""
    check = partial(Check, "API key")
    if not key:
        return check("warn", "no API key: uploaded files cannot be read", _NEW_KEY)
    claims = _claims(key)
    if claims is not None and claims.get("token_type") == "access":
        return check("fail", "it is an access token, valid for minutes only", _NEW_KEY)
    if claims is not None and float(claims.get("exp") or 0) < time.time():
        return check("fail", "the personal access token has expired", _NEW_KEY)
    try:
        sdk = SyncClientWrapper(
            api_key=key, base_url=str(http.base_url), httpx_client=http
        )
        http.headers["Authorization"] = sdk.get_headers()["Authorization"]
        answer = http.get("api/current-user/whoami")
    except (ApiError, ValueError) as error:
        status = getattr(error, "status_code", "without an access token")
        return check(
            "fail",
            f"Label Studio answered {status} to the personal access token: it was "
            "revoked, or belongs to another Label Studio",
            _NEW_KEY,
        )
    except httpx.HTTPError as error:
        return check("fail", f"Label Studio did not answer: {type(error).__name__}")
    kind = "legacy token" if claims is None else "personal access token"
    if answer.is_success:
        return check("ok", f"Label Studio accepts the {kind}")
    if claims is not None:
        return check(
            "fail",
            "the personal access token was exchanged, but its access token gets "
            f"{answer.status_code}",
            "have personal access tokens enabled under Organization",
        )
    if "legacy" in str(json_of(answer)):
        return check(
            "fail",
            "it is a legacy token, and legacy tokens are disabled in this organization "
            "(the default of new ones)",
            f"{_NEW_KEY}, or have legacy tokens enabled under Organization",
        )
    return check(
        "fail",
        f"Label Studio does not know the legacy token ({answer.status_code}): it was "
        "reset, or belongs to another Label Studio",
        _NEW_KEY,
    )


def _claims(key: str) -> dict[str, Any] | None:
    """The claims of a personal access token; None for a legacy token."""
    try:
        return jwt.decode(key, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None


def _check_project(
    http: httpx.Client, number: int | None
) -> tuple[Check, SampleProject | None]:
    try:
        if number is None:
            listed = json_of(http.get("api/projects/", params={"page_size": 100}))
            rows = listed.get("results", []) if isinstance(listed, dict) else []
            number = next((row["id"] for row in rows if row.get("task_number")), None)
        return _read_project(http, number)
    except (httpx.HTTPError, ValueError) as error:
        message = f"the project cannot be read: {type(error).__name__}"
        return Check("project", "fail", message), None


def _read_project(
    http: httpx.Client, number: int | None
) -> tuple[Check, SampleProject | None]:
    check = partial(Check, "project")
    if number is None:
        return check("warn", "no project with tasks was found", "pass --project"), None
    answer = http.get(f"api/projects/{number}/")
    if not answer.is_success:
        return check(
            "fail",
            f"Label Studio answers {answer.status_code} for project {number}",
            "check the number, and that the API key's user is a member of it",
        ), None
    row = answer.json()
    tasks = json_of(http.get(f"api/projects/{number}/tasks/", params={"page_size": 50}))
    backends = json_of(http.get("api/ml", params={"project": number}))
    found = SampleProject(
        str(parse_project(row)),
        row.get("label_config") or "<View/>",
        tasks if isinstance(tasks, list) else [],
        backends if isinstance(backends, list) else None,
    )
    if not found.tasks:
        return check("warn", f"project {number} has no tasks", "import some"), found
    return check("ok", f"project {number} ({row.get('title')}) can be read"), found


def _check_file(media: Media, tasks: list[Task]) -> Check:
    check = partial(Check, "one media file")
    for task in tasks:
        for url in _file_urls(task.get("data")):
            started = time.perf_counter()
            try:
                path = Path(media.local_path(url, task_id=task.get("id")))
            except MediaError as error:
                return check("fail", f"task {task.get('id')}: {error}")
            seconds = time.perf_counter() - started
            size = path.stat().st_size
            return check("ok", f"task {task.get('id')}: {size} bytes, {seconds:.1f} s")
    return check("ok", f"none of {len(tasks)} tasks names a file")


def _file_urls(data: Any) -> Iterator[str]:
    if isinstance(data, str) and names_a_file(data):
        yield data
    elif isinstance(data, (dict, list)):
        for value in data.values() if isinstance(data, dict) else data:
            yield from _file_urls(value)


def _in_container() -> bool:
    """Whether this process runs in Docker or Kubernetes."""
    return Path("/.dockerenv").exists() or "KUBERNETES_SERVICE_HOST" in os.environ
