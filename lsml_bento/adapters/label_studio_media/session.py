"""Download one file, and send the API key only to Label Studio's media routes."""

from __future__ import annotations

import io
import re
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import requests
from label_studio_sdk._extensions.label_studio_tools.core.utils import io as sdk_io
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.client_wrapper import SyncClientWrapper
from requests.auth import HTTPBasicAuth
from urllib3.util import parse_url

from lsml_bento.adapters.label_studio_media.guard import (
    USER,
    GuardedAdapter,
    origin_of,
    shown,
)
from lsml_bento.errors import MediaError

_TIMEOUT_S = (5, 30)  # connect, and between two chunks
_DOWNLOAD_S = 300
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_REMOTE = {"http", "https", "s3", "gs", "azure-blob"}
_SDK_PATH = re.compile(r"/?(data/)?upload/|/?storage-data/uploaded|/data/.*\?d=")
_PAGE_PATH = re.compile(r"/(static|samples)/|/(tasks|projects)/\d+/(presign|resolve)/")
_MEDIA_PATH = re.compile(rf"/(data|storage-data)/|{_PAGE_PATH.pattern}")


class LabelStudio:
    """A Label Studio and its API key, which is sent nowhere else."""

    def __init__(self, url: str, key: str) -> None:
        self.url = USER.sub("//", url.strip().rstrip("/"))
        self.key = key.strip()
        self.origin = origin_of(self.url) if self.url else None
        self.path = (parse_url(self.url).path or "") if self.url else ""
        self.adapter = GuardedAdapter(self.origin)
        self._client: SyncClientWrapper | None = None
        self._lock = threading.Lock()

    def place(self, url: str) -> str | None:
        """Return the address as the SDK expects it; None for a local path."""
        if self.path and url.startswith(self.path + "/"):
            url = url[len(self.path) :]  # Label Studio includes its sub-path.
        if scheme := _SCHEME.match(url):
            if scheme[1].lower() not in _REMOTE:
                raise MediaError(
                    f"{scheme[1]}: addresses are not supported; use http, https, "
                    "s3, gs or azure-blob in the task data"
                )
            if self.url and not scheme[1].lower().startswith("http"):
                self._check_scheme()
            return url
        if _SDK_PATH.match(url):
            self._require(url)
            return url
        if not (_PAGE_PATH.match(url) and self.url):
            return None
        self._check_scheme()
        return self.url + url

    def _check_scheme(self) -> None:
        if self.origin is None or self.origin.scheme not in ("http", "https"):
            url = self.url.rpartition("@")[2][:200]
            raise MediaError(
                f"LABEL_STUDIO_URL is {url!r}, without http:// or https://: set it to "
                f"the whole address, e.g. http://{url}"
            )

    def _require(self, url: str) -> None:
        for name, value in (
            ("LABEL_STUDIO_URL", self.url),
            ("LABEL_STUDIO_API_KEY", self.key),
        ):
            if not value:
                raise MediaError(f"Label Studio holds {shown(url)}: set {name}")
        self._check_scheme()

    def authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the key if the request asks this Label Studio for media."""
        request.headers.pop("Authorization", None)
        url = request.url or ""
        parts = parse_url(url)
        path = unquote(parts.path or "")
        own = self.key and origin_of(url) == self.origin and path.startswith(self.path)
        if own and ".." not in path and _MEDIA_PATH.match(path[len(self.path) :]):
            request.headers["Authorization"] = self._authorization()
        elif parts.auth:
            user, _, password = parts.auth.partition(":")
            HTTPBasicAuth(unquote(user), unquote(password))(request)
        return request

    def _authorization(self) -> str:
        # Not "from error": Label Studio's answer may hold the key.
        try:
            with self._lock:
                if self._client is None:
                    http = httpx.Client(
                        timeout=httpx.Timeout(_TIMEOUT_S[1], connect=_TIMEOUT_S[0]),
                        verify=bool(sdk_io.VERIFY_SSL),
                        limits=httpx.Limits(max_keepalive_connections=0),
                    )
                    self._client = SyncClientWrapper(
                        api_key=self.key, base_url=self.url + "/", httpx_client=http
                    )
                tokens = self._client._tokens_client
                if tokens.jwt_token_type(self.key) == "access":
                    return f"Bearer {self.key}"
                return self._client.get_headers()["Authorization"]
        except (ApiError, ValueError) as error:
            status = getattr(error, "status_code", "something that is not JSON")
            raise MediaError(
                f"Label Studio at {self.url} answered {status} to the personal access "
                "token in LABEL_STUDIO_API_KEY: create a new one in Label Studio under "
                "Account & Settings, and check LABEL_STUDIO_URL"
            ) from None
        except httpx.HTTPError as error:
            raise MediaError(
                f"Label Studio at {self.url} cannot be reached "
                f"({type(error).__name__}): check LABEL_STUDIO_URL"
            ) from None

    def forget_access(self) -> bool:
        """Drop the access token; return False for a legacy token, which has none."""
        with self._lock:
            client, self._client = self._client, None
        return client is not None and not client._tokens_client._use_legacy_token

    def explain(self, response: requests.Response) -> str:
        """Say what an error status means, and what to do."""
        status = response.status_code
        if origin_of(response.url) != self.origin:
            by = [f", where {shown(hop.url)} sent us" for hop in response.history[:1]]
            return (
                f"{shown(response.url)} answered {status}{''.join(by)}: check the "
                "address and who may read it"
            )
        hint = {
            401: "it refuses LABEL_STUDIO_API_KEY; legacy tokens are off in new "
            "organizations: set a personal access token",
            403: "the user of LABEL_STUDIO_API_KEY must be a member of the project",
            404: "check that LABEL_STUDIO_URL is the Label Studio of this task",
            500: "see its log; 1.23 also answers so for an upload it does not have",
        }.get(status, "see its log")
        asked = shown(response.url, query=True)
        return f"Label Studio answered {status} to {asked}: {hint}"


class Session(requests.Session):
    """Streams one download to the file ``body``.

    The SDK tries a second address after an error status; ``failure`` is the last error.
    """

    def __init__(self, studio: LabelStudio, body: Path, max_bytes: int) -> None:
        super().__init__()
        self.mount("http://", studio.adapter)
        self.mount("https://", studio.adapter)
        self.auth = studio.authorize
        self.max_redirects = 5
        self.failure: MediaError | None = None
        self.studio = studio
        self.body = body
        self._max_bytes = max_bytes

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Decide about the key again, since a redirect may lead to any host."""
        self.studio.authorize(prepared_request)

    # Narrower than the base class: the SDK calls it like this.
    def get(self, url: str, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """Download the body to the file; return a response with a status only."""
        answer = requests.Response()
        answer.raw = io.BytesIO()
        try:
            answer.status_code = self._download(url, kwargs)
        except MediaError as error:
            self.failure = error
            raise
        except (requests.RequestException, ValueError) as error:
            raise self._unreachable(url, error) from error
        return answer

    def _download(self, url: str, options: dict[str, Any]) -> int:
        """Save the body and return the status."""
        response = super().get(url, timeout=_TIMEOUT_S, **options)
        own = origin_of(response.url) == self.studio.origin
        if own and response.status_code == 401 and self.studio.forget_access():
            response.close()
            response = super().get(url, timeout=_TIMEOUT_S, **options)
        with response:
            if own and response.url.split("?")[0].endswith("/user/login/"):
                response.status_code = 401  # Label Studio redirects to its login page.
            if not response.ok:
                self.failure = MediaError(self.studio.explain(response))
                return response.status_code
            self._save(response)
        return 200

    def _save(self, response: requests.Response) -> None:
        deadline = time.monotonic() + _DOWNLOAD_S
        size = 0
        with self.body.open("wb") as file:
            for chunk in response.iter_content(1 << 16):
                size += len(chunk)
                if size > self._max_bytes or time.monotonic() > deadline:
                    raise MediaError(
                        f"{shown(response.url)} is larger than {self._max_bytes} "
                        f"bytes or takes more than {_DOWNLOAD_S} s: use a smaller file"
                    )
                file.write(chunk)

    def _unreachable(self, url: str, error: Exception) -> MediaError:
        request = getattr(error, "request", None)
        url = getattr(request, "url", None) or url
        own = origin_of(url) == self.studio.origin
        remedy = (
            "check LABEL_STUDIO_URL" if own else "check the address in the task data"
        )
        reasons = {
            requests.ConnectTimeout: f"no connection in {_TIMEOUT_S[0]} s",
            requests.Timeout: f"no answer in {_TIMEOUT_S[1]} s",
            requests.exceptions.SSLError: "its certificate is not trusted",
            requests.TooManyRedirects: "it redirects more than 5 times",
            requests.exceptions.InvalidSchema: "it redirects to what is not http",
            requests.exceptions.ChunkedEncodingError: "the download broke off",
        }
        reason = next((r for e, r in reasons.items() if isinstance(error, e)), None)
        if reason is None:
            name = "NameResolutionError" in repr(error)
            reason = "no such host name" if name else "the connection failed"
        self.failure = MediaError(f"{shown(url)} cannot be read: {reason}; {remedy}")
        return self.failure


def fetch(
    session: Session,
    url: str,
    task_id: int | str | None,
    options: dict[str, Any],
    part: Path,
) -> Path | None:
    """Have the SDK download into ``part``, or return the file in project_dir."""
    if url.startswith(("s3:", "gs:", "azure-blob:")) and task_id is None:
        raise MediaError(
            f"Label Studio signs {url[:200]!r} for a task: pass task_id=task['id'] to "
            "get_local_path"
        )
    images = options.get("image_dir")
    if images is None and options.get("project_dir"):
        images = Path(options["project_dir"]) / "upload"
    try:
        with (
            sdk_io.http_session(session),
            sdk_io.local_files_resolver(lambda _: str(part / "nowhere")),
        ):
            found = sdk_io.get_local_path(
                url,
                cache_dir=str(part),
                hostname=session.studio.url,
                # The SDK's own default is where a Label Studio on this machine keeps
                # the uploads of whatever projects it has.
                image_dir=str(images or part / "nowhere"),
                access_token="-",  # noqa: S106 - the session adds the real one
                task_id=task_id,
            )
    except Exception as error:
        if session.failure is not None:
            raise session.failure from error
        if not session.body.exists():
            raise
        return None  # Only the SDK's own empty file failed: its name was too long.
    return None if part in Path(found).parents else Path(found)
