"""Bodies that no Label Studio would send: a 4xx with one sentence, never a 5xx.

The law holds for 500 generated bodies in every run and for 10,000 with ``make fuzz``.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsml_bento.errors import MediaError
from lsml_bento.log_format import TextFormatter
from lsml_bento.model.base_class import LabelStudioMLBase
from tests.conftest import Serve
from tests.doubles import (
    CONFIG,
    PROJECT,
    Client,
    client_of,
    interactive,
    one_sentence,
    setup_body,
    texts,
)

SECRET = setup_body()["access_token"]


class Blank(LabelStudioMLBase):
    """Finds nothing, whatever is in the tasks."""

    def predict(
        self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
    ) -> list[Any]:
        return [{"result": [], "score": len(tasks)} for _ in tasks]


@pytest.fixture(scope="module")
def blank() -> Iterator[Client]:
    client = client_of(Blank, LSML_MAX_BODY_MIB="2")
    yield client
    client.close()


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens, at whatever level: the access token is in no line."""
    with caplog.at_level(logging.DEBUG):
        yield
    assert SECRET not in caplog.text


def changed(body: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {**body, **changes}


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


POSTS = [
    "/api/jobs/1/cancel",
    "/api/jobs/1/retry",
    "/api/projects/1/versions/v1/activate",
]
"""Routes of ours that need no body."""

NO_OBJECT = "expected a JSON object, found"
BAD_PROJECT = 'project: a project is written as "1" or "1.1795426489"'


class TestBodiesThatAreNoJson:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"{'tasks': []}",
            b'{"tasks": []}}',
            b"\xff\xfe{}",
            b"\xef\xbb\xbf{}",
            '{"tasks": []}'.encode("utf-16"),
            b'{"tasks": [\x00]}',
            b'{"project": "\x00"}',
            b'{"project": NaN}',
            b'{"project": Infinity}',
            b'{"project": "\\ud800"}',
            b'{"project": "\xed\xa0\x80"}',
            b'{"project": 1' + b"0" * 400 + b"}",
            b"[" * 100_000,
            b"[" * 100_000 + b"]" * 100_000,
            b'{"tasks":' * 100_000,
            b"\x80\x04\x95pickle",
        ],
    )
    @pytest.mark.parametrize(
        "path",
        ["/predict", "/setup", "/webhook", "/train", *POSTS],
    )
    def test_they_are_400(self, blank: Client, path: str, content: bytes) -> None:
        if path in POSTS and not content:
            return  # as curl sends them
        answer = blank.post(path, content=content)

        assert answer.status_code == 400
        assert one_sentence(answer).startswith("the body is not valid JSON: ")

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"[]", "a list"),
            (b"null", "null"),
            (b"true", "a boolean"),
            (b"1.5", "a number"),
            (b'"x"', "a string"),
        ],
    )
    @pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook"])
    def test_json_that_is_not_an_object_is_refused(
        self, blank: Client, path: str, content: bytes, found: str
    ) -> None:
        answer = blank.post(path, content=content)

        assert answer.status_code == 422
        assert one_sentence(answer).startswith(f"{NO_OBJECT} {found}: ")

    @pytest.mark.parametrize(
        "path", ["/train", "/job_status", "/validate", "/delete", *POSTS]
    )
    def test_older_routes_take_objects_only_too(self, blank: Client, path: str) -> None:
        answer = blank.post(path, content=b"[]")

        assert answer.status_code == 422
        assert one_sentence(answer) == "expected a JSON object"


class TestPredict:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"tasks": None}, "tasks: Input should be a valid list"),
            ({"tasks": {"id": 1}}, "tasks: Input should be a valid list"),
            ({"tasks": "x"}, "tasks: Input should be a valid list"),
            ({"tasks": [None]}, "tasks[0]: expected a JSON object, found "),
            ({"tasks": [[]]}, "tasks[0]: expected a JSON object, found "),
            ({"tasks": [{}]}, "tasks[0].data: Field required"),
            (
                {"tasks": [{"data": {}}, {"data": []}]},
                "tasks[1].data: Input should be a valid dictionary",
            ),
            ({"tasks": [{"data": {}, "id": {}}]}, "tasks[0].id.int: "),
            ({"tasks": [{"data": {}, "id": 1.5}]}, "tasks[0].id.int: "),
            ({"label_config": 1}, "label_config: Input should be a valid string"),
            (
                {"label_config": [CONFIG]},
                "label_config: Input should be a valid string",
            ),
            (
                {"params": {"deep": nested(500)}},
                "params: nested deeper than 100 levels",
            ),
        ],
    )
    def test_wrong_types_name_their_place(
        self, blank: Client, changes: dict[str, Any], reason: str
    ) -> None:
        answer = blank.post("/predict", changed(texts("a"), **changes))

        assert answer.status_code == 422
        assert one_sentence(answer).startswith(reason)

    def test_a_body_without_tasks_says_so(self, blank: Client) -> None:
        answer = blank.post("/predict", {"project": PROJECT})

        assert answer.status_code == 422
        assert one_sentence(answer) == "tasks: Field required"

    @pytest.mark.parametrize(
        "changes",
        [
            {"params": None},
            {"params": "x"},
            {"params": [1]},
            {"params": {"self": 1, "tasks": 2, "helper": 3, "": 4, "a b": 5}},
            {"params": {"context": nested(500)}},
            {"params": {"context": False}},
            {"label_config": ""},
            {"label_config": " \n"},
            {"label_config": None},
            {"project": None},
            {"project": 18_446_744_073_709_551_615},
            {"tasks": [{"data": {"deep": nested(900)}}]},
            {"tasks": [{"data": {"": "\0"}, "id": 2**63, "\0": None}]},
            {"tasks": [{"data": {"x": 10**25}, "id": "\0"}]},
            {"unknown": {"key": 1}, "model_version": 3},
        ],
    )
    def test_what_is_only_strange_is_answered(
        self, blank: Client, changes: dict[str, Any]
    ) -> None:
        body = changed(texts("a"), **changes)

        results = blank.results(body)

        assert [slot["result"] for slot in results] == [[]]

    def test_of_two_equal_keys_the_last_one_counts(self, blank: Client) -> None:
        content = b'{"tasks": [{"data": {}}], "tasks": [{"data": {}}, {"data": {}}]}'

        answer = blank.post("/predict", content=content)

        assert answer.status_code == 200
        assert len(answer.json()["results"]) == 2


PATHS = [
    "../../etc/passwd",
    "1/../2",
    "/1",
    "1.",
    ".1",
    "1.2.3",
    "1.x",
    "1.-5",
    "1." + "9" * 16,
    "a" * 65,
    "1\n2",
    "1\0",
    "%2e%2e",
    "c:\\windows",
    "1 OR 1=1",
    "\u0661.\u0662",  # digits, though Arabic ones
    "💥",
]


class TestProjects:
    @pytest.mark.parametrize("project", PATHS)
    @pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook", "/train"])
    def test_an_id_with_path_characters_is_refused(
        self, blank: Client, path: str, project: str
    ) -> None:
        body = {**texts("a"), **setup_body(), "action": "X", "project": project}

        answer = blank.post(path, body)

        assert answer.status_code == 422
        assert one_sentence(answer) == BAD_PROJECT

    @pytest.mark.parametrize(
        ("project", "found"),
        [(True, "bool"), (1.5, "float"), ([1], "list"), (10**25, "float")],
    )
    def test_a_project_of_another_type_is_refused(
        self, blank: Client, project: object, found: str
    ) -> None:
        answer = blank.post("/predict", texts("a", project=project))

        assert answer.status_code == 422
        reason = f"project: a project is a string or a number, not {found}"
        assert one_sentence(answer) == reason

    def test_projects_inside_each_other_are_refused(self, blank: Client) -> None:
        project: Any = {"id": 1}
        for _ in range(900):
            project = {"id": project}

        answer = blank.post("/webhook", {"action": "X", "project": project})

        assert answer.status_code == 422
        reason = "project: a project's id is a string or a number, not an object"
        assert one_sentence(answer) == reason

    @pytest.mark.parametrize(
        "created_at",
        [None, 5, [], "", "yesterday", "0001-01-01T00:00:00", "9999-12-31T23:59:59Z"],
    )
    def test_a_strange_creation_time_in_an_event_is_taken(
        self, blank: Client, created_at: object
    ) -> None:
        event = {"action": "X", "project": {"id": 1, "created_at": created_at}}

        assert blank.post("/webhook", event).status_code == 200


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">'
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><View>&i;</View>"
)
EXTERNAL = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><View>&f;</View>'


class TestLabelConfigs:
    @pytest.mark.parametrize(
        "label_config",
        [
            "<View",
            "not XML",
            "<View></View><View></View>",
            "<View>&undefined;</View>",
            "<View>\0</View>",
            "<View a='1' a='2'/>",
            "<View>" * 100_000,
            "<View>" * 10_000 + "</View>" * 10_000,
            "<?xml version='1.0' encoding='utf-16'?><View/>",
            "{}",
        ],
    )
    @pytest.mark.parametrize("key", ["schema", "label_config"])
    def test_one_that_does_not_parse_is_422(
        self, blank: Client, key: str, label_config: str
    ) -> None:
        path = "/setup" if key == "schema" else "/predict"
        body = {**texts("a", "b", "c"), **setup_body(), key: label_config}

        answer = blank.post(path, body)

        assert answer.status_code == 422
        assert one_sentence(answer).startswith("the label config is invalid: ")

    @pytest.mark.parametrize(
        "label_config", [BOMB, EXTERNAL, EXTERNAL.lower(), "<!DOCTYPE html><View/>"]
    )
    @pytest.mark.parametrize("path", ["/setup", "/predict", "/validate"])
    def test_a_document_type_and_entities_are_refused(
        self, blank: Client, path: str, label_config: str
    ) -> None:
        body = {
            **texts("a"),
            **setup_body(schema=label_config),
            "config": label_config,
            "label_config": label_config,
        }

        answer = blank.post(path, body)

        assert answer.status_code == 422
        assert one_sentence(answer).startswith(
            "the label config declares a DOCTYPE or an entity"
        )

    def test_a_broken_one_does_not_stay_behind(self, serve: Serve) -> None:
        client = serve(Blank)
        assert client.version() == "0.0.1"

        assert client.post("/setup", setup_body(schema="<View")).status_code == 422

        assert client.version(schema=None) == "0.0.1"
        assert len(client.results(changed(texts("a"), label_config=None))) == 1


class TestSetup:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"schema": 1}, "schema: Input should be a valid string"),
            ({"schema": {}}, "schema: Input should be a valid string"),
            ({"extra_params": nested(300)}, "extra_params: nested deeper than 100"),
        ],
    )
    def test_wrong_types_name_their_place(
        self, blank: Client, changes: dict[str, Any], reason: str
    ) -> None:
        answer = blank.post("/setup", changed(setup_body(), **changes))

        assert answer.status_code == 422
        assert one_sentence(answer).startswith(reason)

    @pytest.mark.parametrize("token", [None, 5, ["x"], {}, SECRET * 100])
    @pytest.mark.parametrize("hostname", [None, 5, "file:///etc", "x" * 10_000])
    def test_the_token_and_the_host_are_not_looked_at(
        self, blank: Client, token: object, hostname: object
    ) -> None:
        body = changed(setup_body(), access_token=token, hostname=hostname)

        answer = blank.post("/setup", body)

        assert answer.status_code == 200
        assert answer.json() == {"model_version": "0.0.1"}

    def test_an_empty_object_is_answered(self, blank: Client) -> None:
        answer = blank.post("/setup", {})

        assert answer.status_code == 200
        assert answer.json() == {"model_version": "0.0.1"}

    @pytest.mark.parametrize(
        "extra_params", [0, True, "text", [1, {"a": None}], {"a": "\0"}, 10**30]
    )
    def test_extra_params_may_be_any_json(
        self, blank: Client, extra_params: object
    ) -> None:
        assert blank.version(extra_params=extra_params) == "0.0.1"


class TestEvents:
    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({}, "action: Field required"),
            ({"action": None}, "action: Input should be a valid string"),
            ({"action": ["X"]}, "action: Input should be a valid string"),
            ({"action": ""}, "action: String should have at least 1 character"),
            ({"action": "x" * 101}, "action: String should have at most 100 char"),
        ],
    )
    def test_an_event_without_an_action_is_refused(
        self, blank: Client, body: dict[str, Any], reason: str
    ) -> None:
        answer = blank.post("/webhook", body)

        assert answer.status_code == 422
        assert one_sentence(answer).startswith(reason)

    def test_an_action_cannot_add_lines_to_the_log(
        self, blank: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert blank.post("/webhook", {"action": "X\nERROR x"}).status_code == 200

        assert "event='X\\nERROR x'" in caplog.text

    def test_a_task_id_cannot_add_lines_to_the_log(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Picky(Blank):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                return [
                    {"result": {1, object()}} if t["id"] != 1 else [] for t in tasks
                ]

        body = texts("a", "b", "c")
        body["tasks"][1]["id"] = "2\nERROR x"
        body["tasks"][2]["id"] = "3" * 1_000

        assert serve(Picky).results(body) == [[], [], []]

        assert "tasks='2\\nERROR x', '3333" in caplog.text
        assert "3" * 100 not in caplog.text

    @pytest.mark.parametrize("separator", ["\n", "\r", "\u2028"])
    def test_no_text_of_a_request_starts_a_line_of_the_log(
        self, serve: Serve, caplog: pytest.LogCaptureFixture, separator: str
    ) -> None:
        class Quoting(Blank):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                data = tasks[0]["data"]
                if "url" in data:
                    raise MediaError(f"{data['url']} cannot be read")
                raise ValueError(data["text"])

        forged = f"a{separator}ERROR forged"
        body = texts("a", forged)
        body["tasks"][0]["data"]["url"] = forged
        client = serve(Quoting)

        client.post("/webhook", {"action": forged})
        client.post("/predict", body)
        client.post("/webhook", {"action": "X", "project": {"id": forged}})
        client.post(f"/api/projects/1/versions/{quote(forged)}/activate")

        ours = [one for one in caplog.records if one.name.startswith("lsml_bento")]
        text = "\n".join(map(TextFormatter().format, ours))
        assert text.count("ERROR forged") >= 5
        assert "ERROR forged" not in {line[:12] for line in text.splitlines()}


# Bodies made at random: valid ones with a piece that is wrong, and plain noise.

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*PATHS, CONFIG, "<View/>", EXTERNAL, "START_TRAINING", "\ud800"]),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([10**25, 2**63, -(2**63) - 1, 1e308]),
    TEXTS,
)
KEYS = st.one_of(
    st.sampled_from(
        ["tasks", "project", "label_config", "schema", "params", "context", "id"]
    ),
    st.sampled_from(["data", "action", "extra_params", "result", "created_at", "job"]),
    st.text(max_size=5),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)
GOOD: list[tuple[str, Callable[[], dict[str, Any]]]] = [
    ("/predict", lambda: texts("a", "b", "c")),
    ("/predict", lambda: interactive("a", {"result": [{"id": "r", "value": {}}]})),
    ("/setup", lambda: setup_body(extra_params={"a": 1})),
    ("/webhook", lambda: {"action": "ANNOTATION_CREATED", "project": {"id": 1}}),
    ("/train", lambda: {"project": PROJECT, "annotations": []}),
    ("/job_status", lambda: {"job": "1"}),
    ("/validate", lambda: {"config": CONFIG}),
    ("/delete", lambda: {"project": PROJECT}),
    ("/duplicate_model", lambda: {"project_src": 1, "project_dst": 2}),
    ("/api/jobs/1/cancel", dict),
    ("/api/jobs/1/retry", lambda: {"why": [1]}),
    ("/api/projects/1/versions/v1/activate", lambda: {"pin": True}),
]


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[str, bytes]:
    """A route, and a valid body for it in which some places hold something else."""
    path, make = draw(st.sampled_from(GOOD))
    body: Any = make()
    for _ in range(draw(st.integers(1, 3))):
        place: Any = body
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and draw(st.booleans()):
                place = place[key]
                continue
            if isinstance(place, dict) and draw(st.integers(0, 4)) == 0:
                del place[key]
            else:
                place[key] = draw(JSON)
            break
    return path, encoded(body)


def encoded(body: object) -> bytes:
    return json.dumps(body).encode()


@st.composite
def noise(draw: st.DrawFn) -> tuple[str, bytes]:
    """A route, and any JSON, any bytes, or a piece of a valid body."""
    path, make = draw(st.sampled_from(GOOD))
    whole = encoded(make())
    content = draw(
        st.one_of(
            JSON.map(encoded),
            st.binary(max_size=50),
            st.integers(0, len(whole)).map(lambda end: whole[:end]),
        )
    )
    return path, content


BODIES = st.one_of(spoiled(), spoiled(), noise())


def check(answer: httpx.Response, path: str, content: bytes) -> None:
    """The law: an answer of the contract, or a refusal in one sentence."""
    unknown = 404 if path.startswith("/api/") else 410
    assert answer.status_code in (200, 400, unknown, 422), answer.text
    if answer.status_code != 200:
        one_sentence(answer)
    elif path == "/setup":
        assert answer.json() == {"model_version": "0.0.1"}
    elif path == "/predict":
        results = answer.json()["results"]
        assert len(results) == len(json.loads(content)["tasks"])
        assert all(slot["model_version"] == "0.0.1" for slot in results)
    else:
        assert isinstance(answer.json(), dict)


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """All lines of all loggers, tracebacks included."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def attack(client: Client, bodies: int, *, derandomize: bool) -> None:
    count = 0

    @settings(
        max_examples=bodies,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(BODIES)
    def every_body_is_answered(case: tuple[str, bytes]) -> None:
        nonlocal count
        count += 1
        path, content = case
        check(client.post(path, content=content), path, content)

    with everything_logged() as written:
        every_body_is_answered()
    assert count >= bodies
    assert SECRET not in written.getvalue()
    assert client.get("/health").status_code == 200


def test_500_hostile_bodies_get_no_5xx(blank: Client) -> None:
    attack(blank, 500, derandomize=True)


@pytest.mark.fuzz
def test_10_000_hostile_bodies_get_no_5xx(blank: Client) -> None:
    attack(blank, 10_000, derandomize=False)
