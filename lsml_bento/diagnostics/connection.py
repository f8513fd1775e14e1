"""What the checks of a connection have in common."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import httpx

from lsml_bento.contract import Task

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: what was checked, in two or three words.
        status: "fail" if something does not work, "warn" if it may not.
        message: what was found.
        remedy: what to do; empty if there is nothing to do.
    """

    name: str
    status: Status
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class SampleProject:
    """The project that the backend is called with.

    Attributes:
        key: its name in Label Studio's calls, e.g. ``"1.1795426489"``.
        label_config: its XML.
        tasks: the first of them.
        backends: those connected to it; None if unknown.
    """

    key: str
    label_config: str
    tasks: list[Task]
    backends: list[dict[str, Any]] | None = None


def split_url(url: str) -> SplitResult | None:
    """The parts of an HTTP URL, or None if it is not one."""
    try:
        parts = urlsplit(url.strip())
        port_of(parts)
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def port_of(parts: SplitResult) -> int:
    """The port of a URL, by default that of its scheme."""
    return parts.port or (443 if parts.scheme == "https" else 80)


def is_loopback(host: str) -> bool:
    """Whether a host name or an address means the machine itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_secrets(url: str) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=netloc, query="", fragment="").geturl()


def json_of(answer: httpx.Response) -> Any:
    """The body of an answer, or None if it is not JSON."""
    try:
        return answer.json()
    except ValueError:
        return None
