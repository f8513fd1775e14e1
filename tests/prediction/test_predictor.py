"""One call of the user's predict."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from lsml_bento.contract import Project
from lsml_bento.errors import (
    DeviceLost,
    LabelConfigError,
    ModelError,
    OutOfMemory,
    StateError,
    WrongCount,
)
from lsml_bento.model import invoke
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import NoMedia
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.predictor import Group, Predictor
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import Pair
from lsml_bento.versions.registry import Version, promote
from tests.doubles import CONFIG, OTHER_CONFIG, Echo, texts

PROJECT = Project("1", 5)


def predictor_of(
    model: type[LabelStudioMLBase], state: MemoryState | None = None
) -> Predictor:
    state = state or MemoryState()
    return Predictor(ModelPool(ModelSource(model), state, NoMedia()), state)


def group(
    params: dict[str, Any] | None = None,
    context: Any = None,
    config: str | None = CONFIG,
    project: Project = PROJECT,
) -> Group:
    return Group.for_request(project, config, params or {}, context)


TASKS = texts("a", "b")["tasks"]


class TestGroups:
    def test_requests_of_equal_params_share_a_call(self) -> None:
        first = group({"login": None, "x": [1], "context": {"a": 1}})
        second = group({"x": [1], "login": None, "context": {"b": 1}})

        assert first == second
        assert hash(first) == hash(second)

    @pytest.mark.parametrize(
        "other",
        [
            group({"x": 1}),
            group(config=OTHER_CONFIG),
            group(config=None),
            group(project=Project("1", 6)),
            group(project=Project("2", 5)),
        ],
    )
    def test_others_do_not(self, other: Group) -> None:
        assert other != group()

    def test_params_cannot_take_the_place_of_arguments(self) -> None:
        given = {"self": 1, "tasks": 2, "context": 3, "helper": 4, "login": 5}

        assert group(given).params == {"login": 5}


class TestCalls:
    def test_predict_gets_copies_it_may_edit(self) -> None:
        class Editing(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                for task in tasks:
                    task["data"]["text"] = "edited"
                tasks.clear()

        assert predictor_of(Editing).predict(group(), TASKS) == [b"[]", b"[]"]
        assert texts("a", "b")["tasks"] == TASKS

    def test_predict_gets_context_and_params(self) -> None:
        calls: list[Any] = []

        class Listening(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                calls.append((tasks, context, kwargs))

        predictor_of(Listening).predict(group({"login": "me"}, {"result": []}), TASKS)

        assert calls == [(TASKS, {"result": []}, {"login": "me"})]

    def test_predict_need_not_take_them(self) -> None:
        class Narrow(LabelStudioMLBase):
            def predict(self, tasks: Any) -> Any:  # type: ignore[override]
                return [{"result": []}] * len(tasks)

        slots = predictor_of(Narrow).predict(group({"login": "me"}, {}), TASKS)

        assert [json.loads(slot) for slot in slots if type(slot) is bytes] == [
            {"result": [], "score": None, "model_version": "0.0.1"}
        ] * 2

    def test_what_predict_raises_is_raised(self) -> None:
        class Raising(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                raise KeyError("text")

        with pytest.raises(KeyError, match="text"):
            predictor_of(Raising).predict(group(), TASKS)

    def test_a_wrong_count_is_raised(self) -> None:
        class Short(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                return [{"result": []}]

        with pytest.raises(WrongCount):
            predictor_of(Short).predict(group(), TASKS)

    def test_a_label_config_that_does_not_parse_is_raised(self) -> None:
        with pytest.raises(LabelConfigError):
            predictor_of(Echo).predict(group(config="<View"), TASKS)

    @pytest.mark.parametrize("error", [SystemExit, StopIteration, GeneratorExit])
    def test_exceptions_that_asyncio_reserves_become_model_errors(
        self, error: type[BaseException]
    ) -> None:
        class Leaving(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                raise error

        with pytest.raises(
            ModelError, match=rf"^predict\(\) raised {error.__name__} \("
        ):
            predictor_of(Leaving).predict(group(), TASKS)

    def test_a_keyboard_interrupt_is_raised(self) -> None:
        class Interrupted(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            predictor_of(Interrupted).predict(group(), TASKS)


class TestLostDevice:
    @pytest.mark.parametrize(
        ("said", "is_lost"),
        [
            ("CUDA error: device-side assert triggered", True),
            ("CUDA error: an illegal memory access was encountered", True),
            ("CUDA error: no kernel image is available for execution", False),
            ("my own device-side assert", False),
        ],
    )
    def test_a_lasting_error_is_distinguished_from_others(
        self, monkeypatch: pytest.MonkeyPatch, said: str, is_lost: bool
    ) -> None:
        monkeypatch.setattr(invoke, "_device_is_lost", threading.Event())

        class Brittle(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                raise RuntimeError(said)

        with pytest.raises(DeviceLost if is_lost else RuntimeError, match=said):
            predictor_of(Brittle).predict(group(), TASKS)
        assert invoke.is_device_lost() is is_lost


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


class TestMemory:
    @pytest.mark.parametrize(
        "error",
        [
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            OutOfMemoryError("HIP ran out"),
            RuntimeError("CUDA out of memory"),
            RuntimeError("CUDA error: out of memory"),
        ],
    )
    def test_out_of_memory_is_explained(self, error: Exception) -> None:
        class Hungry(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                raise error

        with pytest.raises(OutOfMemory) as full:
            predictor_of(Hungry).predict(group(), TASKS)

        assert str(full.value) == (
            "the GPU's memory is too small for 2 tasks: lower LSML_MAX_BATCH_SIZE"
        )

    def test_another_runtime_error_is_not_out_of_memory(self) -> None:
        class Failing(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                raise RuntimeError("CUDA error: invalid configuration argument")

        with pytest.raises(RuntimeError, match="invalid configuration"):
            predictor_of(Failing).predict(group(), TASKS)


class TestVersions:
    def test_a_project_whose_object_is_not_made_has_none(self) -> None:
        predictor = predictor_of(Echo)

        assert predictor.serving(PROJECT, CONFIG) is None
        assert predictor.prepare(PROJECT, CONFIG) == "echo-1"
        assert predictor.serving(PROJECT, CONFIG) == "echo-1"
        assert predictor.serving(PROJECT, OTHER_CONFIG) is None

    def test_the_state_says_which_version_serves(self) -> None:
        state = MemoryState()
        predictor = predictor_of(Echo, state)
        predictor.prepare(PROJECT, CONFIG)

        state.write(PROJECT, {"model_version": "echo-2"})

        assert predictor.serving(PROJECT, CONFIG) == "echo-2"
        (slot,) = predictor.predict(group(), TASKS[:1])
        assert isinstance(slot, bytes)
        assert json.loads(slot)["model_version"] == "echo-2"

    def test_setup_uses_the_version_that_another_process_named_first(
        self,
    ) -> None:
        state = MemoryState()

        class Overtaken(Echo):
            def setup(self) -> None:
                # As another process writes: not counted among this one's writes.
                values = {"model_version": "echo-1", "label_config": CONFIG}
                state.write(PROJECT, values)
                state.writes = 0
                super().setup()

        predictor = predictor_of(Overtaken, state)

        (slot,) = predictor.predict(group(), TASKS[:1])

        assert isinstance(slot, bytes)
        assert json.loads(slot)["model_version"] == "echo-1"

    def test_a_state_that_was_emptied_leaves_the_initial_one(self) -> None:
        class Forgotten(Echo):
            INITIAL_MODEL_VERSION = "0.5.0"

        state = MemoryState()
        predictor = predictor_of(Forgotten, state)
        predictor.prepare(PROJECT, CONFIG)
        state.write(PROJECT, {"model_version": ""})

        assert predictor.serving(PROJECT, CONFIG) == "0.5.0"

    def test_a_version_names_itself_whatever_the_base_is_called(self) -> None:
        class Renaming(Echo):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                self.set("model_version", "another base")
                return super().predict(tasks)

        state = MemoryState()
        made = Version(version="v1", created_at=0)
        state.change(lambda change: promote(change, PROJECT, made))
        predictor = predictor_of(Renaming, state)

        for _ in range(2):
            (slot,) = predictor.predict(group(), TASKS[:1])
            assert isinstance(slot, bytes)
            assert json.loads(slot)["model_version"] == "v1"
        assert predictor.prepare(PROJECT, CONFIG) == "v1"

    def test_a_base_that_predict_names_is_named_in_the_same_answer(self) -> None:
        class Naming(Echo):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                self.set("model_version", "echo-9")
                return super().predict(tasks)

        (slot,) = predictor_of(Naming).predict(group(), TASKS[:1])
        assert isinstance(slot, bytes)
        assert json.loads(slot)["model_version"] == "echo-9"

    def test_a_state_that_does_not_say_which_version_serves_fails_the_call(
        self,
    ) -> None:
        class Away(MemoryState):
            def get(self, key: str) -> str | None:
                raise StateError("no answer")

        with pytest.raises(StateError):
            predictor_of(Echo, Away()).predict(group(), TASKS)


class Leaving(MemoryState):
    """A state that can be away, as a Redis that restarts is."""

    is_away = False

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        if self.is_away:
            raise StateError("nobody answers")
        return super().scan(prefix, after, limit)


class TestAStateThatIsAway:
    def test_a_project_that_was_served_is_still_served(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        state = Leaving()
        predictor = predictor_of(Echo, state)
        before = predictor.predict(group(), TASKS)

        state.is_away = True
        for _ in range(3):
            assert predictor.predict(group(), TASKS) == before

        assert caplog.text.count("State unavailable: using the last known values") == 1
        state.is_away = False
        state.write(PROJECT, {"model_version": "echo-2"})
        (slot,) = predictor.predict(group(), TASKS[:1])
        assert isinstance(slot, bytes)
        assert json.loads(slot)["model_version"] == "echo-2"

    def test_a_project_never_seen_is_refused(self) -> None:
        state = Leaving()
        predictor = predictor_of(Echo, state)
        state.is_away = True

        with pytest.raises(StateError):
            predictor.predict(group(), TASKS)
