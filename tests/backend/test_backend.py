"""What a project is answered: versions, results, failures, deadlines, hang-ups."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from lsml_bento.contract import Project
from lsml_bento.errors import StateError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.processes.server import asgi_app, make_backend
from lsml_bento.settings import Settings
from lsml_bento.state.memory import MemoryState
from tests.conftest import Serve
from tests.doubles import (
    CONFIG,
    OTHER_CONFIG,
    PROJECT,
    Client,
    Echo,
    choice,
    interactive,
    one_sentence,
    setup_body,
    texts,
)

CREATED_AT = 1795426489


class Gate(Echo):
    """An echo that waits in ``predict`` until a test lets it go on."""

    opened: ClassVar[threading.Event]
    entered: ClassVar[threading.Semaphore]
    seen: ClassVar[list[str]]

    def predict(
        self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
    ) -> list[Any]:
        type(self).seen += [str(task["data"]["text"]) for task in tasks]
        type(self).entered.release()
        if tasks[0]["data"]["text"] != "fast":
            assert type(self).opened.wait(30)
        return super().predict(tasks, context, **kwargs)


@pytest.fixture
def gate() -> Iterator[type[Gate]]:
    """The class, closed; it opens when the test ends, whatever happens."""
    Gate.opened = threading.Event()
    Gate.entered = threading.Semaphore(0)
    Gate.seen = []
    yield Gate
    Gate.opened.set()


def returning(value: Any) -> type[LabelStudioMLBase]:
    """A model whose ``predict`` returns one and the same value."""

    class Returning(LabelStudioMLBase):
        def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
            return value

    return Returning


def failing_at(
    *words: str, error: type[Exception] = ValueError
) -> type[LabelStudioMLBase]:
    """An echo that raises when it meets one of the words."""

    class Failing(Echo):
        def predict(
            self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
        ) -> list[Any]:
            for task in tasks:
                if task["data"]["text"] in words:
                    raise error(f"no {task['data']['text']} here")
            return super().predict(tasks, context, **kwargs)

    return Failing


def said(results: list[Any]) -> list[Any]:
    """The text in each slot, None for an empty one."""
    return [
        slot["result"][0]["value"]["choices"][0] if slot else None for slot in results
    ]


class TestOneSlotPerTask:
    @pytest.mark.parametrize("tasks", [0, 1, 2, 31, 32, 33, 250])
    def test_each_task_gets_its_own_answer_in_order(
        self, echo: Client, tasks: int
    ) -> None:
        words = [f"text {number}" for number in range(tasks)]

        assert said(echo.results(texts(*words))) == words

    def test_requests_that_share_batches_get_their_own_answers(
        self, echo: Client
    ) -> None:
        bodies = [
            texts(*(f"{request}/{task}" for task in range(request % 5 + 1)))
            for request in range(60)
        ]

        answers = echo.together(*bodies)

        for body, answer in zip(bodies, answers, strict=True):
            asked = [task["data"]["text"] for task in body["tasks"]]
            assert said(answer.json()["results"]) == asked

    @pytest.mark.parametrize("nothing", [None, [], [[], []], [None, None], [{}, {}]])
    def test_nothing_found_is_an_empty_slot_per_task(
        self, serve: Serve, nothing: Any
    ) -> None:
        assert serve(returning(nothing)).results(texts("a", "b")) == [[], []]

    def test_tasks_that_the_model_edits_do_not_come_back_edited(
        self, serve: Serve
    ) -> None:
        class Editing(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                words = [task["data"].pop("text") for task in tasks]
                if len(tasks) > 1:
                    raise ValueError("one at a time, please")
                return [{"result": [choice(word)]} for word in words]

        assert said(serve(Editing).results(texts("a", "b", "c"))) == ["a", "b", "c"]

    @pytest.mark.parametrize("count", [1, 3, 5])
    def test_a_wrong_count_is_asked_again_one_task_at_a_time(
        self, serve: Serve, count: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Miscounting(Echo):
            def predict(
                self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
            ) -> list[Any]:
                answers = super().predict(tasks, context, **kwargs)
                return answers if len(tasks) == 1 else (answers * 2)[:count]

        client = serve(Miscounting)

        assert said(client.results(texts("a", "b", "c", "d"))) == ["a", "b", "c", "d"]
        assert said(client.results(texts("e", "f"))) == ["e", "f"]
        assert caplog.text.count(f"returned {count} predictions") == 1

    def test_a_wrong_count_for_one_task_is_reported_to_the_client(
        self, serve: Serve
    ) -> None:
        answer = serve(returning([{"result": []}] * 2)).post("/predict", texts("a"))

        assert answer.status_code == 500
        assert one_sentence(answer) == (
            "predict() got 1 tasks and returned 2 predictions: return one per task, in "
            "order, [] for none"
        )

    def test_predict_gets_the_params_that_it_takes(self, serve: Serve) -> None:
        class Narrow(LabelStudioMLBase):
            def predict(  # type: ignore[override]
                self, tasks: Any, login: str = "nobody"
            ) -> Any:
                return [{"result": [choice(login)]} for _ in tasks]

        body = {**texts("a"), "params": {"login": "me", "password": "p", "x": 1}}

        assert said(serve(Narrow).results(body)) == ["me"]


class TestFailures:
    def test_a_task_that_fails_affects_only_its_own_result_and_is_logged_once(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = serve(failing_at("bad"))

        results = client.results(texts("a", "b", "bad", "c"))

        assert said(results) == ["a", "b", None, "c"]
        assert results[2] == []
        line = line_of("raise error(f")
        lines = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert [record.getMessage() for record in lines] == [
            f"Predict failed: project={PROJECT} tasks=3 (1 of 4): predict() raised "
            f"ValueError: no bad here (test_backend.py, line {line})"
        ]
        assert lines[0].exc_info

    def test_a_result_that_cannot_be_rendered_affects_no_other_one(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        answers = [{"result": []}, {"result": [object()]}, "text", {"result": []}]

        results = serve(returning(answers)).results(texts("a", "b", "c", "d"))

        assert [bool(slot) for slot in results] == [True, False, False, True]
        assert (
            "tasks=2 (1 of 4): a prediction cannot be sent as JSON: TypeE"
            in caplog.text
        )
        assert "tasks=3 (1 of 4): a prediction is a dict or a Pred" in caplog.text

    @pytest.mark.parametrize("tasks", [1, 2, 50])
    def test_a_request_whose_tasks_all_failed_is_a_500_with_the_first_reason(
        self, serve: Serve, tasks: int
    ) -> None:
        answer = serve(failing_at("bad")).post("/predict", texts(*["bad"] * tasks))

        assert answer.status_code == 500
        assert one_sentence(answer) == (
            "predict() raised ValueError: no bad here "
            f"(test_backend.py, line {line_of('raise error(f')})"
        )

    def test_a_dead_service_behind_the_model_is_not_called_for_each_task(
        self, serve: Serve
    ) -> None:
        calls = 0

        class Dead(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                raise ConnectionError("refused")

        answer = serve(Dead).post("/predict", texts(*map(str, range(2_000))))

        assert answer.status_code == 500
        assert one_sentence(answer).startswith("predict() raised ConnectionError")
        assert calls == 3 * 5

    @pytest.mark.parametrize(
        "error", [SystemExit, StopIteration, asyncio.CancelledError, GeneratorExit]
    )
    def test_what_would_end_a_thread_or_a_loop_ends_one_request(
        self, serve: Serve, error: type[BaseException]
    ) -> None:
        class Leaving(Echo):
            def predict(
                self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
            ) -> list[Any]:
                if tasks[0]["data"]["text"] == "bad":
                    raise error("bye")
                return super().predict(tasks, context, **kwargs)

        client = serve(Leaving)

        answer = client.post("/predict", texts("bad"))

        assert answer.status_code == 500
        name = error.__name__
        assert one_sentence(answer).startswith(f"predict() raised {name}: bye (test_")
        assert said(client.results(texts("good"))) == ["good"]

    def test_a_message_that_is_not_unicode_reaches_the_client(
        self, serve: Serve
    ) -> None:
        class Odd(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                raise ValueError("half\ud83d\n\nof it" + "x" * 1_000)

        answer = serve(Odd).post("/predict", texts("a"))

        assert answer.status_code == 500
        assert one_sentence(answer).startswith("predict() raised ValueError: half? of")

    def test_out_of_memory_halves_the_batch(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        sizes: list[int] = []

        class Small(Echo):
            def predict(
                self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
            ) -> list[Any]:
                sizes.append(len(tasks))
                if len(tasks) > 5:
                    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
                return super().predict(tasks, context, **kwargs)

        client = serve(Small)
        words = [str(number) for number in range(20)]

        assert said(client.results(texts(*words))) == words
        assert sizes[:3] == [20, 10, 5]
        assert max(sizes[3:]) == 5
        assert "Batch size limited to 5 tasks from now on" in caplog.text

    def test_what_a_call_held_is_free_before_the_next_one(self, serve: Serve) -> None:
        alive: list[int] = []

        class Tensor:
            living = 0

            def __init__(self) -> None:
                Tensor.living += 1

            def __del__(self) -> None:
                Tensor.living -= 1

        class Hungry(Echo):
            def predict(
                self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
            ) -> list[Any]:
                alive.append(Tensor.living)
                activations = Tensor()
                if len(tasks) > 1:
                    raise RuntimeError("CUDA out of memory")
                del activations
                return super().predict(tasks, context, **kwargs)

        assert said(serve(Hungry).results(texts("a", "b"))) == ["a", "b"]
        assert alive == [0, 0, 0]


def line_of(text: str) -> int:
    """Where a piece of this file stands."""
    lines = Path(__file__).read_text().splitlines()
    return next(n for n, line in enumerate(lines, start=1) if text in line)


class TestInteractive:
    CONTEXT: ClassVar[dict[str, Any]] = {
        "result": [
            {
                "id": "kp1",
                "from_name": "kp",
                "type": "keypointlabels",
                "is_positive": True,
                "value": {"x": 50.5, "y": 30.2, "labels": ["Car"]},
            }
        ],
        "annotation_id": 7,
        "draft_id": None,
        "user_id": 1,
    }

    def test_the_model_gets_the_context_unchanged(self, serve: Serve) -> None:
        contexts: list[Any] = []

        class Listening(Echo):
            def predict(
                self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
            ) -> list[Any]:
                contexts.append(context)
                return super().predict(tasks, context, **kwargs)

        client = serve(Listening)
        given = [self.CONTEXT, "any JSON goes through", {}, [1], 0, None]
        for context in given:
            client.results(interactive("a", context))

        assert contexts == given

    @pytest.mark.parametrize(
        "nothing", [None, [], [[]], [None], [{}], [{"result": []}]]
    )
    def test_nothing_found_is_an_object_with_an_empty_result(
        self, serve: Serve, nothing: Any
    ) -> None:
        results = serve(returning(nothing)).results(interactive("a", self.CONTEXT))

        assert [slot["result"] for slot in results] == [[]]

    def test_of_several_predictions_the_page_gets_the_first(self, serve: Serve) -> None:
        several = [[{"result": [choice("x")], "score": 0.5}, {"result": [choice("y")]}]]

        results = serve(returning(several)).results(interactive("a", self.CONTEXT))

        assert results == [
            {"result": [choice("x")], "score": 0.5, "model_version": "0.0.1"}
        ]

    def test_a_failure_is_a_500_with_its_reason(self, serve: Serve) -> None:
        client = serve(failing_at("bad", error=KeyError))

        answer = client.post("/predict", interactive("bad", self.CONTEXT))

        assert answer.status_code == 500
        assert one_sentence(answer).startswith("predict() raised KeyError: 'no bad")

    def test_an_annotator_is_served_before_the_bulk(
        self, serve: Serve, gate: type[Gate]
    ) -> None:
        client = serve(gate, LSML_MAX_BATCH_SIZE="2")

        async def both() -> tuple[httpx.Response, httpx.Response]:
            bulk = asyncio.ensure_future(
                client.http.post("/predict", json=texts(*map(str, range(10))))
            )
            await asyncio.to_thread(gate.entered.acquire)
            drawn = asyncio.ensure_future(
                client.http.post("/predict", json=interactive("drawn", {}))
            )
            await asyncio.sleep(0.05)
            gate.opened.set()
            return await bulk, await drawn

        bulk, drawn = client.run(both())

        assert said(bulk.json()["results"]) == [str(n) for n in range(10)]
        assert said(drawn.json()["results"]) == ["drawn"]
        assert gate.seen[:3] == ["0", "1", "drawn"]


class TestVersions:
    def test_setup_and_every_prediction_name_one_version(self, serve: Serve) -> None:
        named: dict[str, Any] = {"result": [], "model_version": None}
        others: list[Any] = [
            {"result": [], "model_version": v} for v in (None, "", 3, "other")
        ]
        client = serve(returning([named, [named, *others], *others]))

        version = client.version()
        results = client.results(texts("a", "b", "c", "d", "e", "f"))

        flat = [p for slot in results for p in (slot if type(slot) is list else [slot])]
        assert {p["model_version"] for p in flat} == {version} == {"0.0.1"}
        assert len(flat) == 10

    def test_setup_of_the_model_names_the_version(self, serve: Serve) -> None:
        class Named(Echo):
            def setup(self) -> None:
                assert self.get("model_version") == "0.0.1"
                self.set("model_version", 7)

        client = serve(Named)

        assert client.version() == "7"
        assert client.results(texts("a"))[0]["model_version"] == "7"

    @pytest.mark.parametrize("version", [None, ""])
    def test_a_version_is_never_empty(self, serve: Serve, version: Any) -> None:
        class Nameless(Echo):
            def setup(self) -> None:
                self.set("model_version", version)

        client = serve(Nameless)

        assert client.version() == "0.0.1"
        assert client.results(texts("a"))[0]["model_version"] == "0.0.1"

    def test_a_class_may_begin_with_another_version(self, serve: Serve) -> None:
        class Later(LabelStudioMLBase):
            INITIAL_MODEL_VERSION = "2.0.0"

        assert serve(Later).version() == "2.0.0"

    def test_versions_of_all_projects_are_listed_once(self, serve: Serve) -> None:
        class PerProject(Echo):
            def setup(self) -> None:
                self.set("model_version", f"v{int(self.project_id) % 2}")

        client = serve(PerProject)
        for project in ("1.5", "2.5", "3.5"):
            client.version(project=project)

        assert client.get("/versions").json() == {"versions": ["v1", "v0"]}

    def test_a_second_process_knows_the_version_before_its_model_is_made(
        self, serve: Serve, gate: type[Gate]
    ) -> None:
        state = MemoryState()
        state.write(Project("1", CREATED_AT), {"model_version": "echo-1"})

        class Slow(Echo):
            def setup(self) -> None:
                assert gate.opened.wait(30)

        client = serve(Slow, state)

        start = time.monotonic()
        assert client.version() == "echo-1"
        assert 1.5 < time.monotonic() - start < 2.9


class TestHealth:
    @pytest.mark.parametrize("text", ["", "1 / 0\n"], ids=["imports", "fails"])
    def test_it_is_503_until_the_class_was_imported_or_cannot_be(
        self, serve: Serve, tmp_path: Path, text: str
    ) -> None:
        go = tmp_path / "go"
        module = tmp_path / "slow_module_of_a_user.py"
        module.write_text(
            "import pathlib, time\n"
            f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
            f"{text}"
            "from lsml_bento import LabelStudioMLBase\n"
            "class Slow(LabelStudioMLBase): pass\n"
        )
        client = serve(f"{module.stem}:Slow", directory=tmp_path)

        async def meanwhile() -> tuple[list[httpx.Response], httpx.Response]:
            starting = asyncio.ensure_future(client.backend.start())
            await asyncio.sleep(0.05)
            refused = [await client.http.get(path) for path in ("/health", "/")]
            go.touch()
            await starting
            return refused, await client.http.get("/health")

        try:
            refused, health = client.run(meanwhile())
        finally:
            sys.modules.pop(module.stem, None)
            sys.path.remove(str(tmp_path))

        for answer in refused:
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "2"
            said = "Slow is being imported: connect in a few seconds"
            assert one_sentence(answer) == said
        assert health.json() == {"status": "UP", "model_class": "Slow"}
        assert client.backend.is_ready == (not text)


class TestSetup:
    def test_it_waits_two_seconds_then_says_503_until_the_model_is_made(
        self, serve: Serve, gate: type[Gate]
    ) -> None:
        made = 0

        class Slow(Echo):
            def setup(self) -> None:
                nonlocal made
                made += 1
                assert gate.opened.wait(30)
                super().setup()

        client = serve(Slow)

        async def meanwhile() -> tuple[httpx.Response, float, float]:
            start = time.monotonic()
            setup = asyncio.ensure_future(client.http.post("/setup", json=setup_body()))
            await asyncio.sleep(0.1)
            before = time.monotonic()
            health = await client.http.get("/health")
            took = time.monotonic() - before
            assert health.json() == {"status": "UP", "model_class": "Slow"}
            return await setup, time.monotonic() - start, took

        answer, setup_s, health_s = client.run(meanwhile())

        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        assert one_sentence(answer) == (
            f"Slow is still being made for project {PROJECT} and has no version yet: "
            "save the connection again in a few seconds"
        )
        assert 1.9 < setup_s < 2.9
        assert health_s < 0.5
        gate.opened.set()
        assert client.version() == "echo-1"
        assert made == 1

    def test_it_neither_waits_for_a_busy_model_nor_makes_another_one(
        self, serve: Serve, gate: type[Gate]
    ) -> None:
        made = 0

        class Counted(gate):  # type: ignore[misc, valid-type]
            def setup(self) -> None:
                nonlocal made
                made += 1
                super().setup()

        client = serve(Counted)
        assert client.version() == "echo-1"

        async def while_it_predicts() -> float:
            predict = asyncio.ensure_future(
                client.http.post("/predict", json=texts("slow"))
            )
            await asyncio.to_thread(gate.entered.acquire)
            start = time.monotonic()
            for _ in range(5):
                answer = await client.http.post("/setup", json=setup_body())
                assert answer.json() == {"model_version": "echo-1"}
            took = time.monotonic() - start
            gate.opened.set()
            await predict
            return took

        assert client.run(while_it_predicts()) < 1.0
        assert made == 1

    def test_a_model_that_is_being_made_does_not_hold_up_one_that_is(
        self, serve: Serve, gate: type[Gate]
    ) -> None:
        class Slow(Echo):
            def setup(self) -> None:
                if self.project_id != "1":
                    assert gate.opened.wait(30)
                super().setup()

        client = serve(Slow)
        assert client.version() == "echo-1"

        async def others_first() -> float:
            slow = [
                asyncio.ensure_future(
                    client.http.post("/setup", json=setup_body(project=f"{n}.5"))
                )
                for n in (2, 3, 4)
            ]
            await asyncio.sleep(0.1)
            start = time.monotonic()
            answer = await client.http.post("/setup", json=setup_body())
            assert answer.json() == {"model_version": "echo-1"}
            took = time.monotonic() - start
            gate.opened.set()
            await asyncio.gather(*slow)
            return took

        assert client.run(others_first()) < 1.0

    def test_a_setup_that_raises_is_a_500_with_file_and_line_and_recovers(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = True

        class Fragile(Echo):
            def setup(self) -> None:
                if broken:
                    raise OSError("no weights\nat all")
                super().setup()

        client = serve(Fragile)
        line = line_of("raise OSError(")
        reason = (
            "Fragile could not be set up: OSError: no weights at all "
            f"(test_backend.py, line {line})"
        )

        for path, body in [("/setup", setup_body()), ("/predict", texts("a", "b"))]:
            answer = client.post(path, body)
            assert answer.status_code == 500
            assert one_sentence(answer) == reason
        assert client.get("/health").json()["status"] == "UP"
        assert caplog.text.count("Traceback") == 2  # where it was made, where it failed

        broken = False
        assert client.post("/setup", setup_body()).status_code == 500  # not yet again
        time.sleep(2.05)
        assert client.version() == "echo-1"
        assert said(client.results(texts("a"))) == ["a"]

    def test_leaving_the_process_in_setup_does_not_end_it(self, serve: Serve) -> None:
        class Leaving(Echo):
            def setup(self) -> None:
                sys.exit("no GPU")

        client = serve(Leaving)

        answer = client.post("/setup", setup_body())

        assert answer.status_code == 500
        assert one_sentence(answer).startswith(
            "Leaving could not be set up: SystemExit: no GPU (test_backend.py, line"
        )
        assert client.get("/health").json()["status"] == "UP"

    def test_a_module_that_does_not_import_is_a_500_with_file_and_line_and_recovers(
        self, serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        module = tmp_path / "fragile_module_of_a_user.py"
        module.write_text("import json\n\njson.loads('')\n")
        client = serve(f"{module.stem}:Fragile", directory=tmp_path)
        reason = (
            f"the module {module.stem!r} cannot be imported: JSONDecodeError: "
            f"Expecting "
            f"value: line 1 column 1 (char 0) ({module.name}, line 3)"
        )

        client.run(client.backend.start())  # what a server does first
        for path, body in [("/setup", setup_body()), ("/predict", texts("a"))]:
            answer = client.post(path, body)
            assert answer.status_code == 500
            assert one_sentence(answer) == reason
        assert client.get("/health").json() == {
            "status": "UP",
            "model_class": "Fragile",
        }
        assert caplog.text.count(f"{reason}; the server stays up") == 1
        assert not client.backend.is_ready

        module.write_text(
            "from lsml_bento import LabelStudioMLBase\n"
            "class Fragile(LabelStudioMLBase): pass\n"
        )
        time.sleep(2.05)
        assert client.version() == "0.0.1"
        client.run(client.backend.start())
        assert client.backend.is_ready

    def test_hints_of_the_backend_interface_reach_the_model(self, serve: Serve) -> None:
        class Curious(Echo):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                return [{"result": [choice(json.dumps(self.extra_params))]}]

        client = serve(Curious)
        for sent, seen in [
            ({"a": 1}, '{"a": 1}'),
            ('{"a": 2}', '{"a": 2}'),
            ("text", '"text"'),
            ([1], "[1]"),
            (None, "{}"),
        ]:
            client.version(extra_params=sent)
            assert said(client.results(texts("x"))) == [seen]

    def test_extra_params_stay_where_a_request_does_not_name_them(
        self, serve: Serve
    ) -> None:
        class Curious(Echo):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                return [{"result": [choice(json.dumps(self.extra_params))]}]

        client = serve(Curious)
        client.version(extra_params={"a": 1})
        body = setup_body()
        del body["extra_params"]

        assert client.post("/setup", body).status_code == 200
        assert said(client.results(texts("x"))) == ['{"a": 1}']


class Labels(LabelStudioMLBase):
    """Answers every task with the labels that its label config has."""

    def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
        found = self.parsed_label_config.get("sentiment", {}).get("labels", [])
        return [{"result": [choice(",".join(found))]} for _ in tasks]


class TestLabelConfigs:
    def test_the_next_request_brings_a_changed_one(self, serve: Serve) -> None:
        client = serve(Labels)
        client.version()

        assert said(client.results(texts("a"))) == ["Positive,Negative"]
        changed = {**texts("a"), "label_config": OTHER_CONFIG}
        assert said(client.results(changed)) == ["Positive,Neutral"]
        assert said(client.results(texts("a"))) == ["Positive,Negative"]

    @pytest.mark.parametrize("missing", [None, "absent"])
    def test_a_missing_one_is_the_last_known(
        self, serve: Serve, missing: str | None
    ) -> None:
        client = serve(Labels)
        body = texts("a")
        if missing is None:
            body["label_config"] = None
        else:
            del body["label_config"]

        assert said(client.results(body)) == [""]
        for config, labels in [
            (CONFIG, "Positive,Negative"),
            (OTHER_CONFIG, "Positive,Neutral"),
            (CONFIG, "Positive,Negative"),  # of which there is an object already
        ]:
            client.version(schema=config)
            assert said(client.results(body)) == [labels]

    @pytest.mark.parametrize("empty", ["", "  ", "<View/>", "<View></View>"])
    def test_an_empty_one_is_a_label_config(self, serve: Serve, empty: str) -> None:
        client = serve(Labels)

        assert client.version(schema=empty) == "0.0.1"
        assert said(client.results({**texts("a"), "label_config": empty})) == [""]

    def test_either_name_of_the_key_is_known_on_either_route(
        self, serve: Serve
    ) -> None:
        client = serve(Labels)
        body = texts("a")
        body["schema"] = body.pop("label_config")

        assert said(client.results(body)) == ["Positive,Negative"]
        assert client.post("/setup", {"label_config": CONFIG}).status_code == 200
        assert said(client.results({"tasks": body["tasks"]})) == ["Positive,Negative"]


class Remembering(LabelStudioMLBase):
    """Says how it was called before in its project."""

    def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
        before = self.get("words") or []
        self.set("words", [*before, *(task["data"]["text"] for task in tasks)])
        return [{"result": [choice("+".join(before))]} for _ in tasks]


class TestProjects:
    def test_two_projects_of_one_id_never_share_state(self, serve: Serve) -> None:
        client = serve(Remembering)

        assert said(client.results(texts("a", project="1.100"))) == [""]
        assert said(client.results(texts("b", project="1.200"))) == [""]
        assert said(client.results(texts("c", project="1.100"))) == ["a"]
        assert said(client.results(texts("d", project="1.200"))) == ["b"]

    @pytest.mark.parametrize("project", ["1", 1])
    def test_without_its_creation_time_the_newest_of_an_id_is_meant(
        self, serve: Serve, project: object
    ) -> None:
        client = serve(Remembering)
        client.results(texts("new", project="1.200"))
        client.results(texts("old", project="1.100"))
        client.results(texts("other", project="2.300"))

        assert said(client.results(texts("x", project=project))) == ["new"]

    @pytest.mark.parametrize("project", [None, "", "7", 7, "a_b-C"])
    def test_an_unknown_project_is_served(self, serve: Serve, project: object) -> None:
        client = serve(Remembering)

        assert client.version(project=project) == "0.0.1"
        assert said(client.results(texts("a", project=project))) == [""]
        assert said(client.results(texts("b", project=project))) == ["a"]

    def test_a_request_that_names_no_project_is_served(self, echo: Client) -> None:
        body = texts("a")
        del body["project"], body["params"], body["label_config"]

        assert said(echo.results(body)) == ["a"]

    def test_the_model_sees_the_id_alone(self, serve: Serve) -> None:
        class Named(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                return [{"result": [choice(repr(self.project_id))]}]

        assert said(serve(Named).results(texts("a"))) == ["'1'"]


class TestDeadline:
    def test_it_answers_what_is_done_and_names_preannotate(
        self, serve: Serve, gate: type[Gate], caplog: pytest.LogCaptureFixture
    ) -> None:
        client = serve(gate, LSML_PREDICT_DEADLINE_S="0.5", LSML_MAX_BATCH_SIZE="1")

        start = time.monotonic()
        results = client.results(texts("fast", "fast", "slow", "fast"))

        assert time.monotonic() - start < 1.5
        assert said(results) == ["fast", "fast", None, None]
        assert results[2:] == [[], []]
        line = next(r for r in caplog.records if "Deadline" in r.getMessage())
        assert line.getMessage() == (
            f"Deadline reached: project={PROJECT} 2 of 4 tasks not predicted within "
            "0.5 s; retrieve predictions again for the rest, or use `lsml-bento "
            "preannotate`"
        )

    def test_nothing_done_is_a_504(self, serve: Serve, gate: type[Gate]) -> None:
        client = serve(gate, LSML_PREDICT_DEADLINE_S="0.2")

        answer = client.post("/predict", texts("slow", "slow"))

        assert answer.status_code == 504
        assert one_sentence(answer) == (
            "none of 2 tasks was predicted within 0.2 s (LSML_PREDICT_DEADLINE_S): the "
            "model is slow or stuck"
        )

    def test_tasks_that_came_too_late_are_never_predicted(
        self, serve: Serve, gate: type[Gate]
    ) -> None:
        client = serve(gate, LSML_PREDICT_DEADLINE_S="0.2", LSML_MAX_BATCH_SIZE="1")

        assert client.post("/predict", texts("slow", "late")).status_code == 504
        gate.opened.set()

        assert said(client.results(texts("next"))) == ["next"]
        assert gate.seen == ["slow", "next"]


class TestHangUps:
    def test_a_client_that_disconnects_drops_its_queued_tasks(
        self, serve: Serve, gate: type[Gate], caplog: pytest.LogCaptureFixture
    ) -> None:
        client = serve(gate, LSML_MAX_BATCH_SIZE="1")
        caplog.set_level(logging.INFO)
        content = json.dumps(texts("slow", "queued", "queued")).encode()
        gone = asyncio.Event()
        parts = [{"type": "http.request", "body": content, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            if parts:
                return parts.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "query_string": b"",
            "headers": [],
        }

        async def disconnect() -> None:
            request = asyncio.ensure_future(client.app(scope, receive, send))
            await asyncio.to_thread(gate.entered.acquire)
            gone.set()
            await asyncio.wait_for(request, 5)
            gate.opened.set()

        client.run(disconnect())

        assert said(client.results(texts("next"))) == ["next"]
        assert gate.seen == ["slow", "next"]
        assert "bulk request of 3 tasks dropped" in caplog.text
        assert "deadline" not in caplog.text
        assert "answered 504" not in caplog.text


class TestAFullQueue:
    def test_more_than_it_holds_is_503_with_retry_after(
        self, serve: Serve, gate: type[Gate]
    ) -> None:
        client = serve(gate, LSML_QUEUE_SIZE="3", LSML_MAX_BATCH_SIZE="1")

        async def fill() -> list[httpx.Response]:
            first = asyncio.ensure_future(
                client.http.post("/predict", json=texts("slow"))
            )
            await asyncio.to_thread(gate.entered.acquire)
            waiting = [
                asyncio.ensure_future(client.http.post("/predict", json=texts(word)))
                for word in ("a", "b", "c", "d")
            ]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            health = await client.http.get("/health")
            gate.opened.set()
            return [health, await first, *await asyncio.gather(*waiting)]

        health, *answers = client.run(fill())

        assert health.status_code == 200
        assert [a.status_code for a in answers] == [200, 200, 200, 200, 503]
        assert answers[-1].headers["retry-after"] == "5"
        assert one_sentence(answers[-1]) == (
            "3 tasks wait already and 1 more would exceed LSML_QUEUE_SIZE=3: try again "
            "later"
        )


class TestTheWiring:
    def test_a_server_that_starts_again_knows_what_it_knew(
        self, tmp_path: Path
    ) -> None:
        settings = Settings.from_env({})

        def ask(model: type[LabelStudioMLBase], *bodies: Any) -> list[Any]:
            backend = make_backend(ModelSource(model), settings, tmp_path, "test")
            client = Client(backend, settings, asgi_app(backend, settings))
            try:
                return [said(client.results(body)) for body in bodies]
            finally:
                client.close()

        assert ask(Remembering, texts("a"), texts("b")) == [[""], ["a"]]
        without_config = {"tasks": texts("c")["tasks"], "project": "1"}
        assert ask(Labels, without_config) == [["Positive,Negative"]]
        assert ask(Remembering, without_config) == [["a+b"]]

    def test_a_second_backend_in_one_home_is_refused(self, tmp_path: Path) -> None:
        settings = Settings.from_env({})
        first = make_backend(ModelSource(Echo), settings, tmp_path, "first")

        with pytest.raises(StateError, match="of the backend 'first', and this one is"):
            make_backend(ModelSource(Echo), settings, tmp_path, "second")

        asyncio.run(first.close())


class TestStatus:
    def test_it_shows_versions_errors_and_what_waits(self, serve: Serve) -> None:
        client = serve(failing_at("bad"))
        client.version()
        client.results(texts("a", "bad"))
        client.post("/setup", setup_body(project="2.5", schema="<View"))

        status = client.get("/api/status").json()

        assert status["model_class"] == "Failing"
        assert status["max_batch_size"] == 32
        assert status["waiting"] == {"interactive": 0, "single": 0, "bulk": 0}
        assert [p["project"] for p in status["projects"]] == [PROJECT, "2.5"]
        first, second = status["projects"]
        assert first["model_version"] == "echo-1"
        assert first["last_error"].startswith("predict() raised ValueError: no bad")
        assert second["model_version"] is None
        assert second["last_error"].startswith("the label config is invalid: ")


class TestNumbers:
    @pytest.mark.parametrize(
        ("score", "sent"),
        [
            (0.5, 0.5),
            (1, 1.0),
            (True, 1.0),
            (12.5, 12.5),
            ("0.5", 0.5),
            ("high", None),
            ("", None),
            (None, None),
            (math.nan, None),
            (math.inf, None),
            ("nan", None),
            (-math.inf, None),
            ([0.5], None),
            (np.float32(0.5), 0.5),
            (np.float64("nan"), None),
            (np.array(0.25), 0.25),
            (np.array([0.25, 0.5]), None),
            (10**400, None),
        ],
    )
    def test_a_score_is_a_finite_number_or_null(
        self, serve: Serve, score: Any, sent: float | None
    ) -> None:
        client = serve(returning([{"result": [], "score": score}]))

        assert client.results(texts("a"))[0]["score"] == sent
