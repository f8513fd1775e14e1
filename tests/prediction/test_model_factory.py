"""One model object: its class, its setup, the weights of its version."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lsml_bento.adapters import label_studio_ml
from lsml_bento.contract import Project, Task
from lsml_bento.errors import LabelConfigError, ModelError, ModelSetupError
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import NoMedia
from lsml_bento.prediction.model_factory import ModelFactory, ModelKey, to_key
from lsml_bento.state.memory import MemoryState
from tests.doubles import CONFIG, OTHER_CONFIG, texts
from tests.learned import ONE, TWO, Named, Store

TASK: Task = texts("a")["tasks"][0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(MemoryState(), tmp_path / "models")


def factory_of(
    model: type[LabelStudioMLBase] | ModelSource, store: Store, *, shares: bool = True
) -> ModelFactory:
    source = model if isinstance(model, ModelSource) else ModelSource(model)
    any_task = AnnotationStore(store.state).any_task
    return ModelFactory(
        *(source, store.state, NoMedia(), store.weights, any_task), shares=shares
    )


def key(
    config: str = CONFIG, project: Project = ONE, params: object = None
) -> ModelKey:
    return ModelKey(project, config, to_key(params))


class TestKeys:
    def test_equal_values_make_equal_keys(self) -> None:
        first = key(params={"a": 1, "b": [2]})
        second = key(params={"b": [2], "a": 1})

        assert first == second
        assert first != key(params={"a": 1, "b": [3]})

    def test_one_is_in_use_while_the_project_has_its_label_config_and_params(
        self, store: Store
    ) -> None:
        factory = factory_of(Named, store)
        assert factory.is_in_use(key())  # nothing is known of the project

        store.state.write(ONE, {"label_config": CONFIG, "extra_params": {"b": 1}})

        assert not factory.is_in_use(key())
        assert factory.is_in_use(key(params={"b": 1}))
        assert not factory.is_in_use(key(OTHER_CONFIG, params={"b": 1}))


class TestWeights:
    def test_the_base_gets_none(self, store: Store) -> None:
        model = factory_of(Named, store).make(key(), None)

        assert vars(model)["loaded"].name == "base"
        assert model._lsml.version is None

    def test_a_version_gets_its_directory(self, store: Store) -> None:
        store.promote("v1", holds="what v1 learned")

        model = factory_of(Named, store).make(key(), "v1")

        assert vars(model)["loaded"].name == "what v1 learned"
        assert model._lsml.version == "v1"

    def test_a_version_without_weights_gets_none(self, store: Store) -> None:
        store.promote_without_weights("v1")

        model = factory_of(Named, store).make(key(), "v1")

        assert vars(model)["loaded"].name == "base"
        assert model._lsml.version == "v1"

    def test_one_of_a_fit_that_wrote_no_weights_has_those_of_its_parent(
        self, store: Store
    ) -> None:
        parent = store.promote("v1")
        store.serve(parent.model_copy(update={"version": "v2", "parent": "v1"}))

        model = factory_of(Named, store).make(key(), "v2")

        assert vars(model)["loaded"].name == "v1"
        assert model._lsml.version == "v2"


class TestWrittenForLabelStudioMl:
    def test_its_load_is_never_called(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "path", list(sys.path))
        label_studio_ml.install()
        (tmp_path / "has_a_load.py").write_text(HAS_A_LOAD)
        model = ModelSource("has_a_load:Model", tmp_path).load()
        store.promote("v1")

        factory = factory_of(model, store)  # as init_app passes it

        assert vars(factory.make(key(), None))["words"] == {"fox"}
        assert vars(factory.make(key(), "v1"))["words"] == {"fox"}
        del sys.modules["has_a_load"]


class TestSharing:
    def test_objects_of_a_reimported_class_load_again(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "path", list(sys.path))
        source = ModelSource("written_for_sharing:Model", tmp_path)
        factory = ModelFactory(
            *(source, store.state, NoMedia(), store.weights, lambda _: None),
            shares=True,
        )
        found = []
        for number in (1, 22):
            (tmp_path / "written_for_sharing.py").write_text(MODULE.format(number))
            source.reload()
            found.append(factory.make(key(), None))  # the older one is still there

        assert [vars(model)["number"] for model in found] == [1, 22]
        del sys.modules["written_for_sharing"]

    def test_a_load_that_failed_is_shared_with_nobody(self, store: Store) -> None:
        class Failing(Named):
            loads: ClassVar[int] = 0

            def load(self, weights: Path | None) -> None:
                type(self).loads += 1
                super().load(weights)
                if self.loads == 1:
                    raise OSError("the first time")

        factory = factory_of(Failing, store)
        with pytest.raises(ModelSetupError):
            factory.make(key(), None)

        assert vars(factory.make(key(), None))["loaded"].name == "base"
        assert Failing.loads == 2


MODULE = """
from lsml_bento import LabelStudioMLBase

class Model(LabelStudioMLBase):
    def load(self, weights):
        self.number = {}
"""


class TestASample:
    def test_it_must_be_predicted(self, store: Store) -> None:
        store.promote("v1", holds="bad predict")

        with pytest.raises(
            ModelError,
            match=r"^Named cannot predict task 1: RuntimeError: cannot predict with "
            r"bad predict \(learned\.py, line \d+\)$",
        ):
            factory_of(Named, store).make(key(), "v1", TASK)

    @pytest.mark.parametrize(
        ("returned", "reason"),
        [
            ([], None),
            (None, None),
            ([{"result": []}], None),
            ([{"result": []}] * 2, "returned 2 predictions"),
            ([{"result": object()}], "cannot be sent as JSON"),
            ("text", "returned str"),
        ],
    )
    def test_what_it_returns_must_be_a_prediction(
        self, store: Store, returned: object, reason: str | None
    ) -> None:
        class Returning(LabelStudioMLBase):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                return returned

        factory = factory_of(Returning, store)
        if reason is None:
            factory.make(key(), None, TASK)
        else:
            with pytest.raises(ModelError, match=reason):
                factory.make(key(), None, TASK)


class TestWhatIsNoGood:
    @pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit])
    def test_whatever_setup_raises_is_one_sentence(
        self, store: Store, error: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Failing(Named):
            def setup(self) -> None:
                raise error("no")

        said = rf"^Failing could not be set up: {error.__name__}: no \("
        with pytest.raises(ModelSetupError, match=said):
            factory_of(Failing, store).make(key(), None)

        (record,) = caplog.records
        assert record.exc_info is not None

    def test_a_keyboard_interrupt_is_raised(self, store: Store) -> None:
        class Interrupted(Named):
            def setup(self) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            factory_of(Interrupted, store).make(key(), None)

    def test_a_label_config_that_does_not_parse_has_no_base_either(
        self, store: Store
    ) -> None:
        store.promote("v1")

        with pytest.raises(LabelConfigError):
            factory_of(Named, store).make_or_base(key("<View"), "v1")

    def test_a_version_that_fails_leaves_the_base_and_one_line(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.promote("v1", holds="bad load")

        model, lacks = factory_of(Named, store).make_or_base(key(), "v1")

        assert vars(model)["loaded"].name == "base"
        assert lacks
        (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert record.getMessage().startswith(
            "Version not served: project=1.100 version=v1: Named could not be set up: "
        )
        assert record.getMessage().endswith("; the base serves")
        assert record.exc_info is not None

    def test_if_the_base_fails_too_its_own_reason_is_raised(self, store: Store) -> None:
        class Failing(Named):
            tried: ClassVar[int] = 0

            def setup(self) -> None:
                type(self).tried += 1
                raise OSError(f"try {self.tried}")

        store.promote("v1")

        with pytest.raises(ModelSetupError, match="try 2"):
            factory_of(Failing, store).make_or_base(key(), "v1")

    def test_a_missing_version_leaves_the_base(self, store: Store) -> None:
        model, lacks = factory_of(Named, store).make_or_base(key(project=TWO), "v7")

        assert model._lsml.version is None
        assert lacks


HAS_A_LOAD = (
    "from label_studio_ml.model import LabelStudioMLBase"
    """

class Model(LabelStudioMLBase):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.words = self.load()

    def load(self):
        return {"fox"}
"""
)
