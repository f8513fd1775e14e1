"""Send requests to Label Studio's API, and retry them after temporary problems.

A request that changes something is only sent again if it is certain that nothing was
changed: the connection was refused, or the answer was 401 or 429.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from typing import Any

import httpx
from label_studio_sdk._extensions.label_studio_tools.core.utils import io as sdk_io
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.client_wrapper import SyncClientWrapper
from pydantic import SecretStr

from lsml_bento.adapters.label_studio_api.problems import (
    CHECK_URL,
    EXPIRED,
    USER,
    Problem,
    ProblemFound,
    check,
    transport_problem,
)
from lsml_bento.errors import LsmlError, TrainingError

log = logging.getLogger(__name__)

_TIMEOUT_S = (5.0, 30.0)  # Connect, and between two chunks.
_CHANGE_TIMEOUT_S = 120.0  # Storing 500 predictions may take long.
_PAUSES_S = (0.5, 15.0)  # The first pause is doubled up to the last.
_PAUSES = 60  # A long time limit allows longer pauses: up to 1/60 of it.
_ADDRESS = re.compile(r"https?://[^/\s?#\[]|https?://\[[0-9a-fA-F:.]+\]")


class Session:
    """A connection to one Label Studio, which alone gets the key.

    Args:
        url: of Label Studio, with its sub-path if it has one.
        key: a personal access token or a legacy token.
        patience_s: how long a request is retried.
        refused: class of errors that a retry does not help.
        away: class of errors if Label Studio does not answer in time.
    """

    def __init__(
        self,
        url: str,
        key: SecretStr | str,
        patience_s: float,
        *,
        refused: type[LsmlError] = TrainingError,
        away: type[LsmlError] = TrainingError,
    ) -> None:
        self._url = USER.sub("//", url.strip()).rstrip("/")
        self._key = SecretStr(key) if isinstance(key, str) else key
        self._patience_s = patience_s
        self._refused, self._away = refused, away
        self._wrapper: SyncClientWrapper | None = None
        self._lock = threading.Lock()

    def get(
        self,
        asked: str,
        path: str,
        query: dict[str, Any],
        patience_s: float | None = None,
    ) -> Any:
        """Return the JSON of an answer.

        Args:
            asked: what is read, for messages.
            path: below the URL.
            query: its ``page_size`` is halved when an answer takes too long.
            patience_s: overrides the session's.

        Raises:
            LsmlError: of the session's classes, if there is no answer in time, or a
                retry does not help.
        """
        answer = self.ask(asked, path, query, patience_s=patience_s)
        if isinstance(answer, Problem):
            # Not inside an except: the errors there hold requests with the key.
            raise self.failure(asked, answer)
        return answer

    def ask(
        self,
        asked: str,
        path: str,
        query: dict[str, Any],
        *,
        method: str = "GET",
        body: Any = None,
        patience_s: float | None = None,
    ) -> Any:
        """Return the JSON of an answer, None if it is empty, or a lasting ``Problem``.

        A ``POST`` is not sent again if the first one may have been carried out.
        """
        patience_s = self._patience_s if patience_s is None else patience_s
        longest_s = max(_PAUSES_S[1], patience_s / _PAUSES)
        started, pause, renewed = time.monotonic(), _PAUSES_S[0], False
        while True:
            answer = self._attempt(method, path, query, body)
            if not isinstance(answer, Problem):
                return answer
            if answer.access and not renewed and self._forget_access():
                renewed = True
                continue
            if not answer.passes or (method == "POST" and not answer.undone):
                return answer
            waited = time.monotonic() - started
            left = patience_s - waited
            wait = min(pause, left) if answer.wait_s is None else answer.wait_s
            if left <= 0 or wait > left:
                after = f", for {waited:.0f} s" if patience_s else ""
                return answer._replace(found=answer.found + after)
            if answer.slow and query.get("page_size", 1) > 1:
                query["page_size"] //= 2
            log.warning(
                "Label Studio %s; retrying in %.1f s: %s", answer.found, wait, asked
            )
            time.sleep(wait)
            pause = min(2 * pause, longest_s)

    def failure(self, asked: str, problem: Problem, verb: str = "read") -> LsmlError:
        """Return the error to raise for a lasting problem."""
        kind = self._away if problem.passes else self._refused
        return self.error(asked, problem.found, problem.remedy, verb=verb, kind=kind)

    def error(
        self,
        asked: str,
        found: str,
        remedy: str,
        *,
        verb: str = "read",
        kind: type[LsmlError] | None = None,
    ) -> LsmlError:
        """Return an error: what was asked, what Label Studio did, and what to do."""
        said = f"Label Studio at {self._url} {found}; {remedy}"
        return (kind or self._refused)(f"{asked} cannot be {verb}: {said}")

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            wrapper, self._wrapper = self._wrapper, None
        if wrapper is not None:
            wrapper.httpx_client.httpx_client.close()

    def _attempt(self, method: str, path: str, query: dict[str, Any], body: Any) -> Any:
        """Send a request once; return JSON, None or a ``Problem``."""
        options: Any = {}
        if method != "GET":
            timeout = httpx.Timeout(_CHANGE_TIMEOUT_S, connect=_TIMEOUT_S[0])
            options["request_options"] = {"timeout": timeout}
        if body is not None:
            options["content"] = json.dumps(body, allow_nan=False).encode()
            options["headers"] = {"Content-Type": "application/json"}
        try:
            http = self._open().httpx_client
            response = http.request(path, method=method, params=query, **options)
            return response.json() if response.content else None
        except ProblemFound as refusal:
            return refusal.problem
        except httpx.HTTPError as error:
            return transport_problem(error)
        except httpx.InvalidURL:
            return transport_problem(httpx.UnsupportedProtocol(""))
        except UnicodeError:
            return transport_problem(httpx.LocalProtocolError(""))
        except ApiError:
            return Problem("was not asked", EXPIRED)
        except ValueError:
            found = "answered with something that is not its JSON"
            return Problem(found, CHECK_URL, undone=method == "GET")

    def _open(self) -> SyncClientWrapper:
        with self._lock:
            if self._wrapper is None:
                if not _ADDRESS.match(self._url):
                    raise httpx.InvalidURL(self._url)
                # A redirect would pass on a personal access token in a body.
                connect, read = _TIMEOUT_S
                http = httpx.Client(
                    timeout=httpx.Timeout(read, connect=connect),
                    verify=bool(sdk_io.VERIFY_SSL),
                    follow_redirects=False,
                    event_hooks={"response": [check]},
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
        """Drop the access token; return False for a legacy token, which has none."""
        with self._lock:
            if self._wrapper is None or self._wrapper._tokens_client._use_legacy_token:
                return False
            self._wrapper._tokens_client._access_token = None
            return True
