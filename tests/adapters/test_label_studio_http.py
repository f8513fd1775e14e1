"""Routes, paths, methods, content types, limits and Basic auth."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from starlette.applications import Starlette

from lsml_bento.adapters.edge import EdgeMiddleware
from tests.conftest import Serve
from tests.doubles import (
    CONFIG,
    PROJECT,
    Client,
    Echo,
    one_sentence,
    setup_body,
    texts,
)

UP = {"status": "UP", "model_class": "Echo"}


def basic(user: str, password: str, encoding: str = "utf-8") -> dict[str, str]:
    """The header of a client that encodes credentials in its own way."""
    encoded = base64.b64encode(f"{user}:{password}".encode(encoding)).decode()
    return {"Authorization": f"Basic {encoded}"}


class TestPaths:
    @pytest.mark.parametrize("path", ["/", "/health", "/health/", "//health", "//"])
    def test_health_is_up_however_its_path_is_spelled(
        self, echo: Client, path: str
    ) -> None:
        answer = echo.get(path)

        assert answer.status_code == 200
        assert answer.json() == UP

    @pytest.mark.parametrize(
        "path", ["/predict", "//predict", "/predict/", "//predict//"]
    )
    def test_predict_is_found_without_a_redirect(self, echo: Client, path: str) -> None:
        answer = echo.post(path, texts("a"))

        assert answer.status_code == 200
        assert len(answer.json()["results"]) == 1

    @pytest.mark.parametrize("root", ["/pre/fix", "pre/fix", "/pre/fix/"])
    @pytest.mark.parametrize(
        "path", ["/pre/fix/health", "/health", "//pre//fix//health/", "/pre/fix", "/"]
    )
    def test_a_prefix_may_be_there_or_be_cut_off_by_a_proxy(
        self, serve: Serve, root: str, path: str
    ) -> None:
        client = serve(Echo, LSML_ROOT_PATH=root)

        answer = client.get(path)

        assert answer.status_code == 200
        assert answer.json() == UP

    def test_a_path_that_only_begins_like_the_prefix_is_another_one(
        self, serve: Serve
    ) -> None:
        client = serve(Echo, LSML_ROOT_PATH="/pre")

        answer = client.get("/prehealth")

        assert answer.status_code == 404
        assert one_sentence(answer) == "GET '/prehealth': there is nothing there"

    def test_head_of_the_root_answers_as_get_does(self, echo: Client) -> None:
        answer = echo.request("HEAD", "/")

        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"

    @pytest.mark.parametrize("path", ["/nothing", "/predict/1", "/../etc/passwd"])
    def test_an_unknown_path_is_404_in_json(self, echo: Client, path: str) -> None:
        answer = echo.get(path)

        assert answer.status_code == 404
        assert one_sentence(answer).endswith(": there is nothing there")

    def test_a_path_can_not_write_lines_of_its_own_into_log_or_answer(
        self, echo: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            answer = echo.post("/x%0aERROR%20forged", {})

        assert (
            one_sentence(answer) == "POST '/x\\nERROR forged': there is nothing there"
        )
        assert "\nERROR forged" not in caplog.text

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/predict", "POST"),
            ("GET", "/setup", "POST"),
            ("PUT", "/webhook", "POST"),
            ("DELETE", "/train", "POST"),
            ("POST", "/health", "GET, HEAD"),
            ("POST", "/", "GET, HEAD"),
            ("POST", "/versions", "GET, HEAD"),
        ],
    )
    def test_a_wrong_method_is_405_in_json_and_names_the_right_one(
        self, echo: Client, method: str, path: str, allowed: str
    ) -> None:
        answer = echo.request(method, path)

        assert answer.status_code == 405
        assert one_sentence(answer) == f"{method} {path!r}: that path has other methods"
        assert sorted(answer.headers["allow"].split(", ")) == allowed.split(", ")


class TestOlderRoutes:
    def test_train_is_taken_whatever_its_annotations_are(self, echo: Client) -> None:
        body = {"annotations": [{"id": 1}], "project": PROJECT, "label_config": CONFIG}

        answer = echo.post("/train", body)

        assert answer.status_code == 200
        assert answer.json() == {}

    def test_no_job_is_known(self, echo: Client) -> None:
        answer = echo.post("/job_status", {"job": "abc"})

        assert answer.status_code == 410
        assert one_sentence(answer) == "there is no job 'abc'"

    @pytest.mark.parametrize("body", [{}, {"job": None}, {"job": ["x"]}])
    def test_a_job_status_without_a_job_is_refused(
        self, echo: Client, body: dict[str, Any]
    ) -> None:
        answer = echo.post("/job_status", body)

        assert answer.status_code == 422
        assert one_sentence(answer) == 'expected {"job": id}, as /train answered it'

    @pytest.mark.parametrize("path", ["/is_training", "/is_training?project=1.5"])
    def test_nothing_is_ever_training(self, echo: Client, path: str) -> None:
        answer = echo.get(path)

        assert answer.status_code == 200
        assert answer.json() == {"is_training": False}

    def test_is_training_of_a_path_is_refused(self, echo: Client) -> None:
        answer = echo.get("/is_training?project=../x")

        assert answer.status_code == 422
        assert one_sentence(answer).startswith("project: a project is named like")

    def test_a_label_config_is_validated(self, echo: Client) -> None:
        answer = echo.post("/validate", {"config": CONFIG})

        assert answer.status_code == 200
        assert answer.json() == {"status": "ok"}

    def test_a_label_config_that_does_not_parse_is_said_to(self, echo: Client) -> None:
        answer = echo.post("/validate", {"config": "<View>"})

        assert answer.status_code == 422
        assert one_sentence(answer).startswith("the label config does not parse: ")

    def test_validate_without_a_config_is_refused(self, echo: Client) -> None:
        answer = echo.post("/validate", {"config": 1})

        assert answer.status_code == 422
        assert one_sentence(answer) == 'expected {"config": label config}'

    @pytest.mark.parametrize("path", ["/delete", "/duplicate_model"])
    def test_other_notices_are_acknowledged(self, echo: Client, path: str) -> None:
        answer = echo.post(path, {"project": PROJECT})

        assert answer.status_code == 200
        assert answer.json() == {}


class TestContentTypes:
    @pytest.mark.parametrize(
        "declared",
        [
            "application/vnd.bentoml+pickle",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain",
            "text/html",
            "application/octet-stream",
            "application/jsonx",
            "{}",
        ],
    )
    @pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook", "/train"])
    def test_what_is_not_sent_as_json_is_415(
        self, echo: Client, path: str, declared: str
    ) -> None:
        answer = echo.post(path, content=b"{}", headers={"Content-Type": declared})

        assert answer.status_code == 415
        assert one_sentence(answer).endswith(": send application/json")

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Content-Type": ""},
            {"Content-Type": "application/json; charset=utf-8"},
            {"Content-Type": "Application/JSON"},
            {"Content-Type": "application/json", "Content-Encoding": "identity"},
        ],
    )
    def test_json_is_taken_with_a_content_type_or_without(
        self, echo: Client, headers: dict[str, str]
    ) -> None:
        content = json.dumps(texts("a")).encode()

        answer = echo.post("/predict", content=content, headers=headers)

        assert answer.status_code == 200
        assert len(answer.json()["results"]) == 1

    def test_a_compressed_body_is_415(self, echo: Client) -> None:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

        answer = echo.post("/predict", content=b"x", headers=headers)

        assert answer.status_code == 415
        assert one_sentence(answer) == "the body is compressed: send it as it is"


class TestSizes:
    LIMIT = 0.001  # MiB: 1,048 bytes
    REASON = (
        "the body is over 0.000999451 MiB: send fewer tasks, or raise LSML_MAX_BODY_MIB"
    )

    def test_a_body_that_declares_too_much_is_not_read(self, serve: Serve) -> None:
        client = serve(Echo, LSML_MAX_BODY_MIB=str(self.LIMIT))

        answer = client.post("/predict", texts("x" * 2_000))

        assert answer.status_code == 413
        assert one_sentence(answer) == self.REASON

    def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(
        self, serve: Serve
    ) -> None:
        client = serve(Echo, LSML_MAX_BODY_MIB=str(self.LIMIT))
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 1_000:
                sent += 1
                yield b" " * 500

        answer = client.post("/predict", content=endless())

        assert answer.status_code == 413
        assert one_sentence(answer) == self.REASON

    def test_a_body_at_the_limit_is_taken(self, serve: Serve) -> None:
        client = serve(Echo, LSML_MAX_BODY_MIB=str(self.LIMIT))
        content = json.dumps({"action": "X"}).encode().ljust(1_048)

        assert client.post("/webhook", content=content).status_code == 200
        assert client.post("/webhook", content=content + b" ").status_code == 413

    @pytest.mark.parametrize("length", ["9" * 5_000, "1e9", "-1", "²", "many"])
    def test_a_strange_content_length_breaks_nothing(
        self, echo: Client, length: str
    ) -> None:
        status = asyncio.run(raw_post(echo.app, [(b"content-length", length)]))

        assert status in (200, 413)


async def raw_post(app: Any, headers: list[tuple[bytes, str]]) -> int:
    """The status that headers get which no HTTP client would send."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/delete",
        "query_string": b"",
        "headers": [(name, value.encode("latin-1")) for name, value in headers],
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


class TestBasicAuth:
    CREDENTIALS: ClassVar = {
        "BASIC_AUTH_USER": "ls",
        "BASIC_AUTH_PASS": "s3cret:with colon",
    }

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/"),
            ("POST", "/setup"),
            ("POST", "/predict"),
            ("POST", "//predict/"),
            ("POST", "/webhook"),
            ("GET", "/versions"),
            ("POST", "/train"),
            ("POST", "/job_status"),
            ("GET", "/is_training"),
            ("POST", "/validate"),
            ("POST", "/delete"),
            ("POST", "/duplicate_model"),
            ("GET", "/api/status"),
            ("GET", "/metrics"),
            ("GET", "/docs.json"),
            ("GET", "/nothing"),
            ("GET", "/health/x"),
            ("GET", "/HEALTH"),
            ("GET", "/health/../versions"),
        ],
    )
    def test_every_route_but_the_health_probes_asks_for_credentials(
        self, serve: Serve, method: str, path: str
    ) -> None:
        client = serve(Echo, **self.CREDENTIALS)

        answer = client.request(method, path)

        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Basic realm="lsml-bento"')
        assert "Basic auth" in one_sentence(answer)

    @pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/healthz"])
    def test_health_probes_need_none(self, serve: Serve, path: str) -> None:
        client = serve(Echo, **self.CREDENTIALS)

        answer = client.get(path)

        # The last three are BentoML's own: here nothing is behind them.
        assert answer.status_code == (200 if path == "/health" else 404)

    def test_the_right_credentials_pass(self, serve: Serve) -> None:
        client = serve(Echo, **self.CREDENTIALS)

        answer = client.get("/versions", headers=basic("ls", "s3cret:with colon"))

        assert answer.status_code == 200
        assert answer.json() == {"versions": []}

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_a_password_beyond_ascii_passes_as_requests_and_as_curl_encode_it(
        self, serve: Serve, encoding: str
    ) -> None:
        client = serve(Echo, BASIC_AUTH_USER="jürgen", BASIC_AUTH_PASS="pässwörd")

        headers = basic("jürgen", "pässwörd", encoding)

        assert client.get("/versions", headers=headers).status_code == 200

    def test_a_password_beyond_latin_1_is_not_matched_by_question_marks(
        self, serve: Serve
    ) -> None:
        client = serve(Echo, BASIC_AUTH_USER="u", BASIC_AUTH_PASS="пароль")

        right, wrong = basic("u", "пароль"), basic("u", "??????")

        assert client.get("/versions", headers=right).status_code == 200
        assert client.get("/versions", headers=wrong).status_code == 401

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "Basic",
            "Basic ",
            "Basic !!!",
            "Basic " + base64.b64encode(b"ls").decode(),
            "Basic " + base64.b64encode(b"ls:wrong").decode(),
            "Basic " + base64.b64encode(b"LS:s3cret:with colon").decode(),
            "Bearer " + base64.b64encode(b"ls:s3cret:with colon").decode(),
            base64.b64encode(b"ls:s3cret:with colon").decode(),
            "Basic " + base64.b64encode(b"ls:s3cret:with colon").decode() + "!",
            "Basic ls:s3cret:with colon",
            "Basic \xff\xfe",
            "Basic " + "A" * 100_000,
        ],
    )
    def test_wrong_and_malformed_headers_are_401(
        self, serve: Serve, header: str
    ) -> None:
        client = serve(Echo, **self.CREDENTIALS)
        headers = [(b"authorization", header)]

        assert asyncio.run(raw_post(client.app, headers)) == 401

    def test_a_server_without_a_password_is_open(self, echo: Client) -> None:
        assert echo.get("/versions", headers=basic("a", "b")).status_code == 200

    def test_what_is_no_request_passes_through(self) -> None:
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])

        edge = EdgeMiddleware(app, Starlette(), 1, basic_auth=("a", "b"))
        asyncio.run(edge({"type": "lifespan"}, None, None))  # type: ignore[arg-type]

        assert seen == ["lifespan"]


class TestBugs:
    def test_a_bug_of_ours_is_a_500_without_its_traceback(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = serve(Echo)
        del client.contract.state.backend

        with pytest.raises(AttributeError):
            client.get("/health")  # the server's to log; the answer went out before

        assert "GET '/health' failed: a bug in lsml-bento" in caplog.text

    def test_a_client_that_goes_while_it_sends_is_no_error(
        self, echo: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "query_string": b"",
            "headers": [],
        }

        async def call() -> None:
            await echo.app(scope, receive, send)

        with caplog.at_level(logging.INFO):
            asyncio.run(call())

        assert "POST '/predict': the client hung up while sending" in caplog.text

    def test_no_line_of_the_log_holds_the_access_token(
        self, echo: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            echo.post("/setup", setup_body())
            echo.post("/setup", setup_body(project="../x"))
            echo.post("/setup", setup_body(schema="<View>"))
            echo.post("/setup", [setup_body()])

        assert caplog.records
        assert "a-secret-access-token" not in caplog.text
