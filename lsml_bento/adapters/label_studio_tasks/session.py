"""Questions to Label Studio's API: asked again after trouble that passes."""

from __future__ import annotations

import logging
import re
import threading
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx
from label_studio_sdk._extensions.label_studio_tools.core.utils import io as sdk_io
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.client_wrapper import SyncClientWrapper
from pydantic import SecretStr

from lsml_bento.errors import TrainingError

log = logging.getLogger(__name__)

ODD = "check that LABEL_STUDIO_URL is a Label Studio, its sub-path included"

_TIMEOUT_S = (5.0, 30.0)  # connect, and between two chunks
_PAUSES_S = (0.5, 15.0)  # the first one, doubled up to the last
_ADDRESS = re.compile(r"https?://[^/\s?#\[]|https?://\[[0-9a-fA-F:.]+\]")
_USER = re.compile(r"//[^/]*@")
_RENEW = (
    "it refuses the personal access token in LABEL_STUDIO_API_KEY, which was revoked "
    "or has expired: make a new one under Account & Settings"
)
_REMEDIES = {
    401: "it refuses LABEL_STUDIO_API_KEY; legacy tokens are off in new organizations: "
    "make a personal access token under Account & Settings",
    403: "make the user of LABEL_STUDIO_API_KEY a member of the project",
    404: "check that LABEL_STUDIO_URL, its sub-path included, is the Label Studio of "
    "this project, and that the user of LABEL_STUDIO_API_KEY sees it",
    429: "ask for a higher rate limit, or train less often",
}


class _Trouble(NamedTuple):
    """Why one request got nothing.

    Attributes:
        found: what Label Studio did.
        remedy: what to do about it.
        passes: whether asking again may help.
        wait_s: how long Label Studio asks to wait.
        slow: whether asking for less may help.
        access: whether a new access token may help.
    """

    found: str
    remedy: str
    passes: bool = False
    wait_s: float | None = None
    slow: bool = False
    access: bool = False


class _Refused(Exception):
    """Raised when a status is known, before the SDK reads and parses the body."""

    def __init__(self, trouble: _Trouble) -> None:
        self.trouble = trouble
        super().__init__(trouble.found)


class Session:
    """One Label Studio, and the key that only it gets."""

    def __init__(self, url: str, key: SecretStr, patience_s: float) -> None:
        self._url = _USER.sub("//", url.strip()).rstrip("/")
        self._key = key
        self._patience_s = patience_s
        self._wrapper: SyncClientWrapper | None = None
        self._lock = threading.Lock()

    def get(self, asked: str, path: str, query: dict[str, Any]) -> Any:
        """The JSON of an answer.

        Args:
            asked: what is read, for messages.
            path: below the URL.
            query: its ``page_size`` is halved when an answer takes too long.

        Raises:
            TrainingError: if there is none in time, or asking again does not help.
        """
        started, pause, renewed = time.monotonic(), _PAUSES_S[0], False
        while True:
            answer = self._attempt(path, query)
            if not isinstance(answer, _Trouble):
                return answer
            if answer.access and not renewed and self._forget_access():
                renewed = True
                continue
            waited = time.monotonic() - started
            left = self._patience_s - waited
            wait = min(pause, left) if answer.wait_s is None else answer.wait_s
            if not answer.passes or left <= 0 or wait > left:
                # Not inside an except: the errors there hold requests with the key.
                after = f", for {waited:.0f} s" if answer.passes else ""
                raise self.error(asked, answer.found + after, answer.remedy)
            if answer.slow and query.get("page_size", 1) > 1:
                query["page_size"] //= 2
            log.warning(
                "%s: Label Studio %s; asking again in %.1f s", asked, answer.found, wait
            )
            time.sleep(wait)
            pause = min(2 * pause, _PAUSES_S[1])

    def error(self, asked: str, found: str, remedy: str) -> TrainingError:
        """What to raise: asked for something, found something else, and what to do."""
        return TrainingError(
            f"{asked} can not be read: Label Studio at {self._url} {found}; {remedy}"
        )

    def close(self) -> None:
        """Close the connections; the next question opens new ones."""
        with self._lock:
            wrapper, self._wrapper = self._wrapper, None
        if wrapper is not None:
            wrapper.httpx_client.httpx_client.close()

    def _attempt(self, path: str, query: dict[str, Any]) -> Any:
        """JSON, or a ``_Trouble``."""
        try:
            http = self._open().httpx_client
            return http.request(path, method="GET", params=query).json()
        except _Refused as refused:
            return refused.trouble
        except httpx.HTTPError as error:
            return _transport_trouble(error)
        except httpx.InvalidURL:
            return _transport_trouble(httpx.UnsupportedProtocol(""))
        except UnicodeError:
            return _transport_trouble(httpx.LocalProtocolError(""))
        except ApiError:
            return _Trouble("was not asked", _RENEW)
        except ValueError:
            return _Trouble("answered with something that is not its JSON", ODD)

    def _open(self) -> SyncClientWrapper:
        with self._lock:
            if self._wrapper is None:
                if not _ADDRESS.match(self._url):
                    raise httpx.InvalidURL(self._url)
                # Redirects would carry a personal access token along in a body.
                connect, read = _TIMEOUT_S
                http = httpx.Client(
                    timeout=httpx.Timeout(read, connect=connect),
                    verify=bool(sdk_io.VERIFY_SSL),
                    follow_redirects=False,
                    event_hooks={"response": [_check]},
                )
                try:
                    self._wrapper = SyncClientWrapper(
                        api_key=self._key.get_secret_value().strip(),
                        base_url=self._url + "/",
                        max_retries=0,
                        httpx_client=http,
                    )
                except BaseException:
                    http.close()
                    raise
            return self._wrapper

    def _forget_access(self) -> bool:
        """Make the next request exchange the token anew; False for a legacy token."""
        with self._lock:
            if self._wrapper is None or self._wrapper._tokens_client._use_legacy_token:
                return False
            self._wrapper._tokens_client._access_token = None
            return True


def _check(response: httpx.Response) -> None:
    """Refuse every answer but 200."""
    status = response.status_code
    if status == 200:
        return
    found = f"answered {status}"
    if 300 <= status < 400:
        to = _USER.sub("//", response.headers.get("Location", "").partition("?")[0])
        remedy = "set LABEL_STUDIO_URL to where it answers by itself"
        raise _Refused(_Trouble(f"{found}, a redirect to {to[:200]!r}", remedy))
    exchange = response.request.method == "POST"
    if exchange:
        found += " to the exchange of a personal access token"
        if status in {400, 401, 403}:
            raise _Refused(_Trouble(found, _RENEW))
    wait_s = _seconds_of(response.headers.get("Retry-After", ""))
    if wait_s is not None:
        found += f", asking to wait {wait_s:.0f} s"
    raise _Refused(
        _Trouble(
            found,
            _REMEDIES.get(status, "see its log"),
            passes=status in {408, 429} or status >= 500,
            wait_s=wait_s,
            slow=status in {408, 504},
            access=status == 401 and not exchange,
        )
    )


def _transport_trouble(error: httpx.HTTPError) -> _Trouble:
    if isinstance(error, httpx.TimeoutException):
        found = f"did not answer in {_TIMEOUT_S[1]:g} s"
        return _Trouble(found, "see its log", passes=True, slow=True)
    if isinstance(error, httpx.UnsupportedProtocol):
        remedy = "set LABEL_STUDIO_URL to an address with http:// or https://"
        return _Trouble("was not asked", remedy)
    if isinstance(error, httpx.LocalProtocolError):
        remedy = "copy LABEL_STUDIO_API_KEY anew: it holds characters that no key has"
        return _Trouble("was not asked", remedy)
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        remedy = "set SSL_CERT_FILE to the certificates that it is signed with"
        return _Trouble("has a certificate that is not trusted", remedy)
    # Only what a connection says of itself: a proxy's error may hold its password.
    why = str(error) if type(error) is httpx.ConnectError else type(error).__name__
    return _Trouble(
        f"can not be reached ({why})", "check LABEL_STUDIO_URL", passes=True
    )


def _seconds_of(retry_after: str) -> float | None:
    """The header's seconds, or those until its date."""
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
