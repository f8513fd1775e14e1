"""A job is carried out: what ``fit`` gets, and what becomes of what it made."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lsml_bento.errors import MediaError, TrainingError
from lsml_bento.jobs.job import JobStatus
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.state.memory import MemoryState
from lsml_bento.versions.registry import Pointer
from tests.doubles import OTHER_CONFIG, choice
from tests.fits import ONE, Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, MemoryState())


class Learner(LabelStudioMLBase):
    """Its weights are a number, one higher after each fit."""

    number = 0

    def setup(self) -> None:
        self.set("model_version", "base")

    def load(self, weights: Path | None) -> None:
        self.number = int((weights / "number").read_text()) if weights else 0

    def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
        return [{"result": [choice("Positive")]} for _ in tasks]

    def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
        self.write(str(self.number + 1))

    def write(self, number: str) -> None:
        with self.save_weights({"number": self.number + 1}) as directory:
            (directory / "number").write_text(number)


class Setter(LabelStudioMLBase):
    """Sets in fit the values that it was given."""

    values: ClassVar[dict[str, Any]] = {}

    def setup(self) -> None:
        self.set("model_version", "base")

    def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
        for key, value in type(self).values.items():
            self.set(key, value)


def setter(**values: Any) -> type[Setter]:
    return type("Setter", (Setter,), {"values": values})


class TestWhatFitGets:
    def test_the_event_its_data_and_the_job_s_id(self, home: Home) -> None:
        got: list[Any] = []

        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                got.append((event, data, kwargs, self.project_id, self.events))
                got.append(self.label_config == home.state.read(ONE)["label_config"])

        job = home.train(Model)

        project = {"id": 1, "created_at": "2026-11-23T09:34:49.839721Z"}
        assert got == [
            (
                *("START_TRAINING", {"project": project}, {"job_id": job.id}, "1"),
                [("START_TRAINING", None)],
            ),
            True,
        ]

    def test_the_weights_of_the_version_that_serves(self, home: Home) -> None:
        for _ in range(3):
            home.train(Learner)
        home.versions.rollback(ONE)
        home.train(Learner)

        numbers = [v.metrics["number"] for v in reversed(home.versions.all(ONE))]
        assert numbers == [1, 2, 3, 3]
        assert home.active.parent == home.names[1]

    def test_none_where_they_are_gone_and_the_job_says_so(self, home: Home) -> None:
        tag = home.train(Learner).version
        home.weights.delete(str(home.active.tag))

        job = home.train(Learner)

        assert home.active.metrics == {"number": 1}
        assert job.version == home.active.version != tag
        [report] = home.reports
        assert report["note"].startswith(f"began without the weights of {tag}: the ")

    def test_none_where_a_new_label_config_does_not_fit_them(self, home: Home) -> None:
        class Model(Learner):
            def load(self, weights: Path | None) -> None:
                made_for = (weights / "config").read_text() if weights else None
                if made_for not in {None, self.label_config}:
                    raise ValueError("other labels")

            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                with self.save_weights() as directory:
                    (directory / "config").write_text(self.label_config)

        first = home.train(Model).version
        home.state.write(ONE, {"label_config": OTHER_CONFIG})

        assert home.train(Model).version != first
        [report] = home.reports
        assert "ValueError: other labels (test_trainer.py, line" in report["note"]
        assert home.active.label_config == OTHER_CONFIG


class TestWhatItSets:
    def test_it_comes_with_the_version_and_nobody_sees_it_before(
        self, home: Home
    ) -> None:
        seen: list[Any] = []

        class Model(Setter):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.set("words", ["a"])
                self.set("model_version", "v1")
                seen.append((self.get("words"), self.get("model_version")))
                seen.append(home.state.read(ONE).get("words"))
                seen.append(home.state.read(ONE)["model_version"])

        assert home.train(Model).version == "v1"
        assert seen == [(["a"], "v1"), None, "base"]
        assert home.state.read(ONE)["words"] == ["a"]
        assert home.state.read(ONE)["model_version"] == "base"
        assert home.active.values == {"words": ["a"]}

    def test_a_version_has_its_ancestors_values_too(self, home: Home) -> None:
        home.train(setter(a=1, b=1))
        home.train(setter(b=2))

        assert home.active.values == {"a": 1, "b": 2}

    def test_weights_stay_where_fit_only_set_something(self, home: Home) -> None:
        home.train(Learner)
        first = home.active

        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.set("threshold", 0.5)

        home.train(Model)

        assert home.active.tag == first.tag
        assert home.active.manifest == first.manifest
        assert home.active.version == "base+2"
        assert len(home.stored) == 1

    def test_a_fit_that_fails_leaves_nothing_behind(self, home: Home) -> None:
        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.set("words", ["a"])
                self.set("model_version", "v1")
                self.write("1")
                raise ValueError("no luck")

        before = home.state.read(ONE)
        with pytest.raises(TrainingError):
            home.train(Model)

        assert home.state.read(ONE) == {**before, "model_version": "base"}
        assert home.versions.pointer(ONE) == Pointer()
        assert (home.stored, home.scraps, home.names) == ([], [], [])

    def test_label_config_and_extra_params_are_the_project_s(self, home: Home) -> None:
        class Model(Setter):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.use_label_config(OTHER_CONFIG)
                self.set_extra_params({"a": 1})

        assert home.train(Model).version is None
        values = home.state.read(ONE)
        assert values["label_config"] == OTHER_CONFIG
        assert values["extra_params"] == {"a": 1}

    def test_setup_names_the_base_before_fit_and_after_it(self, home: Home) -> None:
        seen: list[str] = []

        class Model(Learner):
            def setup(self) -> None:
                self.set("model_version", "base")
                seen.append(home.state.read(ONE)["model_version"])

            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.set("model_version", "v1" if self.number == 0 else "v2")
                self.write(str(self.number + 1))

        home.train(Model)
        home.train(Model)

        assert home.names == ["v1", "v2"]
        assert seen == ["base"] * 4
        assert home.state.read(ONE)["model_version"] == "base"


class TestNames:
    def test_weights_name_their_version(self, home: Home) -> None:
        job = home.train(Learner)

        [tag] = home.stored
        assert tag == f"learner-p{ONE}:{job.version}"

    def test_what_fit_names_wins(self, home: Home) -> None:
        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.write("1")
                self.set("model_version", "NER v2")

        assert home.train(Model).version == "NER v2"
        assert home.active.tag == home.stored[0]

    @pytest.mark.parametrize("named", ["base", "v1"])
    def test_a_name_that_is_taken_gets_a_number(self, home: Home, named: str) -> None:
        home.train(setter(model_version="v1"))
        home.train(setter(model_version="v2"))

        assert home.train(setter(model_version=named, a=1)).version == "base+3"
        assert home.train(setter(model_version=named, a=2)).version == "base+4"

    def test_weights_under_a_name_that_is_taken_have_their_tag_s(
        self, home: Home
    ) -> None:
        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.write("1")
                self.set("model_version", "base")

        job = home.train(Model)

        assert home.stored == [f"learner-p{ONE}:{job.version}"]

    def test_a_native_fit_that_makes_nothing_makes_no_version(self, home: Home) -> None:
        job = home.train(setter())

        assert (job.status, job.version) == (JobStatus.SUCCEEDED, None)
        assert home.names == []

    def test_a_legacy_version_reloads_its_modules(self, home: Home) -> None:
        for number in range(3):
            home.train(setter(number=number), is_drop_in=True)

        assert home.names == ["base+1", "base+2", "base+3"]
        assert home.active.afresh
        assert home.active.tag is None

    def test_a_number_is_never_given_twice(self, tmp_path: Path) -> None:
        home = Home(tmp_path, MemoryState(), LSML_KEEP_VERSIONS="1")
        given = [home.train(setter(n=n), is_drop_in=True).version for n in range(5)]

        assert given == [f"base+{number}" for number in range(1, 6)]
        assert home.names == ["base+5"]

    def test_bump_model_version_counts_on(self, home: Home) -> None:
        class Model(LabelStudioMLBase):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.bump_model_version()

        home.train(Model, is_drop_in=True)
        home.train(Model, is_drop_in=True)

        assert home.names == ["0.1.0", "0.2.0"]

    def test_fit_gets_the_active_version(self, home: Home) -> None:
        seen = []

        class Model(Setter):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                seen.append(str(self.model_version))
                self.set("seen", seen)

        for _ in range(2):
            home.train(Model, is_drop_in=True)

        assert seen == ["base", "base+1"]

    def test_a_class_that_always_sets_the_same_name_still_gets_new_ones(
        self, home: Home
    ) -> None:
        for number in range(3):
            model = setter(model_version="my-model", number=number)
            home.train(model, is_drop_in=True)

        assert home.names == ["my-model", "base+2", "base+3"]


class TestFailures:
    def test_a_class_without_a_fit_has_a_job_that_says_so(self, home: Home) -> None:
        class Model(LabelStudioMLBase):
            pass

        job = home.train(Model)

        assert (job.status, job.version) == (JobStatus.SUCCEEDED, None)
        assert home.reports == [{"note": "Model has no fit"}]

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (ValueError("bad\nlabels"), "ValueError: bad labels"),
            (SystemExit(3), "SystemExit: 3"),
            (KeyboardInterrupt(), "KeyboardInterrupt"),
            (StopIteration(), "StopIteration"),
            (MemoryError(), "MemoryError"),
        ],
    )
    def test_an_error_in_fit_is_reported_with_file_and_line(
        self, home: Home, error: BaseException, said: str
    ) -> None:
        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                raise error

        with pytest.raises(TrainingError) as caught:
            home.train(Model)

        place = f"test_trainer.py, line {Model.fit.__code__.co_firstlineno + 1}"
        assert str(caught.value) == f"fit() raised {said} ({place})"
        assert caught.value.__cause__ is error

    def test_a_setup_that_exits_is_a_failure_too(self, home: Home) -> None:
        class Model(Learner):
            def setup(self) -> None:
                sys.exit("no licence")

        with pytest.raises(TrainingError, match="could not be set up: SystemExit: no"):
            home.train(Model)

    def test_an_error_of_lsml_is_reported_unchanged(self, home: Home) -> None:
        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                raise MediaError("a file cannot be read")

        with pytest.raises(MediaError, match=r"^a file cannot be read$"):
            home.train(Model)

    def test_a_version_whose_load_raises_does_not_serve(self, home: Home) -> None:
        good = home.train(Learner).version

        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.write("not a number")

        with pytest.raises(TrainingError) as caught:
            home.train(Model)

        assert "the new version is not served: Model could not be set up: " in (
            str(caught.value)
        )
        assert "ValueError: invalid literal" in str(caught.value)
        assert isinstance(caught.value.__cause__, ValueError)
        assert (home.active.version, home.names) == (good, [good])
        assert home.stored == [home.active.tag]

    def test_a_version_that_does_not_predict_does_not_serve(self, home: Home) -> None:
        home.annotate(3)

        class Model(Learner):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                if self.number == 2:
                    raise ValueError(tasks[0]["data"]["text"])
                return super().predict(tasks, context)

        good = home.train(Model).version
        with pytest.raises(TrainingError, match="cannot predict task 3") as caught:
            home.train(Model)

        assert "ValueError: text 3 (test_trainer.py, line" in str(caught.value)
        assert home.active.version == good
        assert home.stored == [home.active.tag]

    @pytest.mark.parametrize("answer", ["nonsense", [1, 2, 3]])
    def test_a_version_whose_answers_are_none_does_not_serve(
        self, home: Home, answer: Any
    ) -> None:
        home.annotate(3)

        class Model(Learner):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                return answer

        with pytest.raises(TrainingError, match="the new version is not served: "):
            home.train(Model)
        assert (home.names, home.stored) == ([], [])

    def test_the_values_that_were_set_are_there_when_it_is_tried(
        self, home: Home
    ) -> None:
        home.annotate(3)

        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                self.set("words", ["a"])

            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                assert self.get("words") == ["a"]
                return []

        assert home.train(Model).version == "base+1"

    def test_an_unreadable_sample_does_not_fail_the_job(self, home: Home) -> None:
        home.annotate(3)

        class Model(Learner):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                raise MediaError("the image is gone")

        assert str(home.train(Model).version) in home.stored[0]

    def test_the_sample_is_as_label_studio_sent_it(self, home: Home) -> None:
        home.annotate(3)

        class Model(Learner):
            def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
                for task in self.annotated_tasks():
                    task["text"] = task.pop("data")["text"].encode()
                super().fit(event, data)

            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                json.dumps(tasks)
                return [{"result": [choice(task["data"]["text"])]} for task in tasks]

        assert str(home.train(Model).version) in home.stored[0]

    def test_a_later_job_leaves_a_pinned_version_serving(self, home: Home) -> None:
        first = home.train(Learner).version
        home.versions.activate(ONE, str(first), pin=True)

        job = home.train(Learner)

        assert job.note == (
            f"{job.version} was stored, but {first} is pinned and keeps serving"
        )
        assert home.active.version == first
        assert len(home.stored) == 2


@pytest.fixture(autouse=True)
def _imports_stay() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
