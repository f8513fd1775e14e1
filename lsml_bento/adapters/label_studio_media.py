"""Files that task data names, fetched by label-studio-sdk's ``get_local_path``.

The SDK knows Label Studio's addresses; what it may reach is decided here, again on
every redirect and for the address that a name resolved to:

- link-local, metadata and reserved addresses are never read;
- loopback is read only at ``LABEL_STUDIO_URL``'s own host and port;
- private networks are read: people keep their images on servers of their own;
- the API key goes to the media routes below ``LABEL_STUDIO_URL`` and nowhere else, so
  that task data can not make a model read the rest of Label Studio's API;
- paths on this machine are read below ``local_files_root`` only, links resolved.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import ipaddress
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import WeakValueDictionary

import httpx
import requests
from label_studio_sdk._extensions.label_studio_tools.core.utils import io as sdk_io
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.client_wrapper import SyncClientWrapper
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import parse_url

from lsml_bento.errors import MediaError

_TIMEOUT_S = (5, 30)  # connect, and between two chunks
_DOWNLOAD_S = 300
_IN_USE_S = 600  # a path that was just handed out is not pruned
_PART = ".part-"
_NEVER = [
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
        *("168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32"),
        *("::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128"),
    )
]
_METADATA = {"metadata", "metadata.google.internal", "metadata.goog", "instance-data"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_USER = re.compile(r"//[^/@]*@")
_REMOTE = {"http", "https", "s3", "gs", "azure-blob"}
_SDK_PATH = re.compile(r"/?(data/)?upload/|/?storage-data/uploaded|/data/.*\?d=")
_LOCAL_STORAGE = re.compile(r"/data/.*\?d=")
_PAGE_PATH = re.compile(r"/(static|samples)/|/(tasks|projects)/\d+/(presign|resolve)/")
_MEDIA_PATH = re.compile(rf"/(data|storage-data)/|{_PAGE_PATH.pattern}")


class _Origin(NamedTuple):
    """Where a URL leads: two URLs of one origin reach the same server."""

    scheme: str
    host: str
    port: int


def _origin(url: str) -> _Origin:
    """The origin of a URL, its port written out."""
    # urllib3's own parser: another one might see another host than it connects to.
    parts = parse_url(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return _Origin(parts.scheme or "", (parts.host or "").strip("[]").lower(), port)


def _shown(url: str, *, query: bool = False) -> str:
    """A URL without what may be secret: a password, a signature in the query."""
    return _USER.sub("//", url if query else url.partition("?")[0])[:200]


def _check_address(host: str, address: str, *, own: bool) -> None:
    """Refuse an address that must not be read; ``own`` is Label Studio's origin."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or nat64 or ip
    if any(ip in network for network in _NEVER):
        raise MediaError(
            f"{host} is at {address}, a link-local, metadata or reserved address, "
            "which is never read: correct the address in the task data"
        )
    if ip.is_loopback and not own:
        raise MediaError(
            f"{host} is this machine itself ({address}), where only LABEL_STUDIO_URL "
            "is read: name a host that others reach too, or set LABEL_STUDIO_URL to it"
        )


class _Peer:
    """Mixed into urllib3's connections: checks the address that was really reached."""

    own: _Origin | None
    host: str
    port: int

    def _new_conn(self) -> socket.socket:
        connection: socket.socket = super()._new_conn()  # type: ignore[misc]
        host = self.host.strip("[]").lower()
        try:
            own = self.own is not None and (host, self.port) == self.own[1:]
            _check_address(host, connection.getpeername()[0], own=own)
        except BaseException:
            connection.close()
            raise
        return connection


class _Adapter(HTTPAdapter):
    """Connects to nothing that must not be read; every redirect comes through here."""

    def __init__(self, own: _Origin | None) -> None:
        self._own = own
        super().__init__(pool_maxsize=16)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make connections that check whom they reached."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": self._pool(HTTPConnectionPool, HTTPConnection),
            "https": self._pool(HTTPSConnectionPool, HTTPSConnection),
        }

    def _pool(self, pool: type, connection: type) -> Any:
        guarded = type("Connection", (_Peer, connection), {"own": self._own})
        return type("Pool", (pool,), {"ConnectionCls": guarded})

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send a request, or refuse its host by name or by what it resolves to."""
        origin = _origin(request.url or "")
        if origin.host.rstrip(".").removesuffix(".ec2.internal") in _METADATA:
            raise MediaError(f"{origin.host} is a metadata server, which is never read")
        try:
            found = socket.getaddrinfo(
                origin.host, origin.port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            found = []  # connecting says why; a proxy may know the name
        for *_, address in found:
            _check_address(origin.host, str(address[0]), own=origin == self._own)
        return super().send(request, *args, **kwargs)


class _LabelStudio:
    """Where one Label Studio answers, and the key that only it gets."""

    def __init__(self, url: str, key: str) -> None:
        self.url = _USER.sub("//", url.strip().rstrip("/"))
        self.key = key.strip()
        self.origin = _origin(self.url) if self.url else None
        self.path = (parse_url(self.url).path or "") if self.url else ""
        self.adapter = _Adapter(self.origin)
        self._client: SyncClientWrapper | None = None
        self._lock = threading.Lock()

    def place(self, url: str) -> str | None:
        """The address as the SDK takes it; None for a path on this machine."""
        if self.path and url.startswith(self.path + "/"):
            url = url[len(self.path) :]  # Label Studio below a sub-path writes it out
        if scheme := _SCHEME.match(url):
            if scheme[1].lower() not in _REMOTE:
                raise MediaError(
                    f"{scheme[1]}: addresses are not read; use http, https, s3, gs or "
                    "azure-blob in the task data"
                )
            return url
        if _SDK_PATH.match(url):
            self._require(url)
            return url
        return self.url + url if _PAGE_PATH.match(url) and self.url else None

    def _require(self, url: str) -> None:
        for name, value in (
            ("LABEL_STUDIO_URL", self.url),
            ("LABEL_STUDIO_API_KEY", self.key),
        ):
            if not value:
                raise MediaError(f"Label Studio holds {_shown(url)!r}: set {name}")

    def authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Give the request the key if it asks this Label Studio for media."""
        request.headers.pop("Authorization", None)
        url = request.url or ""
        parts = parse_url(url)
        path = unquote(parts.path or "")
        own = self.key and _origin(url) == self.origin and path.startswith(self.path)
        if own and ".." not in path and _MEDIA_PATH.match(path[len(self.path) :]):
            request.headers["Authorization"] = self._authorization()
        elif parts.auth:
            user, _, password = parts.auth.partition(":")
            HTTPBasicAuth(unquote(user), unquote(password))(request)
        return request

    def _authorization(self) -> str:
        # Not "from error": what Label Studio answered may hold the key.
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
                "token in LABEL_STUDIO_API_KEY: make a new one in Label Studio under "
                "Account & Settings, and check LABEL_STUDIO_URL"
            ) from None
        except httpx.HTTPError as error:
            raise MediaError(
                f"Label Studio at {self.url} can not be reached "
                f"({type(error).__name__}): check LABEL_STUDIO_URL"
            ) from None

    def forget_access(self) -> bool:
        """Make the next request exchange the token anew; False for a legacy token."""
        with self._lock:
            client, self._client = self._client, None
        return client is not None and not client._tokens_client._use_legacy_token

    def explain(self, response: requests.Response) -> str:
        """What a refusal means, and what to set."""
        status = response.status_code
        if _origin(response.url) != self.origin:
            by = [f", where {_shown(hop.url)} sent us" for hop in response.history[:1]]
            return (
                f"{_shown(response.url)} answered {status}{''.join(by)}: check the "
                "address and who may read it"
            )
        hint = {
            401: "it refuses LABEL_STUDIO_API_KEY; legacy tokens are off in new "
            "organizations: set a personal access token",
            403: "the user of LABEL_STUDIO_API_KEY must be a member of the project",
            404: "check that LABEL_STUDIO_URL is the Label Studio of this task",
            500: "see its log; 1.23 also answers so for an upload it does not have",
        }.get(status, "see its log")
        asked = _shown(response.url, query=True)
        return f"Label Studio answered {status} to {asked}: {hint}"


class _Session(requests.Session):
    """One download: what the SDK asks for goes to ``body``, never into memory.

    The SDK tries a second address after a refusal; ``failure`` is what came last.
    """

    def __init__(self, studio: _LabelStudio, body: Path, max_bytes: int) -> None:
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
        """Decide again about the key, as a redirect may lead anywhere."""
        self.studio.authorize(prepared_request)

    # mypy: narrower than the base, as the SDK calls it.
    def get(self, url: str, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """Download; the answer that the SDK sees has a status and no body."""
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
        own = _origin(response.url) == self.studio.origin
        if own and response.status_code == 401 and self.studio.forget_access():
            response.close()
            response = super().get(url, timeout=_TIMEOUT_S, **options)
        with response:
            if own and response.url.split("?")[0].endswith("/user/login/"):
                response.status_code = 401  # the page that asks people to log in
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
                        f"{_shown(response.url)} is larger than {self._max_bytes} "
                        f"bytes or takes more than {_DOWNLOAD_S} s: use a smaller file"
                    )
                file.write(chunk)

    def _unreachable(self, url: str, error: Exception) -> MediaError:
        request = getattr(error, "request", None)
        url = getattr(request, "url", None) or url
        own = _origin(url) == self.studio.origin
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
        self.failure = MediaError(f"{_shown(url)} can not be read: {reason}; {remedy}")
        return self.failure


class _Cache:
    """Finished files only; the least recently used go when there is too much."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._estimate: int | None = None

    def find(self, name: str) -> Path | None:
        """A finished file, marked as used now."""
        path = self._directory / name
        if not path.is_file():
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    @contextmanager
    def part(self) -> Iterator[Path]:
        """A directory for one download, gone at the end."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryDirectory(
            prefix=_PART, dir=self._directory, ignore_cleanup_errors=True
        ) as part:
            yield Path(part)

    def keep(self, body: Path, name: str) -> Path:
        """Put a finished download in its place at once."""
        size = body.stat().st_size
        path = body.replace(self._directory / name)
        with self._lock:
            if self._estimate is not None:
                self._estimate += size
            if self._estimate is None or self._estimate > self._max_bytes:
                self._estimate = self._prune()
        return path

    def _prune(self) -> int:
        now, files = time.time(), []
        for path in self._directory.iterdir():
            with contextlib.suppress(OSError):
                if path.name.startswith(_PART):
                    if path.stat().st_mtime < now - 3600:  # left by a killed process
                        shutil.rmtree(path)
                else:
                    files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            if total <= self._max_bytes * 0.9 or used > now - _IN_USE_S:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


class LabelStudioMedia:
    """``Media`` on label-studio-sdk: downloads once, keeps files in a bounded cache.

    Args:
        label_studio_url: where Label Studio answers, with its sub-path if it has one.
        api_key: a personal access token or a legacy token.
        local_files_root: the only directory from which paths in task data are read.
        cache_dir: made at the first download.
        max_file_bytes: a larger file is refused.
        max_cache_bytes: above it the least recently used files are deleted, except
            those of the last ten minutes.
    """

    def __init__(
        self,
        label_studio_url: str | None,
        api_key: str | SecretStr | None,
        local_files_root: Path | None,
        cache_dir: Path,
        *,
        max_file_bytes: int = 2 << 30,
        max_cache_bytes: int = 10 << 30,
    ) -> None:
        if isinstance(api_key, SecretStr):
            api_key = api_key.get_secret_value()
        self._studio = _LabelStudio(label_studio_url or "", api_key or "")
        self._root = local_files_root and local_files_root.resolve()
        if self._root == Path(self._root.anchor if self._root else ""):
            self._root = None  # it would make every file of this machine readable
        self._cache = _Cache(cache_dir, max_cache_bytes)
        self._max_file_bytes = max_file_bytes
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()

    def access_token(self) -> str | None:
        """The API key as it was set; a personal access token is not exchanged."""
        return self._studio.key or None

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        """The path of a readable local copy; see ``Media.local_path``.

        Args:
            url: as stored in task data.
            task_id: needed for ``s3``, ``gs`` and ``azure-blob`` addresses.
            options: ``ls_host`` and ``ls_access_token`` for another Label Studio (the
                configured key is not sent there), ``project_dir``, ``image_dir``,
                ``cache_dir`` and ``download_resources`` as in the SDK.

        Raises:
            MediaError: if the file can not be read or must not be.
        """
        studio = self._other(options)
        try:
            return str(self._find(studio or self._studio, url, task_id, options))
        except (OSError, ValueError) as error:  # a disk that is full, a NUL in a path
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise MediaError(
                f"{_shown(url)!r} can not be read: {reason}; check the address, and "
                "that LSML_HOME is writable and has space"
            ) from error
        finally:
            if studio is not None:
                studio.adapter.close()

    def close(self) -> None:
        """Close idle connections."""
        self._studio.adapter.close()

    def _other(self, options: dict[str, Any]) -> _LabelStudio | None:
        """The Label Studio that the model's own code names, if it names one."""
        url = options.get("ls_host") or self._studio.url
        key = options.get("ls_access_token") or ""
        same = url.rstrip("/") == self._studio.url
        if same and key in ("", self._studio.key):
            return None
        return _LabelStudio(url, key)

    def _find(
        self,
        studio: _LabelStudio,
        url: str,
        task_id: int | str | None,
        options: dict[str, Any],
    ) -> Path:
        if (here := self._local_storage(url)) is not None:
            return here  # whether or not it is known where Label Studio answers
        place = studio.place(url)
        if place is None:
            return self._below_root(url)
        return self._local_storage(place) or self._fetch(
            studio, place, task_id, options
        )

    def _below_root(self, url: str) -> Path:
        if self._root is None:
            raise MediaError(
                f"{url[:200]!r} is a path on this machine: set LSML_LOCAL_FILES_ROOT "
                "to the directory from which tasks may read"
            )
        path = (self._root / url).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise MediaError(
                f"{url[:200]!r} is no file below LSML_LOCAL_FILES_ROOT ({self._root})"
            )
        return path

    def _local_storage(self, url: str) -> Path | None:
        """A file of a Local Files storage, where this machine has it too."""
        found = _LOCAL_STORAGE.match(url) and parse_qs(urlsplit(url).query).get("d")
        if self._root is None or not found:
            return None
        path = self._root / found[-1].lstrip("/")
        return self._below_root(str(path)) if os.path.lexists(path) else None

    def _fetch(
        self,
        studio: _LabelStudio,
        url: str,
        task_id: int | str | None,
        options: dict[str, Any],
    ) -> Path:
        cache = self._cache
        if options.get("cache_dir"):
            cache = _Cache(Path(options["cache_dir"]), 1 << 62)
        digest = hashlib.sha256(f"{studio.url} {url}".encode()).hexdigest()[:32]
        name = f"{digest}__{_file_name(url)}"
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if found := cache.find(name):
                return found
            with cache.part() as part:
                session = _Session(studio, part / "body", self._max_file_bytes)
                uploaded = _ask(session, url, task_id, options, part)
                return uploaded or cache.keep(part / "body", name)


def _ask(
    session: _Session,
    url: str,
    task_id: int | str | None,
    options: dict[str, Any],
    part: Path,
) -> Path | None:
    """Let the SDK download into ``part``; a path if the file was in the project_dir."""
    if url.startswith(("s3:", "gs:", "azure-blob:")) and task_id is None:
        raise MediaError(
            f"Label Studio signs {url[:200]} for a task: pass task_id=task['id'] to "
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
        return None  # only the SDK's own, empty file failed: its name was too long
    return None if part in Path(found).parents else Path(found)


def _file_name(url: str) -> str:
    """The last part of the path, so that its suffix still tells the type."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    source = (query.get("d") or query.get("filepath") or [unquote(parts.path)])[-1]
    return re.sub(r"[^\w.-]", "_", source.rsplit("/", 1)[-1])[-80:]
