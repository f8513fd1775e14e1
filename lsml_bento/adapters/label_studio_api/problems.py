"""Why a request to Label Studio failed, and whether it may have been carried out."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpx

CHECK_URL = "check that LABEL_STUDIO_URL is a Label Studio, its sub-path included"
USER = re.compile(r"//[^/]*@")
_EXCHANGE = "/api/token/refresh/"
_DONE = {"GET": {200}, "POST": {200, 201}, "DELETE": {200, 204}}
EXPIRED = (
    "it refuses the personal access token in LABEL_STUDIO_API_KEY, which was revoked "
    "or has expired: create a new one under Account & Settings"
)
_REMEDIES = {
    401: "it refuses LABEL_STUDIO_API_KEY; legacy tokens are off in new organizations: "
    "create a personal access token under Account & Settings",
    403: "make the user of LABEL_STUDIO_API_KEY a member of the project",
    404: "check that LABEL_STUDIO_URL, its sub-path included, is the Label Studio of "
    "this project, and that the user of LABEL_STUDIO_API_KEY sees it",
    429: "ask for a higher rate limit",
}


class Problem(NamedTuple):
    """Why one request failed.

    Attributes:
        found: what Label Studio did.
        remedy: what to do about it.
        status: of the answer; None if there was none.
        passes: whether a retry may help.
        undone: whether it is certain that nothing was changed.
        wait_s: seconds to wait, from ``Retry-After``.
        slow: whether a smaller page may help.
        access: whether a new access token may help.
    """

    found: str
    remedy: str
    status: int | None = None
    passes: bool = False
    undone: bool = True
    wait_s: float | None = None
    slow: bool = False
    access: bool = False


class ProblemFound(Exception):
    """Raised for an error status, before the SDK reads and parses the body."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.found)


def check(response: httpx.Response) -> None:
    """Raise a problem for every status that does not mean success."""
    status, request = response.status_code, response.request
    exchange = _exchanges(request)
    if status in ({200} if exchange else _DONE[request.method]):
        return
    found = f"answered {status}"
    if 300 <= status < 400:
        to = USER.sub("//", response.headers.get("Location", "").partition("?")[0])
        remedy = "set LABEL_STUDIO_URL to the address that does not redirect"
        raise ProblemFound(
            Problem(f"{found}, a redirect to {to[:200]!r}", remedy, status)
        )
    if exchange:
        found += " to the exchange of a personal access token"
        if status in {400, 401, 403}:
            raise ProblemFound(Problem(found, EXPIRED, status))
    wait_s = _seconds_of(response.headers.get("Retry-After", ""))
    if wait_s is not None:
        found += f", asking to wait {wait_s:.0f} s"
    raise ProblemFound(
        Problem(
            found,
            _REMEDIES.get(status, "see its log"),
            status,
            passes=status in {408, 429} or status >= 500,
            undone=exchange or (400 <= status < 500 and status != 408),
            wait_s=wait_s,
            slow=status in {408, 504},
            access=status == 401 and not exchange,
        )
    )


def _exchanges(request: httpx.Request) -> bool:
    """Whether a request only exchanges a token for an access token."""
    return request.url.path.endswith(_EXCHANGE)


_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
)


def transport_problem(error: httpx.HTTPError) -> Problem:
    """Return the problem if there was no answer."""
    if isinstance(error, httpx.UnsupportedProtocol):
        remedy = "set LABEL_STUDIO_URL to an address with http:// or https://"
        return Problem("was not asked", remedy)
    if isinstance(error, httpx.LocalProtocolError):
        remedy = "copy LABEL_STUDIO_API_KEY again: it holds invalid characters"
        return Problem("was not asked", remedy)
    undone = isinstance(error, _UNSENT) or _exchanges(error.request)
    if isinstance(error, httpx.TimeoutException):
        which = "connect" if isinstance(error, httpx.ConnectTimeout) else "read"
        found = f"did not answer in {error.request.extensions['timeout'][which]:g} s"
        slow = isinstance(error, httpx.ReadTimeout)
        return Problem(found, "see its log", passes=True, undone=undone, slow=slow)
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        remedy = "set SSL_CERT_FILE to the certificates that it is signed with"
        return Problem("has a certificate that is not trusted", remedy)
    # Not the text of other errors: that of a proxy may hold its password.
    why = str(error) if type(error) is httpx.ConnectError else type(error).__name__
    found = f"cannot be reached ({why})"
    return Problem(found, "check LABEL_STUDIO_URL", passes=True, undone=undone)


def _seconds_of(retry_after: str) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which may be a date."""
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())
