"""Annotated tasks out of a Label Studio that is slow, away, elsewhere or odd."""

from __future__ import annotations

import gc
import json
import logging
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import jwt
import pytest
from pydantic import SecretStr

from lsml_bento.adapters.label_studio_api import LabelStudioTasks, session
from lsml_bento.adapters.label_studio_api.problems import transport_problem
from lsml_bento.errors import TrainingError

# label-studio-sdk 2.1.2 calls pydantic's parse_obj when it exchanges a token.
pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method")

LEGACY = "0123456789abcdef0123456789abcdef01234567"
SIGNATURE = "only-for-tests-and-32-bytes-long"
Json = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
Fault = Callable[["Request"], Answer | None]


def token(kind: str, seconds: float) -> str:
    """A JWT as Label Studio makes them; no two are the same."""
    now = time.time_ns()
    claims = {"token_type": kind, "exp": int(time.time() + seconds), "jti": str(now)}
    return jwt.encode(claims, SIGNATURE, "HS256")


REFRESH = token("refresh", 3600)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Json
    authorization: str | None
    body: bytes


def answer(status: int, body: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps(body).encode()


def task(number: int, *annotations: Json) -> Json:
    counted = [a for a in annotations if not a["was_cancelled"]]
    return {
        "id": number,
        "data": {"text": f"task {number}"},
        "annotations": list(annotations),
        "predictions": [{"result": []}],
        "drafts": [{"result": []}],
        "predictions_results": "[]",
        "total_annotations": len(counted),
    }


def annotation(number: int, *, was_cancelled: bool = False) -> Json:
    return {
        "id": number,
        "result": [{"id": "aB3"}],
        "was_cancelled": was_cancelled,
        "updated_at": "2026-11-23T09:36:48.105691Z",
        "created_username": "Ann ann@example.com, 1",
    }


@dataclass
class Studio:
    """A server with Label Studio's filter, pages and tokens; ``faults`` come first."""

    tasks: list[Json] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    sub_path: str = ""
    access_s: float = 300
    accepted: set[str] = field(default_factory=lambda: {f"Token {LEGACY}"})

    def __enter__(self) -> Studio:
        studio = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                parts = urlsplit(self.path)
                request = Request(
                    self.command,
                    parts.path,
                    dict(parse_qsl(parts.query)),
                    self.headers.get("Authorization"),
                    self.rfile.read(int(self.headers.get("Content-Length") or 0)),
                )
                studio.requests.append(request)
                fault = studio.faults.pop(0) if studio.faults else lambda _: None
                status, headers, body = fault(request) or studio.route(request)
                with suppress(OSError):  # the client may have hung up
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            # The names that http.server calls.
            do_GET = do_POST = do_DELETE = _answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        serve = self._server.serve_forever
        Thread(target=serve, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.sub_path}"

    def route(self, request: Request) -> Answer:
        path = request.path.removeprefix(self.sub_path)
        if not request.path.startswith(self.sub_path):
            return answer(404)
        if path == "/api/token/refresh/":
            return self.exchange(json.loads(request.body)["refresh"])
        if request.authorization not in self.accepted:
            return answer(401, {"detail": "Authentication credentials"})
        if path == "/api/projects/7/":
            found = {
                "id": 7,
                "created_at": "2026-11-23T09:34:49.839721Z",
                "label_config": "<View/>",
                "total_annotations_number": sum(
                    one["total_annotations"] for one in self.tasks
                ),
                "task_number": len(self.tasks),
            }
            included = request.query["include"].split(",")
            return answer(200, {name: found[name] for name in included})
        if path != "/api/tasks/" or request.query["project"] != "7":
            return answer(404, {"detail": "Not found."})
        return self.page(request.query)

    def exchange(self, refresh: str) -> Answer:
        if refresh != REFRESH:
            return answer(401, {"detail": "Token is invalid"})
        access = token("access", self.access_s)
        self.accepted = {f"Bearer {access}"}
        return answer(200, {"access": access})

    def page(self, query: Json) -> Answer:
        assert query["fields"] == "all"
        assert query["resolve_uri"] == "false"
        asked = json.loads(query["query"])
        assert asked["ordering"] == ["tasks:id"]
        assert asked["filters"]["conjunction"] == "and"
        found = self.tasks
        for one in asked["filters"]["items"]:
            column = one["filter"].removeprefix("filter:tasks:")
            assert one["operator"] == "greater"
            found = [task for task in found if task[column] > one["value"]]
        sent = found[: int(query["page_size"])]
        return answer(200, {"tasks": sent, "total": len(found)})


@pytest.fixture
def studio() -> Iterator[Studio]:
    with Studio() as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds."""
    monkeypatch.setattr(session, "_PAUSES_S", (0.01, 0.05))


@pytest.fixture
def reads() -> Iterator[Callable[..., LabelStudioTasks]]:
    """Makes readers that are closed when the test ends."""
    made: list[LabelStudioTasks] = []

    def make(
        studio: Studio | str, key: SecretStr | str = LEGACY, **options: Any
    ) -> LabelStudioTasks:
        url = studio if isinstance(studio, str) else studio.url
        made.append(LabelStudioTasks(url, key, **{"patience_s": 5, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


Reads = Callable[..., LabelStudioTasks]


def ids(tasks: LabelStudioTasks, project: str = "7") -> list[int]:
    return [one["id"] for one in tasks.annotated(project)]


def refused(tasks: LabelStudioTasks, project: str = "7") -> str:
    """The one sentence of what is raised; nothing of it or behind it holds a key."""
    with pytest.raises(TrainingError) as raised:
        ids(tasks, project)
    error = raised.value
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = "".join(traceback.format_exception(error))
    for key in (LEGACY, REFRESH):
        assert key not in shown
    assert "\n" not in str(error)
    return str(error)


def hangs(over: Event) -> Fault:
    def wait(_: Request) -> None:
        over.wait(10)

    return wait


# What is read


def test_tasks_have_the_form_that_the_annotation_store_returns(
    studio: Studio, reads: Reads
) -> None:
    studio.tasks = [
        task(1),
        task(2, annotation(12), annotation(11), annotation(13, was_cancelled=True)),
        task(3, annotation(14, was_cancelled=True)),
    ]
    [found] = reads(studio).annotated("7")
    assert found == {
        "id": 2,
        "data": {"text": "task 2"},
        "annotations": [
            {
                "id": number,
                "result": [{"id": "aB3"}],
                "was_cancelled": False,
                "updated_at": "2026-11-23T09:36:48.105691Z",
            }
            for number in (11, 12)
        ],
        "total_annotations": 2,
    }


def test_an_annotation_without_a_result_has_an_empty_one(
    studio: Studio, reads: Reads
) -> None:
    studio.tasks = [task(1, {**annotation(1), "result": None})]
    [found] = reads(studio).annotated("7")
    assert found["annotations"][0]["result"] == []


def test_every_task_comes_once_in_order_over_many_pages(
    studio: Studio, reads: Reads
) -> None:
    studio.tasks = [task(n, annotation(n)) for n in range(1, 26)]
    assert ids(reads(studio, page_size=10)) == list(range(1, 26))
    assert len(studio.requests) == 3


def test_a_server_with_smaller_pages_than_asked_for_is_read_to_the_end(
    studio: Studio, reads: Reads
) -> None:
    def small(request: Request) -> Answer:
        return studio.page({**request.query, "page_size": "2"})

    studio.tasks = [task(n, annotation(n)) for n in range(1, 6)]
    studio.faults = [small] * 3
    assert ids(reads(studio)) == [1, 2, 3, 4, 5]


def test_a_project_without_annotations_has_no_tasks_to_learn_from(
    studio: Studio, reads: Reads
) -> None:
    studio.tasks = [task(1)]
    assert ids(reads(studio)) == []
    assert len(studio.requests) == 1


def test_nothing_comes_twice_while_tasks_are_added_and_deleted(
    studio: Studio, reads: Reads
) -> None:
    studio.tasks = [task(n, annotation(n)) for n in range(1, 7)]
    found = []
    for one in reads(studio, page_size=2).annotated("7"):
        found.append(one["id"])
        if one["id"] == 2:
            del studio.tasks[0:3]
        if one["id"] == 5:
            studio.tasks.append(task(8, annotation(8)))
    assert found == [1, 2, 4, 5, 6, 8]


def test_a_page_in_another_order_is_refused(studio: Studio, reads: Reads) -> None:
    studio.tasks = [task(2, annotation(2)), task(1, annotation(1))]
    said = refused(reads(studio))
    assert "sent task 1 after task 2" in said
    assert "update Label Studio to 1.23" in said


def test_memory_does_not_grow_with_the_project(studio: Studio, reads: Reads) -> None:
    def many(request: Request) -> Answer:
        query = json.loads(request.query["query"])
        first = query["filters"]["items"][1]["value"] + 1
        last = min(first + 100, 2000)
        sent = [task(n, annotation(n)) for n in range(max(first, 1), last)]
        for one in sent:
            one["data"]["text"] *= 1000
        return answer(200, {"tasks": sent, "total": 2000 - first})

    studio.faults = [many] * 21
    gc.freeze()  # what other tests left is not looked through each time
    tracemalloc.start()
    held = []
    for read, _ in enumerate(reads(studio).annotated("7"), start=1):
        if read % 100 == 50:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    gc.unfreeze()
    assert read == 1999
    assert max(held) < 5e6  # a page is 0.9 MB of JSON, the project 18 MB


# Where and as whom


@pytest.mark.parametrize("tail", ["", "/", "//"])
@pytest.mark.parametrize("key", [LEGACY, REFRESH])
def test_a_label_studio_under_a_sub_path_is_read(
    studio: Studio, reads: Reads, tail: str, key: str
) -> None:
    studio.sub_path = "/label-studio"
    studio.tasks = [task(1, annotation(1))]
    assert ids(reads(studio.url + tail, key)) == [1]
    assert {r.path.split("/")[1] for r in studio.requests} == {"label-studio"}


@pytest.mark.parametrize("wrap", [str, SecretStr, lambda key: f" {key}\n"])
def test_a_legacy_token_is_sent_as_it_is(
    studio: Studio, reads: Reads, wrap: Callable[[str], Any]
) -> None:
    studio.tasks = [task(1, annotation(1))]
    assert ids(reads(studio, wrap(LEGACY))) == [1]
    [request] = studio.requests
    assert request.authorization == f"Token {LEGACY}"


def test_a_personal_access_token_is_exchanged_once(
    studio: Studio, reads: Reads
) -> None:
    studio.tasks = [task(n, annotation(n)) for n in range(1, 5)]
    assert ids(reads(studio, REFRESH, page_size=2)) == [1, 2, 3, 4]
    assert [r.method for r in studio.requests] == ["POST", "GET", "GET"]
    assert REFRESH not in str(studio.requests[1:])


def test_an_access_token_that_expires_during_a_read_is_renewed(
    studio: Studio, reads: Reads
) -> None:
    studio.access_s = -1
    studio.tasks = [task(n, annotation(n)) for n in range(1, 5)]
    assert ids(reads(studio, REFRESH, page_size=2)) == [1, 2, 3, 4]
    assert [r.method for r in studio.requests] == ["POST", "GET"] * 2


def test_an_access_token_that_is_refused_early_is_renewed(
    studio: Studio, reads: Reads
) -> None:
    studio.tasks = [task(n, annotation(n)) for n in range(1, 5)]
    found = []
    for one in reads(studio, REFRESH, page_size=2).annotated("7"):
        found.append(one["id"])
        studio.accepted = studio.accepted if one["id"] != 2 else set()
    assert found == [1, 2, 3, 4]
    methods = [r.method for r in studio.requests]
    assert methods == ["POST", "GET", "GET", "POST", "GET"]


def test_a_revoked_personal_access_token_is_not_tried_again(
    studio: Studio, reads: Reads
) -> None:
    said = refused(reads(studio, token("refresh", 3600)))
    assert "answered 401 to the exchange of a personal access token" in said
    assert "revoked or has expired: create a new one" in said
    assert len(studio.requests) == 1


def test_an_expired_personal_access_token_is_not_even_sent(
    studio: Studio, reads: Reads
) -> None:
    said = refused(reads(studio, token("refresh", -10)))
    assert "was not asked; it refuses the personal access token" in said
    assert studio.requests == []


def test_a_password_in_the_address_is_neither_sent_nor_shown(
    studio: Studio, reads: Reads
) -> None:
    url = studio.url.replace("//", "//user:p@ss@")
    studio.tasks = [task(1, annotation(1))]
    assert ids(reads(url)) == [1]
    assert "p@ss" not in refused(reads(url, "another"))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("key", [LEGACY, REFRESH])
def test_a_redirect_is_reported_and_not_followed(
    studio: Studio, reads: Reads, status: int, key: str
) -> None:
    with Studio() as elsewhere:
        there = elsewhere.url + "/api/tasks/?secret=1"
        studio.faults = [lambda _: answer(status, Location=there)]
        said = refused(reads(studio, key))
        assert elsewhere.requests == []
    assert f"a redirect to '{elsewhere.url}/api/tasks/'" in said
    assert "set LABEL_STUDIO_URL to the address that does not redirect" in said
    assert len(studio.requests) == 1


# Trouble that passes


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("key", [LEGACY, REFRESH])
def test_statuses_that_pass_are_waited_for(
    studio: Studio, reads: Reads, status: int, key: str
) -> None:
    studio.tasks = [task(1, annotation(1))]
    studio.faults = [lambda _: (status, {}, b"<html>")] * 3
    assert ids(reads(studio, key)) == [1]
    assert len(studio.requests) == (4 if key == LEGACY else 5)


@pytest.mark.parametrize("shape", ["seconds", "date"])
def test_retry_after_is_honoured(studio: Studio, reads: Reads, shape: str) -> None:
    after = "1" if shape == "seconds" else formatdate(time.time() + 2, usegmt=True)
    studio.tasks = [task(1, annotation(1))]
    studio.faults = [lambda _: answer(429, Retry_After=after)]
    started = time.monotonic()
    assert ids(reads(studio)) == [1]
    assert 0.9 < time.monotonic() - started < 4


def test_a_retry_after_beyond_the_patience_is_not_waited_for(
    studio: Studio, reads: Reads
) -> None:
    studio.faults = [lambda _: answer(429, Retry_After="300")]
    started = time.monotonic()
    said = refused(reads(studio))
    assert time.monotonic() - started < 2
    assert "answered 429, asking to wait 300 s" in said
    assert "ask for a higher rate limit" in said


def test_patience_ends(studio: Studio, reads: Reads) -> None:
    studio.faults = [lambda _: answer(503)] * 1000
    started = time.monotonic()
    said = refused(reads(studio, patience_s=0.5))
    assert 0.4 < time.monotonic() - started < 2
    assert said.startswith(
        "the annotated tasks of project 7 cannot be read: Label Studio at "
        f"{studio.url} answered 503, for "
    )
    assert 5 < len(studio.requests) < 40  # pauses grow


def test_a_server_that_hangs_is_asked_for_less(
    studio: Studio, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_TIMEOUT_S", (1, 0.2))
    studio.tasks = [task(n, annotation(n)) for n in range(1, 31)]
    over = Event()
    studio.faults = [hangs(over), hangs(over)]
    assert ids(reads(studio)) == list(range(1, 31))
    over.set()
    sizes = [request.query["page_size"] for request in studio.requests]
    assert sizes == ["100", "50", "25", "25"]


def test_a_server_that_is_quick_again_is_asked_for_more_again(
    studio: Studio, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_TIMEOUT_S", (1, 0.2))
    studio.tasks = [task(n, annotation(n)) for n in range(1, 41)]
    over = Event()
    studio.faults = [hangs(over)]
    assert ids(reads(studio, page_size=4)) == list(range(1, 41))
    over.set()
    sizes = [int(request.query["page_size"]) for request in studio.requests]
    assert sizes == [4, *[2] * 11, *[4] * 5]


def test_only_a_server_that_took_the_question_is_asked_for_less() -> None:
    timeouts = {"timeout": {"connect": 5.0, "read": 30.0}}
    request = httpx.Request("GET", "http://label-studio", extensions=timeouts)
    kinds = (httpx.ReadTimeout, httpx.ConnectTimeout, httpx.PoolTimeout)
    found = [transport_problem(kind("", request=request)) for kind in kinds]
    assert [trouble.slow for trouble in found] == [True, False, False]
    assert all(trouble.passes for trouble in found)


def test_a_server_that_never_answers_is_given_up(
    studio: Studio, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_TIMEOUT_S", (1, 0.1))
    over = Event()
    studio.faults = [hangs(over)] * 100
    said = refused(reads(studio, patience_s=0.3))
    over.set()
    assert "did not answer in 0.1 s, for " in said


def test_a_server_that_starts_later_is_waited_for(reads: Reads) -> None:
    with Studio() as gone:
        url = gone.url
    said = refused(reads(url, patience_s=0.2))
    assert "cannot be reached (" in said
    assert "refused" in said
    assert said.endswith("; check LABEL_STUDIO_URL")


def test_an_answer_that_broke_off_is_asked_for_again(
    studio: Studio, reads: Reads
) -> None:
    studio.tasks = [task(1, annotation(1))]
    studio.faults = [lambda _: (200, {"Content-Length": "100"}, b'{"tasks"')]
    assert ids(reads(studio)) == [1]


def test_waiting_is_logged_without_the_key(
    studio: Studio, reads: Reads, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    studio.tasks = [task(1, annotation(1))]
    studio.faults = [lambda _: answer(503)]
    assert ids(reads(studio, REFRESH)) == [1]
    [warning] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "answered 503" in warning.getMessage()
    assert "retrying in 0.0 s" in warning.getMessage()
    [accepted] = studio.accepted
    for secret in (REFRESH, accepted.removeprefix("Bearer ")):
        assert secret not in caplog.text


# Trouble that does not


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, "see its log"),
        (401, "legacy tokens are off in new organizations: create a personal access"),
        (403, "make the user of LABEL_STUDIO_API_KEY a member of the project"),
        (404, "its sub-path included, is the Label Studio of this project"),
    ],
)
def test_a_refusal_is_not_tried_again(
    studio: Studio, reads: Reads, status: int, remedy: str
) -> None:
    studio.faults = [lambda _: answer(status, {"detail": LEGACY})]
    said = refused(reads(studio))
    assert f"Label Studio at {studio.url} answered {status}; " in said
    assert remedy in said
    assert len(studio.requests) == 1


def test_a_personal_access_token_that_stays_refused_is_exchanged_once_more(
    studio: Studio, reads: Reads
) -> None:
    studio.faults = [lambda _: None, lambda _: answer(401)] * 2
    assert "answered 401;" in refused(reads(studio, REFRESH))
    assert [r.method for r in studio.requests] == ["POST", "GET"] * 2


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html>", b"", b"[]", b"{}", b'{"tasks": null}', b'{"tasks": [1]}'),
        *(b'{"tasks": [{"id": "x", "annotations": []}]}', b'{"tasks": [{"id": 1}]}'),
        b'{"tasks": [{"id": 1, "annotations": [{"id": 1, "was_cancelled": false}]}]}',
    ],
)
def test_an_answer_that_is_not_label_studios_is_refused(
    studio: Studio, reads: Reads, body: bytes
) -> None:
    studio.faults = [lambda _: (200, {}, body)]
    said = refused(reads(studio))
    assert "check that LABEL_STUDIO_URL is a Label Studio" in said
    assert len(studio.requests) == 1


@pytest.mark.parametrize("body", [b"<html>", b'{"access": 7}', b"{}", b"[]"])
def test_an_odd_exchange_is_refused(studio: Studio, reads: Reads, body: bytes) -> None:
    studio.faults = [lambda _: (200, {}, body)]
    assert "check that LABEL_STUDIO_URL is" in refused(reads(studio, REFRESH))


@pytest.mark.parametrize("project", ["", "a", "7/../8", "-1", "\u0667"])
def test_a_project_id_that_label_studio_cannot_have_is_not_requested(
    studio: Studio, reads: Reads, project: str
) -> None:
    assert "its projects have numbers" in refused(reads(studio), project)
    assert studio.requests == []


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "ftp://a", "http://[", "http://", "http://[a"]
)
def test_an_invalid_address_is_named(reads: Reads, url: str) -> None:
    assert "set LABEL_STUDIO_URL to an address" in refused(reads(url))


@pytest.mark.parametrize("key", ["a\nb", "schlüssel", "日本"])
def test_a_key_that_no_header_takes_is_named_and_not_shown(
    studio: Studio, reads: Reads, key: str
) -> None:
    said = refused(reads(studio, key))
    assert "copy LABEL_STUDIO_API_KEY again" in said
    assert key not in said


def test_after_closing_it_opens_again(studio: Studio, reads: Reads) -> None:
    studio.tasks = [task(1, annotation(1))]
    tasks = reads(studio)
    assert ids(tasks) == [1]
    tasks.close()
    assert ids(tasks) == [1]
