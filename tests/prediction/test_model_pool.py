"""Model objects: one per project, label config and extra params; few are kept."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lsml_bento.contract import Project
from lsml_bento.errors import LabelConfigError, ModelSetupError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import NoMedia
from lsml_bento.prediction.model_factory import ModelKey, to_key
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.state.memory import MemoryState
from tests.conftest import Serve
from tests.doubles import CONFIG, Echo, texts


def models_of(model: type[LabelStudioMLBase], **options: Any) -> ModelPool:
    return ModelPool(ModelSource(model), MemoryState(), NoMedia(), **options)


def key(project: int = 1, config: str = CONFIG, params: object = None) -> ModelKey:
    return ModelKey(Project(str(project), 5), config, to_key(params))


def counted() -> type[Any]:
    """A class that counts its objects."""

    class Counted(LabelStudioMLBase):
        made: ClassVar[list[str]] = []

        def setup(self) -> None:
            type(self).made.append(self.project_id)

    return Counted


def together(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class TestKeys:
    def test_equal_keys_get_one_object(self) -> None:
        models = models_of(LabelStudioMLBase)
        with models.use(key(params={"a": 1, "b": 2})) as (first, _):
            pass
        with models.use(key(params={"b": 2, "a": 1})) as (second, _):
            assert second is first

    @pytest.mark.parametrize(
        "other",
        [
            key(2),
            key(config="<View/>"),
            key(params={"a": 1}),
            ModelKey(Project("1", 6), CONFIG, to_key(None)),
        ],
    )
    def test_another_project_config_or_parameter_gets_its_own(
        self, other: ModelKey
    ) -> None:
        models = models_of(LabelStudioMLBase)
        with models.use(key()) as (first, _), models.use(other) as (second, _):
            assert second is not first


class TestTheNumberKept:
    def test_the_least_recently_used_goes_first(self) -> None:
        model = counted()
        models = models_of(model, max_models=2)
        for project in (1, 2, 1, 3, 1, 2):
            with models.use(key(project)):
                pass

        assert model.made == ["1", "2", "3", "2"]
        assert len(models._entries) == 2

    def test_asking_for_the_version_counts_as_use(self) -> None:
        model = counted()
        models = models_of(model, max_models=2)
        models.ensure(key(1))
        models.ensure(key(2))
        assert models.is_made(key(1))
        models.ensure(key(3))

        assert models.is_made(key(1))
        assert not models.is_made(key(2))
        assert model.made == ["1", "2", "3"]

    def test_one_in_use_is_never_dropped(self) -> None:
        model = counted()
        models = models_of(model, max_models=1)
        with models.use(key(1)) as (used, _):
            models.ensure(key(2))
            assert models.is_made(key(1))
        with models.use(key(1)) as (again, _):
            assert again is used

    def test_what_was_dropped_is_freed(self) -> None:
        models = models_of(LabelStudioMLBase, max_models=1)
        with models.use(key(1)) as (model, _):
            dropped = weakref.ref(model)
        del model
        models.ensure(key(2))
        gc.collect()

        assert dropped() is None

    def test_a_label_config_that_fails_drops_no_model(self) -> None:
        model = counted()
        models = models_of(model, max_models=2)
        models.ensure(key(1))
        models.ensure(key(2))
        for number in range(5):
            with pytest.raises(LabelConfigError):
                models.ensure(key(config=f"<View{number}"))

        assert models.is_made(key(1))
        assert models.is_made(key(2))

    def test_the_environment_says_how_many(self, serve: Serve) -> None:
        model = counted()
        client = serve(model, LSML_MAX_MODELS="3")
        for project in (1, 2, 3, 1, 2, 3, 4, 1):
            client.results(texts("a", project=f"{project}.5"))

        assert model.made == ["1", "2", "3", "4", "1"]


class TestThreads:
    def test_no_two_threads_hold_one_object(self) -> None:
        models = models_of(counted(), max_objects=3)
        held: set[int] = set()
        lock = threading.Lock()
        seen: list[int] = []

        def use() -> None:
            for _ in range(50):
                with models.use(key()) as (model, _):
                    with lock:
                        assert id(model) not in held
                        held.add(id(model))
                        seen.append(id(model))
                    time.sleep(0.0001)
                    with lock:
                        held.remove(id(model))

        together([use] * 3)

        assert len(seen) == 150
        assert len(set(seen)) <= 3

    def test_a_thread_safe_class_is_made_once(self) -> None:
        model = counted()
        model.thread_safe = True
        models = models_of(model, max_objects=4)
        barrier = threading.Barrier(4)
        seen: list[object] = []

        def use() -> None:
            barrier.wait(10)
            with models.use(key()) as (used, _):
                seen.append(used)
                barrier.wait(10)

        together([use] * 4)

        assert len(seen) == 4
        assert len(set(map(id, seen))) == 1
        assert model.made == ["1"]

    def test_threads_wait_for_the_first_object_instead_of_making_another(self) -> None:
        class Slow(counted()):  # type: ignore[misc]
            def setup(self) -> None:
                time.sleep(0.05)
                super().setup()

        models = models_of(Slow)
        barrier = threading.Barrier(3)

        def use() -> None:
            barrier.wait(10)
            models.ensure(key())

        def use_it() -> None:
            barrier.wait(10)
            with models.use(key()):
                pass

        together([use, use, use_it])

        assert Slow.made == ["1"]

    def test_ensure_makes_no_second_object_beside_one_in_use(self) -> None:
        model = counted()
        models = models_of(model)
        with models.use(key()):
            models.ensure(key())
            assert models.is_made(key())

        assert model.made == ["1"]

    def test_threads_of_the_service_share_or_have_their_own(self, serve: Serve) -> None:
        class Waiting(Echo):
            objects: ClassVar[set[int]] = set()
            barrier: ClassVar = threading.Barrier(3, timeout=10)

            def predict(
                self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
            ) -> list[Any]:
                self.objects.add(id(self))
                self.barrier.wait()  # only if three calls run at a time
                return super().predict(tasks, context, **kwargs)

        class Safe(Waiting):
            objects: ClassVar[set[int]] = set()
            barrier: ClassVar = threading.Barrier(3, timeout=10)
            thread_safe = True

        for model, objects in ((Waiting, 3), (Safe, 1)):
            client = serve(model, THREADS="3")
            bodies = [{**texts("a"), "params": {"n": n}} for n in range(3)]
            assert [a.status_code for a in client.together(*bodies)] == [200] * 3
            assert len(model.objects) == objects


class TestLoading:
    def test_what_load_set_is_shared_by_objects_of_the_same_weights(self) -> None:
        loads: list[Path | None] = []

        class Loading(LabelStudioMLBase):
            def setup(self) -> None:
                self.own = object()

            def load(self, weights: Path | None) -> None:
                loads.append(weights)
                self.network = object()

        models = models_of(Loading)
        with models.use(key(1)) as (first, _), models.use(key(2)) as (second, _):
            assert vars(first)["network"] is vars(second)["network"]
            assert vars(first)["own"] is not vars(second)["own"]
        assert loads == [None]

    def test_it_is_not_shared_where_the_class_opts_out(self) -> None:
        class Loading(LabelStudioMLBase):
            share_loaded = False

            def load(self, weights: Path | None) -> None:
                self.network = object()

        models = models_of(Loading)
        with models.use(key(1)) as (first, _), models.use(key(2)) as (second, _):
            assert vars(first)["network"] is not vars(second)["network"]

    def test_it_is_not_shared_among_threads_unless_the_class_is_safe(self) -> None:
        class Loading(LabelStudioMLBase):
            def load(self, weights: Path | None) -> None:
                self.network = object()

        class Safe(Loading):
            thread_safe = True

        for model, shared in ((Loading, False), (Safe, True)):
            models = models_of(model, max_objects=2)
            with models.use(key(1)) as (first, _), models.use(key(2)) as (second, _):
                same = vars(first)["network"] is vars(second)["network"]
                assert same is shared

    def test_a_load_that_fills_what_setup_made_runs_for_each_object(self) -> None:
        class Filling(LabelStudioMLBase):
            def setup(self) -> None:
                self.network: dict[str, int] = {}

            def load(self, weights: Path | None) -> None:
                self.network["weight"] = 1

        models = models_of(Filling)
        with models.use(key(1)) as (first, _), models.use(key(2)) as (second, _):
            assert vars(first)["network"] == vars(second)["network"] == {"weight": 1}

    def test_what_was_loaded_goes_with_the_last_object_that_uses_it(self) -> None:
        class Weights:
            pass

        loaded: list[weakref.ref[Weights]] = []

        class Loading(LabelStudioMLBase):
            def load(self, weights: Path | None) -> None:
                self.network = Weights()
                loaded.append(weakref.ref(self.network))

        models = models_of(Loading, max_models=1)
        models.ensure(key(1))
        models.ensure(key(2))
        gc.collect()
        assert [ref() is None for ref in loaded] == [False]


class TestFailures:
    def test_a_failure_is_raised_again_for_a_while_without_a_new_try(self) -> None:
        tries = 0

        class Failing(LabelStudioMLBase):
            def setup(self) -> None:
                nonlocal tries
                tries += 1
                raise OSError("no")

        models = models_of(Failing)
        for _ in range(5):
            with pytest.raises(ModelSetupError, match=r"^Failing could not be set up"):
                models.ensure(key())
            with pytest.raises(ModelSetupError), models.use(key()):
                pass

        assert tries == 1

    @pytest.mark.parametrize("method", ["__init__", "setup", "load"])
    def test_a_failure_in_any_of_its_methods_names_its_line(self, method: str) -> None:
        def fail(self: object, *_: object, **__: object) -> None:
            raise RuntimeError("cublas")  # here

        model = type("Failing", (LabelStudioMLBase,), {method: fail})
        here = next(
            number
            for number, line in enumerate(Path(__file__).read_text().splitlines(), 1)
            if line.endswith("# here")
        )

        with pytest.raises(ModelSetupError) as failed:
            models_of(model).ensure(key())

        assert str(failed.value) == (
            "Failing could not be set up: RuntimeError: cublas "
            f"(test_model_pool.py, line {here})"
        )

    def test_an_object_that_failed_holds_no_memory(self) -> None:
        class Weights:
            pass

        held: list[weakref.ref[Weights]] = []

        class Failing(LabelStudioMLBase):
            def setup(self) -> None:
                self.network = Weights()
                held.append(weakref.ref(self.network))
                raise OSError("no")

        models = models_of(Failing)
        with pytest.raises(ModelSetupError):
            models.ensure(key())
        gc.collect()

        assert held[0]() is None

    def test_a_falsy_model_object_is_kept(self) -> None:
        class Empty(counted()):  # type: ignore[misc]
            def __len__(self) -> int:
                return 0

        models = models_of(Empty)
        for _ in range(3):
            with models.use(key()):
                pass

        assert Empty.made == ["1"]
