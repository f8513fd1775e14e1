"""Can we reach Label Studio, and can it reach us? Every hop tried, each in a sentence.

What Label Studio's side does to a backend is replayed with its own time limits.

Source: Label Studio 1.23.2 ``ml/api_connector.py``, ``ml/serializers.py``,
``webhooks/utils.py``, ``jwt_auth/auth.py``
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import httpx
from pydantic import SecretStr

from lsml_bento.contract import Task
from lsml_bento.diagnostics.check import check_results, sample_tasks
from lsml_bento.errors import LabelConfigError, MediaError
from lsml_bento.model.media import Media, names_a_file

Status = Literal["ok", "warn", "fail"]

_API_TIMEOUT = httpx.Timeout(30, connect=5)
_CONNECT_S = 1.0
_HEALTH_S, _SETUP_S, _PREDICT_S, _WEBHOOK_S = 1.0, 3.0, 100.0, 1.0
_NEW_KEY = (
    "make a personal access token in Label Studio under Account & Settings and set "
    "LABEL_STUDIO_API_KEY to it"
)
_SWITCHES = (
    "start Label Studio with ML_BLOCK_LOCAL_IP=false (else it refuses the backend) and "
    "SSRF_PROTECTION_ENABLED=false (else webhooks vanish without a word)"
)


@dataclass(frozen=True)
class Check:
    """One hop that was tried.

    Attributes:
        name: what was tried, in two or three words.
        status: "fail" breaks something, "warn" may.
        sentence: what was found.
        remedy: what to do; empty if there is nothing.
    """

    name: str
    status: Status
    sentence: str
    remedy: str = ""


@dataclass(frozen=True)
class _Sample:
    """What the replayed calls are made with."""

    project: str
    label_config: str
    task: Task


def diagnose(
    label_studio_url: str | None,
    *,
    api_key: str | SecretStr | None = None,
    media: Media | None = None,
    backend_url: str | None = None,
    project: int | None = None,
    label_config: str | None = None,
    basic_auth: tuple[str, str] | None = None,
    in_container: bool | None = None,
) -> Iterator[Check]:
    """Try every hop, in the order in which they depend on each other.

    Args:
        label_studio_url: ``LABEL_STUDIO_URL``; without it only the backend is tried.
        api_key: ``LABEL_STUDIO_API_KEY``.
        media: downloads one file of the project, as the backend would.
        backend_url: as it is, or would be, entered in Label Studio; it may hold
            ``user:password@``.
        project: its number in Label Studio; the first one with tasks by default.
        label_config: what ``/setup`` and ``/predict`` are tried with where no project
            can be read.
        basic_auth: what is entered in Label Studio beside the backend's URL.
        in_container: whether this process runs in a container; found out by default.
    """
    if isinstance(api_key, SecretStr):
        api_key = api_key.get_secret_value()
    if in_container is None:
        in_container = _in_container()
    key, found = (api_key or "").strip(), _Found()
    if label_studio_url:
        yield from _from_here(
            label_studio_url, key, media, project, in_container, found
        )
    if backend_url:
        yield from _make_sample(label_config, found)
        yield from _from_there(backend_url, label_studio_url, basic_auth, found)


class _Found:
    """What one hop found and a later one needs."""

    sample: _Sample | None = None
    backends: list[dict[str, Any]] | None = None


# From here to Label Studio


def _from_here(
    url: str,
    key: str,
    media: Media | None,
    project: int | None,
    in_container: bool,
    found: _Found,
) -> Iterator[Check]:
    """The hops from the backend to Label Studio."""
    reach = _reach(url, in_container)
    yield reach
    if reach.status == "fail":
        return
    base = url.rstrip("/") + "/"
    with httpx.Client(base_url=base, timeout=_API_TIMEOUT) as http:
        version = _version(http, url)
        yield version
        if version.status == "fail":
            return
        token = _token(http, key)
        yield token
        if token.status == "ok":
            yield from _project(http, media, project, found)


def _reach(url: str, in_container: bool) -> Check:
    name = "reach Label Studio"
    parts = _split(url)
    if parts is None:
        return Check(
            name,
            "fail",
            f"{url!r} is no address",
            "set LABEL_STUDIO_URL to one such as http://192.168.1.5:8080",
        )
    host, port = str(parts.hostname), _port(parts)
    here = "set LABEL_STUDIO_URL to an address that this machine reaches"
    if in_container and _is_loopback(host):
        here = (
            "inside a container localhost is the container itself: set "
            "LABEL_STUDIO_URL to Label Studio's service name, or to "
            f"http://host.docker.internal:{port}"
        )
    try:
        socket.create_connection((host, port), timeout=5).close()
    except socket.gaierror:
        return Check(name, "fail", f"no such host name: {host}", here)
    except OSError as error:
        reason = (
            "no answer in 5 s" if isinstance(error, TimeoutError) else error.strerror
        )
        return Check(name, "fail", f"no connection to {host}:{port}: {reason}", here)
    return Check(name, "ok", f"{host}:{port} accepts connections")


def _version(http: httpx.Client, url: str) -> Check:
    name = "Label Studio's version"
    try:
        answer = http.get("api/version/")
    except httpx.HTTPError as error:
        return Check(
            name,
            "fail",
            f"{_shown(url)} does not speak HTTP as expected: {type(error).__name__}",
            "check http:// or https:// in LABEL_STUDIO_URL",
        )
    if answer.is_redirect:
        to = answer.headers["Location"].removesuffix("/").removesuffix("/api/version")
        return Check(
            name,
            "fail",
            f"{_shown(url)} sends us to {_shown(to)}: the API key does not follow",
            f"set LABEL_STUDIO_URL to {_shown(to)}",
        )
    body = _json(answer)
    if not answer.is_success or not isinstance(body, dict) or "release" not in body:
        return Check(
            name,
            "fail",
            f"{_shown(url)} answers {answer.status_code}, but not as Label Studio does",
            "check the port and the sub-path in LABEL_STUDIO_URL",
        )
    return Check(name, "ok", f"Label Studio {body['release']} answers at {_shown(url)}")


def _token(http: httpx.Client, key: str) -> Check:
    """Whether Label Studio takes the key; leaves it on the client if so."""
    name = "API key"
    if not key:
        return Check(
            name, "warn", "no API key: uploaded files can not be read", _NEW_KEY
        )
    claims = _claims(key)
    try:
        if claims is None:
            http.headers["Authorization"] = f"Token {key}"
        elif (refused := _exchange(http, key, claims)) is not None:
            return refused
        answer = http.get("api/current-user/whoami")
    except httpx.HTTPError as error:
        return Check(name, "fail", f"asking about it failed: {type(error).__name__}")
    if not answer.is_success:
        return _refused(answer, legacy=claims is None)
    kind = "legacy token" if claims is None else "personal access token"
    return Check(name, "ok", f"Label Studio takes the {kind}")


def _refused(answer: httpx.Response, *, legacy: bool) -> Check:
    name = "API key"
    if not legacy:
        return Check(
            name,
            "fail",
            "the personal access token was exchanged, but its access token gets "
            f"{answer.status_code}",
            "have personal access tokens switched on under Organization",
        )
    if "legacy" in str(_json(answer)):
        return Check(
            name,
            "fail",
            "it is a legacy token, and legacy tokens are off in this organization (the "
            "default of new ones)",
            f"{_NEW_KEY}, or have legacy tokens switched on under Organization",
        )
    return Check(
        name,
        "fail",
        f"Label Studio does not know the legacy token ({answer.status_code}): it was "
        "reset, or belongs to another Label Studio",
        _NEW_KEY,
    )


def _exchange(http: httpx.Client, key: str, claims: dict[str, Any]) -> Check | None:
    """Put an access token on the client, or say why there is none."""
    name = "API key"
    if claims.get("token_type") == "access":
        return Check(
            name, "fail", "it is an access token, which lives for minutes", _NEW_KEY
        )
    if float(claims.get("exp") or 0) < time.time():
        return Check(name, "fail", "the personal access token has expired", _NEW_KEY)
    answer = http.post("api/token/refresh/", json={"refresh": key})
    body = _json(answer)
    if not answer.is_success or not isinstance(body, dict) or "access" not in body:
        return Check(
            name,
            "fail",
            f"Label Studio answered {answer.status_code} to the personal access token: "
            "it was revoked, or belongs to another Label Studio",
            _NEW_KEY,
        )
    http.headers["Authorization"] = f"Bearer {body['access']}"
    return None


def _project(
    http: httpx.Client, media: Media | None, number: int | None, found: _Found
) -> Iterator[Check]:
    """Read a project, its tasks and one of its files."""
    try:
        if number is None:
            listed = _json(http.get("api/projects/", params={"page_size": 100}))
            rows = listed.get("results", []) if isinstance(listed, dict) else []
            number = next((row["id"] for row in rows if row.get("task_number")), None)
        check, tasks = _read_project(http, number, found)
    except (httpx.HTTPError, ValueError) as error:
        reason = f"reading it failed: {type(error).__name__}"
        check, tasks = Check("project", "fail", reason), []
    yield check
    if media is not None and tasks:
        yield _one_file(media, tasks)


def _read_project(
    http: httpx.Client, number: int | None, found: _Found
) -> tuple[Check, list[Task]]:
    name = "project"
    if number is None:
        return Check(name, "warn", "no project with tasks was found", "--project"), []
    answer = http.get(f"api/projects/{number}/")
    if not answer.is_success:
        return Check(
            name,
            "fail",
            f"Label Studio answers {answer.status_code} for project {number}",
            "check the number, and that the API key's user is a member of it",
        ), []
    row = answer.json()
    tasks = _json(http.get(f"api/projects/{number}/tasks/", params={"page_size": 50}))
    backends = _json(http.get("api/ml", params={"project": number}))
    found.backends = backends if isinstance(backends, list) else None
    if not isinstance(tasks, list) or not tasks:
        return Check(name, "warn", f"project {number} has no tasks", "import some"), []
    found.sample = _Sample(_key(row), row.get("label_config") or "<View/>", tasks[0])
    return Check(
        name, "ok", f"project {number} ({row.get('title')}) can be read"
    ), tasks


def _one_file(media: Media, tasks: list[Task]) -> Check:
    name = "one media file"
    for task in tasks:
        for url in _files(task.get("data")):
            started = time.perf_counter()
            try:
                path = Path(media.local_path(url, task_id=task.get("id")))
            except MediaError as error:
                return Check(name, "fail", f"task {task.get('id')}: {error}")
            seconds = time.perf_counter() - started
            return Check(
                name,
                "ok",
                f"task {task.get('id')}: {path.stat().st_size} bytes, {seconds:.1f} s",
            )
    return Check(name, "ok", f"none of {len(tasks)} tasks names a file")


def _files(data: Any) -> Iterator[str]:
    if isinstance(data, str) and names_a_file(data):
        yield data
    elif isinstance(data, (dict, list)):
        for value in data.values() if isinstance(data, dict) else data:
            yield from _files(value)


def _key(row: dict[str, Any]) -> str:
    """A project as Label Studio names it to a backend: ``"1.1795426489"``."""
    created = str(row.get("created_at") or "1970-01-01T00:00:00Z").replace(
        "Z", "+00:00"
    )
    return f"{row['id']}.{int(datetime.fromisoformat(created).timestamp())}"


# From Label Studio to the backend


def _make_sample(label_config: str | None, found: _Found) -> Iterator[Check]:
    """Make up a task where no project could be read."""
    if found.sample is not None or not label_config:
        return
    try:
        [task] = sample_tasks(label_config, 1)
        found.sample = _Sample("doctor.0", label_config, task)
    except LabelConfigError as error:
        yield Check("label config", "fail", str(error))


def _from_there(
    url: str,
    label_studio_url: str | None,
    basic_auth: tuple[str, str] | None,
    found: _Found,
) -> Iterator[Check]:
    """The hops from Label Studio to the backend."""
    address = _backend_address(url, label_studio_url)
    yield address
    if address.status != "fail":
        yield from _connected(url, found.backends)
        yield from _replay(url, found.sample, basic_auth)


def _backend_address(url: str, label_studio_url: str | None) -> Check:
    name = "the backend's address"
    parts = _split(url)
    if parts is None:
        return Check(name, "fail", f"{url!r} is no address", "use http://HOST:9090")
    if parts.query or parts.fragment:
        return Check(
            name,
            "fail",
            "Label Studio drops the path of an address with ? or #",
            f"enter {_shown(url)}",
        )
    host = str(parts.hostname)
    try:
        found = {str(a[0]) for *_, a in socket.getaddrinfo(host, _port(parts))}
    except OSError:
        return Check(name, "fail", f"no such host name: {host}", "check it")
    addresses = ", ".join(sorted(found))
    studio = _split(label_studio_url or "")
    if _is_loopback(host) and studio and not _is_loopback(str(studio.hostname)):
        return Check(
            name,
            "fail",
            f"{host} is Label Studio's own machine or container, not this one",
            "enter an address of this machine that Label Studio's machine reaches",
        )
    if all(ipaddress.ip_address(a.partition("%")[0]).is_global for a in found):
        return Check(name, "ok", f"{host} is {addresses}, a public address")
    docker = (
        "; if it runs in Docker, enter http://host.docker.internal:"
        f"{_port(parts)} in place of {host}"
    )
    return Check(
        name,
        "warn",
        f"{host} is {addresses}, which Label Studio 1.23 blocks unless told otherwise",
        _SWITCHES + (docker if _is_loopback(host) else ""),
    )


def _connected(url: str, backends: list[dict[str, Any]] | None) -> Iterator[Check]:
    """What Label Studio itself says, which asks every backend when it is read."""
    name = "connected"
    if backends is None:
        return
    asked = [b for b in backends if str(b.get("url")).rstrip("/") == url.rstrip("/")]
    if not asked:
        yield Check(
            name,
            "warn",
            f"the project has {len(backends)} backends, and none is {_shown(url)}",
            "connect it in Label Studio under Settings > Model",
        )
        return
    if asked[0] is not backends[0]:
        yield Check(
            name,
            "warn",
            f"Label Studio asks the project's first backend only: {backends[0]['url']}",
            "remove the others",
        )
    state, reason = asked[0].get("state"), asked[0].get("error_message")
    if state in ("DI", "ER"):
        words = "Disconnected" if state == "DI" else f"Error: {reason}"
        yield Check(name, "fail", f"Label Studio says {words}", _SWITCHES)
    else:
        yield Check(name, "ok", "Label Studio says Connected")


def _replay(
    url: str, sample: _Sample | None, basic_auth: tuple[str, str] | None
) -> Iterator[Check]:
    """The calls of Label Studio, in its order, each with its own limit."""
    base = url.rstrip("/") + "/"
    with httpx.Client(base_url=base, trust_env=False, follow_redirects=True) as http:
        health, _ = _call(http, "GET", "health", None, _HEALTH_S, basic_auth)
        yield health
        if health.status == "fail":
            return
        version: object = None
        if sample is None:
            yield Check(
                "/setup and /predict",
                "warn",
                "not tried, as no project could be read",
                "give --project, LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY",
            )
        else:
            setup = {
                "project": sample.project,
                "schema": sample.label_config,
                "hostname": "http://localhost:8080",
                "access_token": "doctor",
                "extra_params": None,
            }
            check, body = _call(http, "POST", "setup", setup, _SETUP_S, basic_auth)
            if check.status != "fail":
                version = body.get("model_version") if isinstance(body, dict) else None
                check = _judge_setup(check, version)
            yield check
        event = {"action": "LSML_DOCTOR", "project": {"id": 0}}
        check, _ = _call(http, "POST", "webhook", event, _WEBHOOK_S, None)
        yield check
        if sample is not None and version:
            yield _predict(http, sample, version, basic_auth)


def _judge_setup(check: Check, version: object) -> Check:
    if isinstance(version, str) and version:
        return replace(check, sentence=f"{check.sentence}, model version {version}")
    return Check(
        check.name,
        "fail",
        f"it answers without a model_version: {version!r}",
        "answer a JSON object with a model_version that is a text",
    )


def _predict(
    http: httpx.Client,
    sample: _Sample,
    version: object,
    basic_auth: tuple[str, str] | None,
) -> Check:
    params = {"login": None, "password": None, "context": None}
    asked = {
        "tasks": [sample.task],
        "project": sample.project,
        "label_config": sample.label_config,
        "params": params,
    }
    check, body = _call(http, "POST", "predict", asked, _PREDICT_S, basic_auth)
    results = body.get("results") if isinstance(body, dict) else None
    return check if check.status == "fail" else _judge(check, sample, version, results)


def _judge(check: Check, sample: _Sample, version: object, results: object) -> Check:
    """What Label Studio would do with the results."""
    run = "run `lsml-bento check DIR`"
    if not isinstance(results, list) or not results:
        reason = "it answers without a list of results: Label Studio saves nothing"
        return Check(check.name, "fail", reason, run)
    try:
        findings = check_results(sample.label_config, results, [sample.task])
    except LabelConfigError as error:
        return Check(check.name, "fail", str(error), "correct it in Label Studio")
    errors = [f.sentence for f in findings if f.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return Check(check.name, "fail", errors[0] + more, run)
    named = {str(p.get("model_version", version)) for p in _flat(results)}
    if named - {str(version)}:
        return Check(
            check.name,
            "warn",
            f"its model version is {', '.join(sorted(named))}, /setup's is {version}: "
            "Label Studio adds the same predictions at every retrieval",
            "answer the same model_version in both",
        )
    return check


def _flat(results: list[Any]) -> list[dict[str, Any]]:
    lists = [entry if isinstance(entry, list) else [entry] for entry in results]
    return [one for entry in lists for one in entry if isinstance(one, dict)]


def _call(
    http: httpx.Client,
    method: str,
    path: str,
    body: object,
    limit_s: float,
    basic_auth: tuple[str, str] | None,
) -> tuple[Check, Any]:
    """One call as Label Studio makes it, and the JSON of the answer."""
    name = f"{method} /{path}"
    limits = httpx.Timeout(limit_s, connect=_CONNECT_S)
    auth = basic_auth or httpx.USE_CLIENT_DEFAULT
    agent = {"User-Agent": "heartex/doctor"}
    started = time.perf_counter()
    try:
        answer = http.request(
            method, path, json=body, timeout=limits, auth=auth, headers=agent
        )
    except httpx.ConnectTimeout:
        reason = f"no connection in {_CONNECT_S:g} s"
        return Check(name, "fail", reason, "is it up?"), None
    except httpx.TimeoutException:
        return _too_slow(name, limit_s), None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"the connection failed: {type(error).__name__}"
        return Check(name, "fail", reason, "is the backend up, its port open?"), None
    seconds = time.perf_counter() - started
    if seconds > limit_s:
        return _too_slow(name, limit_s), None
    content = _json(answer)
    return _judge_answer(name, path, answer, content, seconds), content


def _judge_answer(
    name: str, path: str, answer: httpx.Response, content: Any, seconds: float
) -> Check:
    if answer.status_code == 401:
        return _unauthorized(name, path)
    if not answer.is_success:
        said = content.get("error") if isinstance(content, dict) else None
        reason = f"it answers {answer.status_code}" + (f": {said}" if said else "")
        return Check(name, "fail", reason, "read the backend's log")
    if content is None and path != "webhook":
        return Check(name, "fail", "its answer is not JSON", "is it an ML backend?")
    return Check(name, "ok", f"{answer.status_code} in {seconds * 1000:.0f} ms")


def _too_slow(name: str, limit_s: float) -> Check:
    reason = f"no answer in {limit_s:g} s, after which Label Studio hangs up"
    remedy = "look what keeps the backend busy: `lsml-bento check DIR` times the model"
    return Check(name, "fail", reason, remedy)


def _unauthorized(name: str, path: str) -> Check:
    if path == "webhook":
        return Check(
            name,
            "fail",
            "it answers 401: Label Studio sends no basic auth with its webhooks",
            "connect it as http://USER:PASSWORD@HOST:PORT, or give the webhook a "
            "header in Label Studio under Settings > Webhooks",
        )
    return Check(
        name,
        "fail",
        "it answers 401: user and password are missing or wrong",
        "enter BASIC_AUTH_USER and BASIC_AUTH_PASS in Label Studio beside its address",
    )


# Addresses and answers


def _split(url: str) -> SplitResult | None:
    """The parts of an http address, None for anything else."""
    try:
        parts = urlsplit(url.strip())
        _port(parts)
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def _port(parts: SplitResult) -> int:
    """The port, the scheme's own where none is named."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def _in_container() -> bool:
    """Whether this process runs in Docker or Kubernetes."""
    return Path("/.dockerenv").exists() or "KUBERNETES_SERVICE_HOST" in os.environ


def _is_loopback(host: str) -> bool:
    """Whether a host name or address means the machine itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=netloc, query="", fragment="").geturl()


def _json(answer: httpx.Response) -> Any:
    """The body, None if it is not JSON."""
    try:
        return answer.json()
    except ValueError:
        return None


def _claims(key: str) -> dict[str, Any] | None:
    """What a personal access token says of itself; None for a legacy token."""
    try:
        payload = key.split(".")[1]
        claims = json.loads(
            base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        )
    except (IndexError, ValueError, binascii.Error):
        return None
    return claims if isinstance(claims, dict) else None
