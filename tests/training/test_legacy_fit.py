"""Classes written for ``label_studio_ml``: how their ``fit`` is called, and when it
makes a version."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lsml_bento.adapters import label_studio_ml
from lsml_bento.errors import TrainingError
from lsml_bento.jobs.job import JobStatus
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.state.memory import MemoryState
from tests.fits import ONE, Home

DATA = {"project": {"id": 1, "created_at": "2026-11-23T09:34:49.839721Z"}}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, MemoryState())
    home.context.model_dir = tmp_path / "files"
    home.context.model_dir.mkdir()
    return home


Got = list[tuple[Any, ...]]


def shapes(got: Got) -> dict[str, Callable[..., Any]]:
    """Signatures that people gave ``fit``; each stores what it gets."""

    def named(self: Any, **kwargs: Any) -> None:
        got.append((kwargs.pop("event"), kwargs.pop("data"), kwargs))

    def swapped(self: Any, data: Any, event: Any, **kwargs: Any) -> None:
        got.append((data, event, kwargs))  # label_studio_ml fills places, not names

    def short(self: Any, event: Any, data: Any) -> None:
        got.append((event, data, {}))

    def other_names(self: Any, kind: Any, body: Any, **kwargs: Any) -> None:
        got.append((kind, body, kwargs))

    def job_id(self: Any, event: Any, data: Any = None, *, job_id: Any = 0) -> None:
        got.append((event, data, {"job_id": job_id}))

    def open_(self: Any, *args: Any, **kwargs: Any) -> None:
        got.append((*args, kwargs))

    def event_only(self: Any, event: Any, **kwargs: Any) -> None:
        got.append((event, kwargs.pop("data"), kwargs))

    functions = named, swapped, short, other_names, job_id, open_, event_only
    return {function.__name__: function for function in functions}


class TestHowFitIsCalled:
    @pytest.mark.parametrize("name", shapes([]))
    def test_with_what_its_signature_accepts(self, home: Home, name: str) -> None:
        got: Got = []
        model = type("Model", (LabelStudioMLBase,), {"fit": shapes(got)[name]})

        job = home.train(model, is_drop_in=True)

        named = {} if name == "short" else {"job_id": job.id}
        assert got == [("START_TRAINING", DATA, named)]

    def test_so_is_a_decorated_function(self, home: Home) -> None:
        got: Got = []

        def update(event: Any, data: Any, helper: Any) -> None:
            got.append((event, data, helper.project_id))

        members = {"_lsml_update": staticmethod(update)}
        home.train(type("Model", (LabelStudioMLBase,), members), is_drop_in=True)

        assert got == [("START_TRAINING", DATA, "1")]

    def test_one_that_needs_more_fails_with_what_to_write(self, home: Home) -> None:
        class Model(LabelStudioMLBase):
            def fit(self, event: str, data: Any, epochs: int) -> Any:  # type: ignore[override]
                raise AssertionError

        with pytest.raises(TrainingError) as caught:
            home.train(Model, is_drop_in=True)

        assert "missing a required argument: 'epochs'): write fit(self, event, " in (
            str(caught.value)
        )

    def test_an_overridden_process_event_is_called_in_its_place(
        self, home: Home
    ) -> None:
        got: Got = []

        class Model(LabelStudioMLBase):
            def fit(self, event: str, data: Any) -> Any:  # type: ignore[override]
                got.append((event, data))

            def process_event(
                self, event: str, data: Any, job_id: Any, additional_params: Any
            ) -> Any:
                got.append((event, data, job_id, additional_params))
                return super().process_event(event, data, job_id, additional_params)

        job = home.train(Model, is_drop_in=True)

        sent = ("START_TRAINING", DATA)
        assert got == [(*sent, job.id, {}), sent]


class Old(LabelStudioMLBase):
    """A class of label_studio_ml 1.0."""

    def predict(self, tasks: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return [{"result": []} for _ in tasks]

    def fit(self, completions: Any, workdir: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        ids = [task["id"] for task in completions]
        path = Path(workdir, "ids.json")
        path.write_text(json.dumps(ids))
        return {"file": str(path), "action": kwargs["event"], "data": kwargs["data"]}


class TestLabelStudioMl10:
    def test_fit_gets_the_annotated_tasks_and_a_directory(self, home: Home) -> None:
        home.annotate(3, 5)

        job = home.train(Old, is_drop_in=True)

        output = home.active.values["train_output"]
        assert Path(output["file"]).parent == home.path / "files" / job.id
        assert json.loads(Path(output["file"]).read_text()) == [3, 5]
        assert (output["action"], output["data"]) == ("START_TRAINING", DATA)

    def test_what_it_returned_is_the_train_output_of_the_next_object(
        self, home: Home
    ) -> None:
        seen = []

        class Model(Old):
            def __init__(self, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                seen.append(self.train_output.get("file"))

        home.train(Model, is_drop_in=True)
        file = home.state.read(ONE)["train_output"]["file"]

        assert seen == [None, file]  # before fit, and when the version is tested

    def test_one_that_wrote_nothing_leaves_no_directory(self, home: Home) -> None:
        class Model(Old):
            def fit(self, tasks: Any, workdir: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
                assert Path(workdir).is_dir()

        home.train(Model, is_drop_in=True)

        assert list((home.path / "files").iterdir()) == []


def with_load(home: Home) -> Any:
    """A class of a directory that imports ``label_studio_ml``."""
    home.write(
        """
        from label_studio_ml.model import LabelStudioMLBase

        class Model(LabelStudioMLBase):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.words = self.load()

            def load(self):
                return {"fox"}

            def fit(self, event, data, **kwargs):
                self.set("words", sorted(self.words))
        """
    )
    label_studio_ml.install()
    return ModelSource("model:Model", home.directory).reload()


class TestNamesOfItsOwn:
    def test_its_load_is_never_called(self, home: Home) -> None:
        home.train(with_load(home), is_drop_in=True)

        assert home.active.values == {"words": ["fox"]}

    def test_weights_that_nothing_loads_are_named(self, home: Home) -> None:
        class Model(with_load(home)):  # type: ignore[misc]
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                with self.save_weights() as directory:
                    (directory / "weights").write_text("2")

        home.train(Model, is_drop_in=True)

        [report] = home.reports
        assert "import LabelStudioMLBase from lsml_bento to load" in report["note"]

    def test_attributes_may_have_the_names_of_ours(self, home: Home) -> None:
        names = (
            *("events", "should_stop", "train_output", "training", "report", "run"),
            *("save_weights", "annotated_tasks", "_state", "_label_config", "_preload"),
        )

        class Model(LabelStudioMLBase):
            training = False  # type: ignore[assignment]

            def setup(self) -> None:
                for name in names:
                    setattr(self, name, [name])

            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.set("kept", [getattr(self, name) for name in names])
                self.preload_task_data({"data": {"text": "a"}})

        source = ModelSource(Model, home.directory)
        job = home.train(Model, is_drop_in=True)

        assert job.status is JobStatus.SUCCEEDED
        assert home.active.values == {"kept": [[name] for name in names]}
        assert source.rules is not None
        assert '"quiet_s"' in source.rules.to_json()


class Writer(LabelStudioMLBase):
    """Does in fit what a test asks for."""

    does: ClassVar[Callable[[Any], object]]

    def setup(self) -> None:
        self.set("model_version", "base")

    def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
        type(self).does(self)


def writer(does: Callable[[Any], object]) -> type[Writer]:
    return type("Writer", (Writer,), {"does": staticmethod(does)})


class TestWhetherItMakesAVersion:
    @pytest.fixture(autouse=True)
    def _before(self, home: Home) -> None:
        (home.path / "files" / "old").mkdir()
        (home.path / "files" / "old" / "weights").write_text("1")
        home.write("from label_studio_ml.model import LabelStudioMLBase")
        home.context.home = home.path / "files"
        home.context.stores = (home.path / "files" / "store",)
        home.state.write(ONE, {"known": [1]})
        time.sleep(0.05)  # the files have an older time stamp than the fit

    def test_not_if_it_did_nothing_and_the_job_says_so(self, home: Home) -> None:
        job = home.train(writer(lambda model: None), is_drop_in=True)

        assert (job.status, job.version, home.names) == (JobStatus.SUCCEEDED, None, [])
        note = "made no version: fit set nothing, saved nothing and changed no file"
        assert home.reports == [{"note": note}]

    @pytest.mark.parametrize(
        "path",
        [
            *("files/new", "files/a/b/new", "files/old/weights", "backend/words.txt"),
            *("backend/.hidden", "files/statements"),
        ],
    )
    def test_a_file_that_it_wrote_makes_one(self, home: Home, path: str) -> None:
        def write(_: object) -> None:
            file = home.path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("2")
            os.utime(file, (0, 0))  # as a copy keeps the time of its source

        job = home.train(writer(write), is_drop_in=True)

        assert job.version == "base+1"

    def test_a_directory_that_it_created_counts(self, home: Home) -> None:
        home.context.model_dir = home.path / "later"

        def write(_: object) -> None:
            (home.path / "later").mkdir()
            (home.path / "later" / "weights").write_text("2")

        assert home.train(writer(write), is_drop_in=True).version == "base+1"

    @pytest.mark.parametrize(
        "path",
        [
            *("backend/__pycache__/a.pyc", "backend/run.log", "backend/.git/index"),
            *("files/state.db-wal", "files/huey.db", "files/worker.lock"),
            *("files/inbox/event", "files/store/weights", "elsewhere"),
        ],
    )
    def test_other_files_do_not(self, home: Home, path: str) -> None:
        def write(_: object) -> None:
            file = home.path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("2")

        assert home.train(writer(write), is_drop_in=True).version is None

    def test_a_value_that_it_set_to_what_it_was_does_not(self, home: Home) -> None:
        job = home.train(writer(lambda model: model.set("known", [1])), is_drop_in=True)

        assert job.version is None
        job = home.train(writer(lambda model: model.set("known", [2])), is_drop_in=True)
        assert job.version == "base+1"

    def test_a_link_to_its_own_directory_ends(self, home: Home) -> None:
        (home.path / "files" / "loop").symlink_to(home.path / "files")

        assert home.train(writer(lambda model: None), is_drop_in=True).version is None


@pytest.fixture(autouse=True)
def _imports_stay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("model", None)
