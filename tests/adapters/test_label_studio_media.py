"""Media out of a Label Studio, against real HTTP servers on this machine."""

from __future__ import annotations

import base64
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
import requests
from pydantic import SecretStr

from lsml_bento.adapters.label_studio_media import LabelStudioMedia
from lsml_bento.adapters.label_studio_media import session as downloads
from lsml_bento.errors import MediaError

# label-studio-sdk 2.1.2 calls pydantic's parse_obj when it exchanges a token.
pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method")

LEGACY = "0123456789abcdef0123456789abcdef01234567"
Answer = tuple[int, dict[str, str], bytes]
Route = Callable[["Request"], Answer]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


def sends(
    body: bytes, status: int = 200, **headers: str
) -> Callable[[Request], Answer]:
    """A route that always answers the same."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: (status, {"Content-Length": str(len(body)), **named}, body)


@dataclass
class Site:
    """An HTTP server whose routes a test sets; ``requests`` notes what came."""

    routes: dict[str, Route] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Site:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                request = Request(
                    self.command,
                    self.path,
                    dict(self.headers.items()),
                    self.rfile.read(size),
                )
                site.requests.append(request)
                route = site.routes.get(self.path) or site.routes.get(
                    self.path.partition("?")[0]
                )
                status, headers, body = (route or sends(b"", 404))(request)
                with suppress(OSError):  # the client may have hung up
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            do_GET = do_POST = _answer  # noqa: N815 - the names http.server calls

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as one:
        yield one


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def internet(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A proxy that plays every public host, so that none has to be reached."""
    with Site() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield proxy


MADE: list[LabelStudioMedia] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close what a test opened: an open socket is a warning, and that an error."""
    yield
    while MADE:
        MADE.pop().close()


def media(
    site: Site | None, tmp_path: Path, key: str | SecretStr | None = LEGACY, **more: Any
) -> LabelStudioMedia:
    options = {"local_files_root": None, "cache_dir": tmp_path / "cache", **more}
    url = options.pop("url", site and site.url)
    MADE.append(LabelStudioMedia(url, key, **options))
    return MADE[-1]


def read(one: LabelStudioMedia, url: str, **options: Any) -> bytes:
    path = one.local_path(url, **{"task_id": 1, **options})
    return Path(path).read_bytes()


def refused(one: LabelStudioMedia, url: str, **options: Any) -> str:
    with pytest.raises(MediaError) as caught:
        one.local_path(url, **{"task_id": 1, **options})
    return str(caught.value)


def a_token(kind: str, expires_in_s: float = 3600) -> str:
    claims = {"token_type": kind, "exp": int(time.time() + expires_in_s), "jti": kind}
    return jwt.encode(claims, "k" * 32, algorithm="HS256")


REFRESH = a_token("refresh", 10**8)
STORAGE = "/storage-data/uploaded/"


# Tokens and addresses


def test_an_uploaded_file_is_fetched_once_with_a_legacy_token(
    site: Site, tmp_path: Path
) -> None:
    site.routes[STORAGE] = sends(b"pixels")
    one = media(site, tmp_path, SecretStr(LEGACY))
    path = one.local_path("/data/upload/1/ab-cat.png", task_id=1)
    assert Path(path).read_bytes() == b"pixels"
    assert path.endswith("__ab-cat.png")
    assert one.local_path("/data/upload/1/ab-cat.png", task_id=2) == path
    [request] = site.requests
    assert request.path == f"{STORAGE}?filepath=upload/1/ab-cat.png"
    assert request.authorization == f"Token {LEGACY}"


@pytest.mark.parametrize("url", ["upload/1/a.png", "/upload/1/a.png"])
def test_older_addresses_of_uploads_are_known(
    site: Site, tmp_path: Path, url: str
) -> None:
    site.routes[STORAGE] = sends(b"pixels")
    assert read(media(site, tmp_path), url) == b"pixels"


def test_the_plain_address_is_tried_when_the_storage_refuses(
    site: Site, tmp_path: Path
) -> None:
    site.routes[STORAGE] = sends(b"{}", 400)
    site.routes["/data/upload/1/a.png"] = sends(b"pixels")
    assert read(media(site, tmp_path), "/data/upload/1/a.png") == b"pixels"


def accepts_access_tokens(site: Site, prefix: str = "") -> list[str]:
    """Make the site exchange REFRESH; the access tokens that it gave out."""
    given: list[str] = []

    def exchange(request: Request) -> Answer:
        if json.loads(request.body) != {"refresh": REFRESH}:
            return sends(b'{"detail": "Token is invalid"}', 401)(request)
        given.append(a_token("access", 300 + len(given)))
        return sends(json.dumps({"access": given[-1]}).encode())(request)

    def file(request: Request) -> Answer:
        fine = bool(given) and request.authorization == f"Bearer {given[-1]}"
        return (sends(b"pixels") if fine else sends(b"{}", 401))(request)

    site.routes[f"{prefix}/api/token/refresh/"] = exchange
    site.routes[f"{prefix}{STORAGE}"] = file
    return given


def test_a_personal_access_token_is_exchanged_once(site: Site, tmp_path: Path) -> None:
    given = accepts_access_tokens(site)
    one = media(site, tmp_path, REFRESH)
    with ThreadPoolExecutor(8) as pool:
        urls = [f"/data/upload/1/{number}.png" for number in range(8)]
        assert set(pool.map(lambda url: read(one, url), urls)) == {b"pixels"}
    assert len(given) == 1


def test_a_refused_access_token_is_exchanged_again(site: Site, tmp_path: Path) -> None:
    given = accepts_access_tokens(site)
    one = media(site, tmp_path, REFRESH)
    read(one, "/data/upload/1/a.png")
    given.append("the one before was revoked")
    assert read(one, "/data/upload/1/b.png") == b"pixels"
    assert len(given) == 3


def test_an_access_token_of_the_models_own_code_is_used_as_it_is(
    site: Site, tmp_path: Path
) -> None:
    given = accepts_access_tokens(site)
    given.append(a_token("access"))
    one = media(site, tmp_path, None)
    url = "/data/upload/1/a.png"
    assert read(one, url, ls_access_token=given[0]) == b"pixels"
    assert site.paths() == [f"{STORAGE}?filepath=upload/1/a.png"]


@pytest.mark.parametrize("key", [LEGACY, REFRESH])
@pytest.mark.parametrize("url", ["/data/upload/1/a.png", "/ls/data/upload/1/a.png"])
def test_a_label_studio_below_a_sub_path_works(
    site: Site, tmp_path: Path, key: str, url: str
) -> None:
    accepts_access_tokens(site, "/ls")
    if key == LEGACY:
        site.routes[f"/ls{STORAGE}"] = sends(b"pixels")
    one = media(site, tmp_path, key, url=f"{site.url}/ls/")
    assert read(one, url) == b"pixels"
    assert all(path.startswith("/ls/") for path in site.paths())


def test_files_of_cloud_storages_are_signed_by_label_studio(
    site: Site, tmp_path: Path
) -> None:
    uri = "s3://bucket/a b.png"
    site.routes["/tasks/7/presign/"] = sends(
        b"", 303, Location=f"{site.url}/signed?S=1"
    )
    site.routes["/signed"] = sends(b"pixels")
    path = media(site, tmp_path).local_path(uri, task_id=7)
    assert Path(path).read_bytes() == b"pixels"
    assert path.endswith("__a_b.png")
    presign, signed = site.requests
    assert presign.path.endswith(
        "fileuri=" + base64.urlsafe_b64encode(uri.encode()).decode()
    )
    assert presign.authorization == f"Token {LEGACY}"
    assert signed.authorization is None


def test_a_cloud_address_without_a_task_says_what_to_pass(tmp_path: Path) -> None:
    with Site() as site:
        reason = refused(media(site, tmp_path), "gs://bucket/a.png", task_id=None)
    assert reason == (
        "Label Studio signs 'gs://bucket/a.png' for a task: pass task_id=task['id'] to "
        "get_local_path"
    )


def test_sample_pages_of_label_studio_are_known(site: Site, tmp_path: Path) -> None:
    site.routes["/static/samples/sample.jpg"] = sends(b"pixels")
    assert read(media(site, tmp_path), "/static/samples/sample.jpg") == b"pixels"


# Where the key goes


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://ls.test/ls/data/upload/1/a.png", True),
        ("http://LS.test:80/ls/data/upload/1/a.png", True),
        ("http://ls.test/ls/storage-data/uploaded/?filepath=a", True),
        ("http://ls.test/ls/tasks/3/presign/?fileuri=a", True),
        ("http://ls.test/ls/data/local-files/?d=a", True),
        ("https://ls.test/ls/data/upload/1/a.png", False),
        ("http://ls.test:8080/ls/data/upload/1/a.png", False),
        ("http://ls.test.evil.test/ls/data/upload/1/a.png", False),
        ("http://ls.test@evil.test/ls/data/upload/1/a.png", False),
        ("http://evil.test\\@ls.test/ls/data/upload/1/a.png", False),
        ("http://ls.test/data/upload/1/a.png", False),
        ("http://ls.test/other/data/upload/1/a.png", False),
        ("http://ls.test/lsx/data/upload/1/a.png", False),
        ("http://ls.test/ls/api/users", False),
        ("http://ls.test/ls/data/../api/users", False),
        ("http://ls.test/ls/data/%2e%2e/api/users", False),
        ("http://ls.test/ls/data/..%2fapi/users", False),
    ],
)
def test_the_key_goes_to_media_routes_of_label_studio_only(
    url: str, sent: bool
) -> None:
    studio = downloads.LabelStudio("http://ls.test/ls", LEGACY)
    session = requests.Session()
    session.auth = studio.authorize
    asked = requests.Request("GET", url, headers={"Authorization": "Token -"})
    header = session.prepare_request(asked).headers.get("Authorization")
    assert (header == f"Token {LEGACY}") is sent
    assert header is None or LEGACY not in header or sent


def test_the_key_does_not_follow_a_redirect_to_another_host(
    site: Site, internet: Site, tmp_path: Path
) -> None:
    site.routes[STORAGE] = sends(
        b"", 302, Location="http://files.test/data/upload/x.png"
    )
    internet.routes["http://files.test/data/upload/x.png"] = sends(b"pixels")
    assert read(media(site, tmp_path), "/data/upload/1/a.png") == b"pixels"
    assert site.requests[0].authorization == f"Token {LEGACY}"
    assert internet.requests[0].authorization is None


def test_a_public_file_is_fetched_without_the_key(
    site: Site, internet: Site, tmp_path: Path
) -> None:
    internet.routes["http://files.test/data/upload/x.png"] = sends(b"pixels")
    assert (
        read(media(site, tmp_path), "http://files.test/data/upload/x.png") == b"pixels"
    )
    assert internet.requests[0].authorization is None


def test_a_password_in_an_address_goes_to_its_own_host(
    site: Site, internet: Site, tmp_path: Path
) -> None:
    internet.routes["http://files.test/a.png"] = sends(b"no", 403)
    reason = refused(media(site, tmp_path), "http://me:secret@files.test/a.png")
    assert internet.requests[0].authorization == "Basic bWU6c2VjcmV0"
    assert reason == (
        "'http://files.test/a.png' answered 403: check the address and who may read it"
    )


def test_another_label_studio_named_by_the_model_does_not_get_the_key(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    site.routes[STORAGE] = sends(b"pixels")
    one = media(None, tmp_path, url="http://ls.test")
    url = "/data/upload/1/a.png"
    assert "set LABEL_STUDIO_API_KEY" in refused(one, url, ls_host=site.url)
    assert site.requests == []
    assert read(one, url, ls_host=site.url, ls_access_token="other") == b"pixels"
    assert [request.authorization for request in site.requests] == ["Token other"]


def test_the_host_and_key_of_older_models_are_the_configured_ones(
    site: Site, tmp_path: Path
) -> None:
    accepts_access_tokens(site)
    one = media(site, tmp_path, REFRESH)
    for number in range(3):
        url = f"/data/upload/1/{number}.png"
        read(one, url, ls_host=site.url + "/", ls_access_token=REFRESH)
    assert site.paths().count("/api/token/refresh/") == 1


def test_the_key_is_in_no_error_and_no_log(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = accepts_access_tokens(site)
    one = media(site, tmp_path, REFRESH)
    read(one, "/data/upload/1/a.png")
    site.routes["/api/token/refresh/"] = lambda request: sends(request.body, 403)(
        request
    )
    site.routes["/data/upload/1/b.png"] = sends(b"{}", 401)
    reasons = [
        refused(media(site, tmp_path / "1", REFRESH), "/data/upload/1/b.png"),
        refused(media(site, tmp_path / "2", LEGACY), "/data/upload/1/b.png"),
        refused(media(site, tmp_path / "3", a_token("refresh", -9)), "upload/1/b.png"),
    ]
    assert "answered 403 to the personal access token" in reasons[0]
    assert "set a personal access token" in reasons[1]
    assert "answered 401 to the personal access token" in reasons[2]
    said = caplog.text + "".join(reasons)
    assert not [token for token in (REFRESH, LEGACY, *given) if token in said]


def test_the_access_token_is_the_key_as_it_was_set(tmp_path: Path) -> None:
    assert media(None, tmp_path, REFRESH).access_token() == REFRESH
    assert media(None, tmp_path, None).access_token() is None


# What is never read


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.7.7:8080",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "0.0.0.0",
        "[::]",
        "2852039166",
        "0xa9fea9fe",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "instance-data.ec2.internal",
        "100.100.100.200",
        "224.0.0.1",
    ],
)
@pytest.mark.parametrize("redirected", [False, True])
def test_metadata_and_link_local_addresses_are_never_read(
    site: Site, tmp_path: Path, host: str, redirected: bool
) -> None:
    url = f"http://{host}/latest/meta-data/"
    if redirected:
        site.routes[STORAGE] = sends(b"", 302, Location=url)
        url = "/data/upload/1/a.png"
    assert "never read" in refused(media(site, tmp_path), url)


def test_label_studios_own_address_may_not_be_a_metadata_server(tmp_path: Path) -> None:
    one = media(None, tmp_path, url="http://169.254.169.254")
    assert "never read" in refused(one, "/data/upload/1/a.png")


def test_a_name_that_resolves_to_a_metadata_server_is_not_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch, "169.254.169.254")
    assert "169.254.169.254" in refused(media(site, tmp_path), "http://innocent.test/a")


def test_a_name_that_changes_its_address_between_check_and_connection_is_not_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves_to(monkeypatch, "93.184.216.34", "127.0.0.1")
    reason = refused(media(None, tmp_path), f"http://innocent.test:{site.port}/a")
    assert "this machine itself (127.0.0.1)" in reason
    assert site.requests == []


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Name resolution answers each address once, then the last one again."""
    left = list(addresses)

    def resolve(host: object, port: int, *_: object, **__: object) -> list[Any]:
        address = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_loopback_is_read_at_label_studios_own_port_only(
    site: Site, tmp_path: Path
) -> None:
    with Site({"/a.png": sends(b"secret")}) as other:
        site.routes[STORAGE] = sends(b"", 302, Location=f"{other.url}/a.png")
        one = media(site, tmp_path)
        assert "this machine itself" in refused(one, f"{other.url}/a.png")
        assert "this machine itself" in refused(one, "/data/upload/1/a.png")
        assert other.requests == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "FILE:/etc/passwd", "data:text/plain,a"]
)
def test_other_schemes_are_refused(site: Site, tmp_path: Path, url: str) -> None:
    assert "addresses are not supported" in refused(media(site, tmp_path), url)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://a.test/b"])
def test_redirects_to_other_schemes_are_refused(
    site: Site, tmp_path: Path, location: str
) -> None:
    site.routes[STORAGE] = sends(b"", 302, Location=location)
    reason = refused(media(site, tmp_path), "/data/upload/1/a.png")
    assert "it redirects to what is not http" in reason


def test_redirects_in_a_circle_end(site: Site, tmp_path: Path) -> None:
    site.routes[STORAGE] = lambda request: sends(b"", 302, Location=request.path)(
        request
    )
    reason = refused(media(site, tmp_path), "/data/upload/1/a.png")
    assert "it redirects more than 5 times" in reason


# Paths on this machine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.txt").write_text("inside")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "alias.txt").symlink_to(root / "in" / "a.txt")
    return root


@pytest.mark.parametrize("name", ["in/a.txt", "alias.txt", "in/../in/a.txt"])
def test_a_path_below_the_root_is_read(tmp_path: Path, root: Path, name: str) -> None:
    one = media(None, tmp_path, local_files_root=root)
    assert read(one, name) == b"inside"
    assert read(one, str(root / name)) == b"inside"


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "out.txt", "/etc/passwd", "in", "", "in/none", "~/x", "a\0b"],
)
def test_other_paths_are_refused(tmp_path: Path, root: Path, name: str) -> None:
    one = media(None, tmp_path, local_files_root=root)
    assert "LSML_" in refused(one, name)


@pytest.mark.parametrize("name", ["/etc/passwd", "in/a.txt", "/data/in/a.txt"])
def test_without_a_root_no_path_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, name: str
) -> None:
    monkeypatch.chdir(root)
    assert "set LSML_LOCAL_FILES_ROOT" in refused(media(None, tmp_path), name)
    everything = media(None, tmp_path, local_files_root=Path("/"))
    assert "set LSML_LOCAL_FILES_ROOT" in refused(everything, name)


def test_local_files_storages_are_read_where_this_machine_has_them(
    site: Site, tmp_path: Path, root: Path
) -> None:
    site.routes["/data/local-files/"] = sends(b"from label studio")
    one = media(site, tmp_path, local_files_root=root)
    assert read(one, "/data/local-files/?d=in/a.txt") == b"inside"
    assert read(one, "/data/local-files/?d=in/b.txt") == b"from label studio"
    assert "not a file below" in refused(one, "/data/local-files/?d=out.txt")
    assert "not a file below" in refused(one, "/data/local-files/?d=../secret.txt")
    assert "not a file below" in refused(one, "/data/local-files/?d=%2e%2e/secret.txt")
    assert site.paths() == ["/data/local-files/?d=in/b.txt"]


def test_a_missing_file_of_a_storage_names_the_file_and_the_root(
    site: Site, tmp_path: Path, root: Path
) -> None:
    url = "/data/local-files/?d=in/none.txt"
    said = f"'in/none.txt' is not below LSML_LOCAL_FILES_ROOT ({root}), and it cannot "
    one = media(None, tmp_path, local_files_root=root)
    assert refused(one, url) == (
        f"{said}be read from Label Studio either: Label Studio holds "
        "'/data/local-files/': set LABEL_STUDIO_URL"
    )
    site.routes["/data/local-files/"] = sends(b"", 404)
    answered = refused(media(site, tmp_path, local_files_root=root), url)
    assert answered.startswith(f"{said}be read from Label Studio either: ")
    assert "answered 404" in answered


@pytest.mark.parametrize(
    "url", ["/data/upload/1/a.png", "/data/local-files/?d=a", "s3://bucket/a.png"]
)
def test_an_address_of_label_studio_without_a_scheme_is_named(
    tmp_path: Path, url: str
) -> None:
    for address in ("localhost:8080", "label-studio.example.com", "me:secret@ls.test"):
        said = refused(media(None, tmp_path, url=address), url)
        host = address.rpartition("@")[2]
        assert said == (
            f"LABEL_STUDIO_URL is {host!r}, without http:// or https://: set it to "
            f"the whole address, e.g. http://{host}"
        )


def test_uploads_of_a_label_studio_on_this_machine_are_not_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    uploads = tmp_path / "share" / "label-studio" / "media" / "upload" / "1"
    uploads.mkdir(parents=True)
    (uploads / "a.png").write_bytes(b"of another project 1")
    site.routes[STORAGE] = sends(b"pixels")
    assert read(media(site, tmp_path), "/data/upload/1/a.png") == b"pixels"


def test_uploads_in_the_project_dir_of_the_model_are_read(
    site: Site, tmp_path: Path
) -> None:
    uploads = tmp_path / "project" / "upload" / "1"
    uploads.mkdir(parents=True)
    (uploads / "a.png").write_bytes(b"pixels")
    one = media(site, tmp_path)
    project = str(tmp_path / "project")
    assert read(one, "/data/upload/1/a.png", project_dir=project) == b"pixels"
    assert site.requests == []
    assert "LSML_HOME" in refused(one, "/data/upload/1/..", project_dir=project)


# Failures


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (
            401,
            "legacy tokens are off in new organizations: set a personal access token",
        ),
        (403, "the user of LABEL_STUDIO_API_KEY must be a member of the project"),
        (404, "check that LABEL_STUDIO_URL is the Label Studio of this task"),
        (500, "see its log; 1.23 also answers so for an upload it does not have"),
    ],
)
def test_a_refusal_names_the_hop_the_status_and_the_setting(
    site: Site, tmp_path: Path, status: int, hint: str
) -> None:
    site.routes[STORAGE] = sends(b"", 400)
    site.routes["/data/upload/1/a.png"] = sends(b"", status)
    reason = refused(media(site, tmp_path), "/data/upload/1/a.png")
    shown = f"'{site.url}/data/upload/1/a.png'"
    assert reason.startswith(f"Label Studio answered {status} to {shown}: ")
    assert reason.endswith(hint)


def test_a_login_page_is_not_taken_for_a_file(site: Site, tmp_path: Path) -> None:
    login = "/user/login/?next=/data/upload/1/a.png"
    site.routes[STORAGE] = sends(b"", 302, Location=login)
    site.routes["/user/login/"] = sends(b"<html>")
    site.routes["/data/upload/1/a.png"] = site.routes[STORAGE]
    assert "answered 401" in refused(media(site, tmp_path), "/data/upload/1/a.png")


def test_a_refusal_behind_a_redirect_names_who_sent_us(
    site: Site, internet: Site, tmp_path: Path
) -> None:
    internet.routes["http://files.test/x"] = sends(b"", 403)
    site.routes["/tasks/1/presign/"] = sends(
        b"", 303, Location="http://files.test/x?S=1"
    )
    assert refused(media(site, tmp_path), "s3://bucket/x") == (
        f"'http://files.test/x' answered 403, where '{site.url}/tasks/1/presign/' sent "
        "us: check the address and who may read it"
    )


@pytest.mark.parametrize(
    ("url", "key", "setting"),
    [
        (None, LEGACY, "LABEL_STUDIO_URL"),
        ("http://a.test", None, "LABEL_STUDIO_API_KEY"),
    ],
)
def test_missing_settings_are_named(
    tmp_path: Path, url: str | None, key: str | None, setting: str
) -> None:
    one = media(None, tmp_path, key, url=url)
    assert refused(one, "/data/upload/1/a.png") == (
        f"Label Studio holds '/data/upload/1/a.png': set {setting}"
    )


def test_a_server_that_is_down_is_named(tmp_path: Path) -> None:
    with Site() as site:
        url = site.url
    for key in (LEGACY, REFRESH):
        reason = refused(media(None, tmp_path, key, url=url), "/data/upload/1/a.png")
        assert url in reason
        assert "check LABEL_STUDIO_URL" in reason


def test_a_host_name_that_does_not_exist_is_named(tmp_path: Path) -> None:
    reason = refused(
        media(None, tmp_path), "http://no-such-host.invalid/a.png?secret=1"
    )
    assert reason == (
        "'http://no-such-host.invalid/a.png' cannot be read: no such host name; check "
        "the address in the task data"
    )


def test_a_server_that_hangs_is_given_up(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_TIMEOUT_S", (1, 0.2))
    over = threading.Event()
    site.routes[STORAGE] = lambda request: (over.wait(5), sends(b"")(request))[1]
    reason = refused(media(site, tmp_path), "/data/upload/1/a.png")
    over.set()
    assert "no answer in 0.2 s; check LABEL_STUDIO_URL" in reason


def test_a_file_over_the_bound_is_refused(site: Site, tmp_path: Path) -> None:
    site.routes[STORAGE] = sends(b"x" * 101)
    one = media(site, tmp_path, max_file_bytes=100)
    assert "larger than 100 bytes" in refused(one, "/data/upload/1/a.png")
    site.routes[STORAGE] = sends(b"x" * 100)
    assert len(read(one, "/data/upload/1/a.png")) == 100


def test_a_download_that_takes_too_long_is_given_up(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_DOWNLOAD_S", -1)
    site.routes[STORAGE] = sends(b"x")
    assert "takes more than" in refused(media(site, tmp_path), "/data/upload/1/a.png")


def test_a_download_that_broke_off_is_never_served(site: Site, tmp_path: Path) -> None:
    site.routes[STORAGE] = sends(b"half", Content_Length="8")
    one = media(site, tmp_path)
    assert "the download broke off" in refused(one, "/data/upload/1/a.png")
    assert list((tmp_path / "cache").iterdir()) == []
    site.routes[STORAGE] = sends(b"half and half")
    assert read(one, "/data/upload/1/a.png") == b"half and half"


def test_the_error_names_a_cache_that_cannot_be_written(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file, no directory")
    site.routes[STORAGE] = sends(b"pixels")
    reason = refused(media(site, tmp_path), "/data/upload/1/a.png")
    assert "LSML_HOME is writable" in reason


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://a:99999/", "http://a b/"]
)
def test_addresses_that_mean_nothing_are_refused(tmp_path: Path, url: str) -> None:
    assert refused(media(None, tmp_path), url)


# The cache


def test_threads_that_want_one_file_share_one_download(
    site: Site, tmp_path: Path
) -> None:
    slow = threading.Event()
    site.routes[STORAGE] = lambda request: (slow.wait(0.1), sends(b"pixels")(request))[
        1
    ]
    one = media(site, tmp_path)
    with ThreadPoolExecutor(16) as pool:
        urls = ["/data/upload/1/a.png"] * 16
        assert set(pool.map(lambda url: read(one, url), urls)) == {b"pixels"}
    assert len(site.requests) == 1


FETCH = """
import sys
from pathlib import Path
from lsml_bento.adapters.label_studio_media import LabelStudioMedia
media = LabelStudioMedia(sys.argv[1], sys.argv[2], None, Path(sys.argv[3]))
path = media.local_path("/data/upload/1/a.bin", task_id=1)
assert Path(path).read_bytes() == b"x" * 3_000_000, "half a file"
"""


def test_processes_that_want_one_file_never_see_half_of_it(
    site: Site, tmp_path: Path
) -> None:
    site.routes[STORAGE] = sends(b"x" * 3_000_000)
    command = [sys.executable, "-c", FETCH, site.url, LEGACY, str(tmp_path / "cache")]
    running = [subprocess.Popen(command) for _ in range(3)]
    sizes: set[int] = set()
    while any(process.poll() is None for process in running):
        with suppress(FileNotFoundError):
            sizes |= {p.stat().st_size for p in (tmp_path / "cache").glob("*__a.bin")}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sizes <= {3_000_000}


def test_the_cache_drops_what_was_not_used_for_long(site: Site, tmp_path: Path) -> None:
    site.routes[STORAGE] = sends(b"x" * 100)
    one = media(site, tmp_path, max_cache_bytes=350)
    paths = [Path(one.local_path(f"upload/1/{n}.png", task_id=1)) for n in range(3)]
    stale = tmp_path / "cache" / ".part-killed"
    stale.mkdir()
    long_ago = time.time() - 7200
    for path in (*paths[1:], stale):
        os.utime(path, (long_ago, long_ago))
    one.local_path("upload/1/2.png", task_id=1)  # a use
    one.local_path("upload/1/3.png", task_id=1)
    assert [path.exists() for path in paths] == [True, False, True]
    assert not stale.exists()


def test_names_that_no_file_system_takes_are_shortened(
    site: Site, tmp_path: Path
) -> None:
    long = f"/static/samples/{'n' * 300}.png"
    site.routes[long] = sends(b"pixels")
    path = media(site, tmp_path).local_path(long, task_id=1)
    assert Path(path).read_bytes() == b"pixels"
    assert path.endswith(".png")


def test_a_cache_dir_of_the_models_own_is_used(site: Site, tmp_path: Path) -> None:
    site.routes[STORAGE] = sends(b"pixels")
    own = tmp_path / "own"
    path = media(site, tmp_path).local_path("upload/1/a", task_id=1, cache_dir=str(own))
    assert Path(path).parent == own
    assert not (tmp_path / "cache").exists()


def test_importing_makes_no_file_and_no_directory(tmp_path: Path) -> None:
    code = "import lsml_bento.adapters.label_studio_media"
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": "", "XDG_CACHE_HOME": ""}
    subprocess.run(
        [sys.executable, "-B", "-c", code], check=True, env={**os.environ, **home}
    )
    assert list(tmp_path.iterdir()) == []


def test_closing_is_harmless(site: Site, tmp_path: Path) -> None:
    site.routes[STORAGE] = sends(b"pixels")
    one = media(site, tmp_path)
    read(one, "/data/upload/1/a.png")
    one.close()
    assert urlsplit(site.url).hostname == "127.0.0.1"


def test_a_file_below_the_root_needs_no_label_studio(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a b.txt").write_text("here")
    media = LabelStudioMedia(None, None, tmp_path / "files", tmp_path / "cache")

    path = media.local_path("/data/local-files/?d=a%20b.txt", task_id=1)

    assert Path(path).read_text() == "here"
    with pytest.raises(MediaError, match="set LABEL_STUDIO_URL"):
        media.local_path("/data/local-files/?d=missing.txt", task_id=1)
