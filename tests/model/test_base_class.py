"""LabelStudioMLBase as a user's class and its tests meet it, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from semver import Version

from lsml_bento import LabelStudioMLBase, ModelResponse, PredictionValue
from lsml_bento.contract import Project
from lsml_bento.errors import LabelConfigError, MediaError
from lsml_bento.model.base_class import ModelRuntime, use_runtime
from lsml_bento.state.memory import MemoryState
from tests.doubles import CONFIG, OTHER_CONFIG

NER = (
    '<View><Text name="text" value="$text"/><Labels name="label" toName="text">'
    '<Label value="PER" predicted_values="person, Human"/>'
    '<Label value="ORG"/><Label value="loc"/></Labels></View>'
)


class TestMadeByHand:
    def test_an_object_needs_no_arguments(self) -> None:
        model = LabelStudioMLBase()

        assert model.project_id == ""
        assert model.label_config == "<View/>"
        assert model.parsed_label_config == {}
        assert model.predict([{"id": 1, "data": {}}]) is None
        assert model.fit("START_TRAINING", {}) is None

    def test_it_accepts_the_arguments_of_human_signal_s_class(self) -> None:
        model = LabelStudioMLBase(project_id="7", label_config=CONFIG)

        assert model.project_id == "7"
        assert model.label_config == model.get("label_config") == CONFIG
        assert list(model.parsed_label_config) == ["sentiment"]
        assert json.loads(model.get("parsed_label_config")) == model.parsed_label_config
        assert model.label_interface.get_control("sentiment").tag == "Choices"

    def test_a_label_config_that_does_not_parse_is_refused(self) -> None:
        with pytest.raises(LabelConfigError):
            LabelStudioMLBase(label_config="<View")

    def test_it_has_the_settings_of_its_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.txt").write_text("content")
        monkeypatch.setenv("LSML_HOME", str(tmp_path / "home"))
        for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv("LSML_LOCAL_FILES_ROOT", raising=False)
        model = LabelStudioMLBase(project_id="7", label_config=CONFIG)
        url = "/data/local-files/?d=a.txt"

        assert model.get_label_studio_access_token() is None
        with pytest.raises(MediaError, match="LABEL_STUDIO_URL"):
            model.get_local_path(url)

        monkeypatch.setenv("LABEL_STUDIO_ACCESS_TOKEN", "key")
        monkeypatch.setenv("LOCAL_FILES_DOCUMENT_ROOT", str(tmp_path))
        assert model.get_label_studio_access_token() == "key"
        assert model.get_local_path(url, task_id=1) == str(tmp_path / "a.txt")
        task = {"id": 1, "data": {"text": url}}
        assert model.preload_task_data(task) == {"text": "content"}


class TestState:
    def test_a_key_that_was_never_set_is_none(self) -> None:
        model = LabelStudioMLBase()

        assert model.get("a") is None
        assert not model.has("a")

    @pytest.mark.parametrize("value", [0, False, "", [], {"a": [1]}, "text", 1.5])
    def test_get_returns_what_set_stored(self, value: object) -> None:
        model = LabelStudioMLBase()
        model.set("a", value)

        assert model.get("a") == value
        assert model.has("a")

    def test_a_value_that_json_cannot_hold_is_an_error(self) -> None:
        with pytest.raises(
            TypeError, match=r"set\('a', \.\.\.\) takes values that JSON can hold"
        ):
            LabelStudioMLBase().set("a", object())

    def test_an_array_is_refused(self) -> None:
        with pytest.raises(TypeError, match="this ndarray is not one"):
            LabelStudioMLBase().set("a", np.zeros(2))

    def test_objects_of_one_project_see_each_other_at_once(self) -> None:
        here = ModelRuntime(Project("1", 5), MemoryState())
        with use_runtime(here):
            first, second = LabelStudioMLBase("1"), LabelStudioMLBase("1")
        other = LabelStudioMLBase("1")

        first.set("a", 1)

        assert second.get("a") == 1
        assert other.get("a") is None

    def test_the_label_config_in_use_is_the_state_s(self) -> None:
        state = MemoryState()
        project = Project("1", 5)
        with use_runtime(ModelRuntime(project, state)):
            model = LabelStudioMLBase("1", CONFIG)
        model.use_label_config(OTHER_CONFIG)

        assert state.read(project)["label_config"] == OTHER_CONFIG
        assert model.parsed_label_config["sentiment"]["labels"][1] == "Neutral"


class TestVersions:
    def test_during_setup_only_the_object_itself_knows_its_first_version(self) -> None:
        state, project = MemoryState(), Project("1", 5)
        seen: list[Any] = []

        class Curious(LabelStudioMLBase):
            def setup(self) -> None:
                seen.append(str(self.model_version))
                seen.append(state.read(project).get("model_version"))

        with use_runtime(ModelRuntime(project, state)):
            Curious()

        assert seen == ["0.0.1", None]
        assert state.read(project)["model_version"] == "0.0.1"

    def test_a_semantic_version_is_one(self) -> None:
        model = LabelStudioMLBase()

        assert model.model_version == Version(0, 0, 1)
        assert model.bump_model_version() == Version(0, 1, 0)
        assert model.model_version == Version(0, 1, 0)
        assert model.get("model_version") == "0.1.0"

    def test_another_version_is_a_text_and_cannot_be_bumped(self) -> None:
        model = LabelStudioMLBase()
        model.set("model_version", "keyword-1")

        assert model.model_version == "keyword-1"
        with pytest.raises(ValueError, match="'keyword-1' is not a semantic version"):
            model.bump_model_version()


class TestExtraParams:
    @pytest.mark.parametrize(
        ("given", "found"),
        [
            (None, {}),
            ("", {}),
            ({}, {}),
            ({"a": 1}, {"a": 1}),
            ('{"a": 1}', {"a": 1}),
            ("[1]", [1]),
            ([1], [1]),
            ("not JSON", "not JSON"),
        ],
    )
    def test_they_are_read_as_json(self, given: object, found: object) -> None:
        model = LabelStudioMLBase()
        model.set_extra_params(given)

        assert model.extra_params == found


class TestLabelConfig:
    def test_the_first_control_of_a_type_is_found(self) -> None:
        model = LabelStudioMLBase(label_config=NER)

        assert model.get_first_tag_occurence("Labels", "Text") == (
            "label",
            "text",
            "text",
        )
        assert model.get_first_tag_occurence(("Choices", "Labels"), ("Text",))[0] == (
            "label"
        )

    def test_a_control_that_is_not_there_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="RectangleLabels"):
            LabelStudioMLBase(label_config=NER).get_first_tag_occurence(
                "RectangleLabels", "Image"
            )

    def test_labels_are_mapped_by_hint_then_by_name_then_without_case(self) -> None:
        model = LabelStudioMLBase(label_config=NER)
        names = ["person", "ORG", "org", "LOC", "other"]

        assert model.build_label_map("label", names) == {
            "person": "PER",
            "ORG": "ORG",
            "LOC": "loc",
        }

    def test_a_label_with_an_alias_is_matched_by_both_and_mapped_to_the_alias(
        self,
    ) -> None:
        config = """<View><Text name="t" value="$text"/>
        <Choices name="mood" toName="t">
          <Choice value="Positive" alias="p1"/><Choice value="Negative" alias="n1"/>
          <Choice value="Neutral" alias="z" predicted_values="meh"/>
        </Choices></View>"""
        model = LabelStudioMLBase(label_config=config)

        names = ["POSITIVE", "n1", "meh", "Neutral"]
        assert model.build_label_map("mood", names) == {
            "POSITIVE": "p1",
            "n1": "n1",
            "meh": "z",
        }
        assert model.build_label_map("mood", ["Negative"]) == {"Negative": "n1"}


class TestEvents:
    def test_only_training_events_are_learned_from(self) -> None:
        calls: list[Any] = []

        class Learning(LabelStudioMLBase):
            def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> Any:
                calls.append((event, data, kwargs))
                return "learned"

        model = Learning()

        assert model.process_event("START_TRAINING", {"a": 1}, "j", {"b": 2}) == (
            "learned"
        )
        assert model.process_event("PROJECT_UPDATED", {}, "j", {}) is None
        assert calls == [("START_TRAINING", {"a": 1}, {"job_id": "j", "b": 2})]


class Files:
    """Media that keeps every file in one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[Any] = []

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        self.asked.append((url, task_id, options))
        return str(self.root / Path(url).name)

    def access_token(self) -> str | None:
        return "token"


class TestMedia:
    @pytest.fixture
    def files(self, tmp_path: Path) -> Files:
        (tmp_path / "a.txt").write_text("content of a: é", encoding="utf-8")
        return Files(tmp_path)

    @pytest.fixture
    def model(self, files: Files) -> LabelStudioMLBase:
        here = ModelRuntime(Project("1", 5), MemoryState(), files)
        with use_runtime(here):
            return LabelStudioMLBase("1")

    def test_paths_come_from_the_server_s_media(
        self, model: LabelStudioMLBase, files: Files
    ) -> None:
        path = model.get_local_path("s3://bucket/a.txt", task_id=3, ls_host="http://x")

        assert path == str(files.root / "a.txt")
        url, task_id, options = files.asked[0]
        assert (url, task_id, options["ls_host"]) == (
            "s3://bucket/a.txt",
            3,
            "http://x",
        )
        assert model.get_label_studio_access_token() == "token"

    def test_task_data_is_filled_with_contents(self, model: LabelStudioMLBase) -> None:
        task = {
            "id": 3,
            "data": {
                "text": "/data/upload/1/a.txt",
                "plain": "no file",
                "list": ["s3://b/a.txt", 5],
                "deep": {"x": "https://h/a.txt", "y": {}},
                "n": None,
            },
        }

        filled = model.preload_task_data(task)

        content = "content of a: é"
        assert filled == {
            "text": content,
            "plain": "no file",
            "list": [content, 5],
            "deep": {"x": content, "y": {}},
            "n": None,
        }

    def test_task_data_can_be_filled_with_paths(
        self, model: LabelStudioMLBase, files: Files
    ) -> None:
        found = model.preload_task_data(
            {"id": 3}, "/data/upload/a.txt", read_file=False
        )

        assert found == str(files.root / "a.txt")
        assert files.asked[0][1] == 3


class TestModelResponse:
    def test_a_version_is_given_to_predictions_without_one(self) -> None:
        response = ModelResponse(
            predictions=[
                PredictionValue(result=[]),
                [PredictionValue(result=[], model_version="own")],
            ]
        )
        assert not response.has_model_version()

        response.set_version("v1")

        assert response.has_model_version()
        first, second = response.predictions
        assert isinstance(first, PredictionValue)
        assert isinstance(second, list)
        assert (first.model_version, second[0].model_version) == ("v1", "own")
