"""From Label Studio to the backend: its address, and the calls that it would get.

The calls of Label Studio are replayed with its own time limits.

Source: Label Studio 1.23.2 ``ml/api_connector.py``, ``ml/serializers.py``,
``webhooks/utils.py``, ``jwt_auth/auth.py``
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import httpx

from lsml_bento.diagnostics.connection import (
    Check,
    SampleProject,
    is_loopback,
    json_of,
    port_of,
    split_url,
    without_secrets,
)
from lsml_bento.diagnostics.results import check_results
from lsml_bento.errors import LabelConfigError

CONNECT_S = 1.0
HEALTH_S, SETUP_S, PREDICT_S, WEBHOOK_S = 1.0, 3.0, 100.0, 1.0
"""Label Studio's time limits, with the default settings of 1.23.2."""

_ALLOW_LOCAL = (
    "start Label Studio with ML_BLOCK_LOCAL_IP=false (otherwise it rejects the "
    "backend) and SSRF_PROTECTION_ENABLED=false (otherwise webhooks are dropped "
    "without an error)"
)


def check_backend(
    url: str,
    label_studio_url: str | None,
    basic_auth: tuple[str, str] | None,
    project: SampleProject | None,
) -> Iterator[Check]:
    """Yield the checks up to the first that fails.

    URL, user and password are as entered in Label Studio. Without a task of the
    project, ``/setup`` and ``/predict`` are not called.
    """
    address = check_address(url, label_studio_url)
    yield address
    if address.status != "fail":
        if project is not None and project.backends is not None:
            yield from _check_connected(url, project.backends)
        sample = project if project is not None and project.tasks else None
        yield from _replay(url, sample, basic_auth)


def check_address(url: str, label_studio_url: str | None) -> Check:
    """Whether Label Studio can resolve the backend's URL and would accept it."""
    check = partial(Check, "the backend's address")
    parts = split_url(url)
    if parts is None:
        return check("fail", f"{url!r} is not an HTTP URL", "use http://HOST:9090")
    if parts.query or parts.fragment:
        return check(
            "fail",
            "Label Studio drops the path of a URL with ? or #",
            f"enter {without_secrets(url)}",
        )
    host = str(parts.hostname)
    try:
        found = {str(a[0]) for *_, a in socket.getaddrinfo(host, port_of(parts))}
    except OSError:
        return check("fail", f"unknown host name: {host}", "check the host name")
    addresses = ", ".join(sorted(found))
    studio = split_url(label_studio_url or "")
    if is_loopback(host) and studio and not is_loopback(str(studio.hostname)):
        return check(
            "fail",
            f"for Label Studio, {host} is its own machine or container, not this one",
            "enter an address of this machine that Label Studio can reach",
        )
    if all(ipaddress.ip_address(a.partition("%")[0]).is_global for a in found):
        return check("ok", f"{host} is {addresses}, a public address")
    docker = (
        "; if it runs in Docker, enter http://host.docker.internal:"
        f"{port_of(parts)} instead of {host}"
    )
    return check(
        "warn",
        f"{host} is {addresses}, which Label Studio 1.23 blocks by default",
        _ALLOW_LOCAL + (docker if is_loopback(host) else ""),
    )


def _check_connected(url: str, backends: list[dict[str, Any]]) -> Iterator[Check]:
    """The state in Label Studio, which it updates when its backends are listed."""
    check = partial(Check, "connected")
    listed = [b for b in backends if str(b.get("url")).rstrip("/") == url.rstrip("/")]
    if not listed:
        yield check(
            "warn",
            f"{without_secrets(url)} is none of the project's {len(backends)} backends",
            "connect it in Label Studio under Settings > Model",
        )
        return
    if listed[0] is not backends[0]:
        yield check(
            "warn",
            f"Label Studio calls only the first backend, {backends[0]['url']}",
            "remove the others",
        )
    state, reason = listed[0].get("state"), listed[0].get("error_message")
    if state in ("DI", "ER"):
        shown = "Disconnected" if state == "DI" else f"Error: {reason}"
        yield check("fail", f"Label Studio shows {shown}", _ALLOW_LOCAL)
    else:
        yield check("ok", "Label Studio shows Connected")


def _replay(
    url: str, sample: SampleProject | None, basic_auth: tuple[str, str] | None
) -> Iterator[Check]:
    """Make the calls of Label Studio, in its order and with its time limits."""
    base = url.rstrip("/") + "/"
    with httpx.Client(base_url=base, trust_env=False, follow_redirects=True) as http:
        health, _ = _call(http, "GET", "health", None, HEALTH_S, basic_auth)
        yield health
        if health.status == "fail":
            return
        version: object = None
        if sample is None:
            yield Check(
                "/setup and /predict",
                "warn",
                "not called, as no project could be read",
                "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, or pass --label-config",
            )
        else:
            setup = {
                "project": sample.key,
                "schema": sample.label_config,
                "hostname": "http://localhost:8080",
                "access_token": "doctor",
                "extra_params": None,
            }
            check, body = _call(http, "POST", "setup", setup, SETUP_S, basic_auth)
            if check.status != "fail":
                version = body.get("model_version") if isinstance(body, dict) else None
                check = _check_setup(check, version)
            yield check
        event = {"action": "LSML_DOCTOR", "project": {"id": 0}}
        check, _ = _call(http, "POST", "webhook", event, WEBHOOK_S, None)
        yield check
        if sample is not None and version:
            yield _predict(http, sample, version, basic_auth)


def _check_setup(check: Check, version: object) -> Check:
    if isinstance(version, str) and version:
        return replace(check, message=f"{check.message}, model version {version}")
    return Check(
        check.name,
        "fail",
        f"the answer has no valid model_version: {version!r}",
        "return a JSON object with a string model_version",
    )


def _predict(
    http: httpx.Client,
    sample: SampleProject,
    version: object,
    basic_auth: tuple[str, str] | None,
) -> Check:
    body = {
        "tasks": sample.tasks[:1],
        "project": sample.key,
        "label_config": sample.label_config,
        "params": {"login": None, "password": None, "context": None},
    }
    check, answer = _call(http, "POST", "predict", body, PREDICT_S, basic_auth)
    if check.status == "fail":
        return check
    results = answer.get("results") if isinstance(answer, dict) else None
    return _check_results(check, sample, version, results)


def _check_results(
    ok: Check, sample: SampleProject, version: object, results: object
) -> Check:
    """Whether Label Studio would accept the results."""
    check, remedy = partial(Check, ok.name), "run `lsml-bento check DIR`"
    if not isinstance(results, list) or not results:
        reason = "the answer has no list of results: Label Studio saves nothing"
        return check("fail", reason, remedy)
    try:
        findings = check_results(sample.label_config, results, sample.tasks[:1])
    except LabelConfigError as error:
        return check("fail", str(error), "fix it in Label Studio")
    errors = [f.message for f in findings if f.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return check("fail", errors[0] + more, remedy)
    # All results are predictions or lists of predictions, as there were no errors.
    lists = [entry if isinstance(entry, list) else [entry] for entry in results]
    named = {str(p.get("model_version", version)) for ps in lists for p in ps}
    if named == {str(version)} or not named:
        return ok
    return check(
        "warn",
        f"its model version is {', '.join(sorted(named))}, /setup's is {version}: "
        "Label Studio adds the same predictions at every retrieval",
        "return the same model_version in both",
    )


def _call(
    http: httpx.Client,
    method: str,
    path: str,
    body: object,
    limit_s: float,
    basic_auth: tuple[str, str] | None,
) -> tuple[Check, Any]:
    """Make one call as Label Studio does. Returns the check and the answer's JSON."""
    check = partial(Check, f"{method} /{path}")
    limits = httpx.Timeout(limit_s, connect=CONNECT_S)
    auth = basic_auth or httpx.USE_CLIENT_DEFAULT
    agent = {"User-Agent": "heartex/doctor"}
    too_slow = check(
        "fail",
        f"no answer within {limit_s:g} s, when Label Studio gives up",
        "find out what is slow: `lsml-bento check DIR` measures the model",
    )
    started = time.perf_counter()
    try:
        answer = http.request(
            method, path, json=body, timeout=limits, auth=auth, headers=agent
        )
    except httpx.ConnectTimeout:
        reason = f"no connection within {CONNECT_S:g} s"
        return check("fail", reason, "is the backend running?"), None
    except httpx.TimeoutException:
        return too_slow, None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"the connection failed: {type(error).__name__}"
        return check("fail", reason, "is the backend running, its port open?"), None
    seconds, content = time.perf_counter() - started, json_of(answer)
    if seconds > limit_s:
        return too_slow, None
    if (problem := _problem(path, answer, content)) is not None:
        return check("fail", *problem), content
    return check("ok", f"{answer.status_code} in {seconds * 1000:.0f} ms"), content


def _problem(path: str, answer: httpx.Response, content: Any) -> tuple[str, str] | None:
    """What is wrong with an answer, and the remedy."""
    if answer.status_code == 401 and path == "webhook":
        return (
            "the backend answers 401: Label Studio sends webhooks without Basic auth",
            "connect the backend as http://USER:PASSWORD@HOST:PORT, or add a header to "
            "the webhook in Label Studio under Settings > Webhooks",
        )
    if answer.status_code == 401:
        return (
            "the backend answers 401: user and password are missing or wrong",
            "enter BASIC_AUTH_USER and BASIC_AUTH_PASS in Label Studio with its URL",
        )
    if not answer.is_success:
        error = content.get("error") if isinstance(content, dict) else None
        reason = f": {error}" if error else ""
        return f"the backend answers {answer.status_code}{reason}", "see its log"
    if content is None and path != "webhook":
        return "the answer is not JSON", "is it an ML backend?"
    return None
