"""What Label Studio sends, parsed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsml_bento.contract import (
    Project,
    iso_time,
    parse_predict,
    parse_project,
    parse_setup,
    parse_time,
)
from lsml_bento.errors import BadRequest


class TestProjects:
    @pytest.mark.parametrize(
        ("value", "project"),
        [
            ("1.1795426489", Project("1", 1795426489)),
            ("1", Project("1")),
            (1, Project("1")),
            (None, Project("")),
            ("", Project("")),
            ("a-b_C", Project("a-b_C")),
            ("1.0", Project("1", 0)),
            ({"id": 1}, Project("1")),
            ({"id": "1.5"}, Project("1", 5)),
            ({}, Project("")),
            ({"id": 1, "created_at": "2026-11-23T09:34:49Z"}, Project("1", 1795426489)),
            (
                {"id": 1, "created_at": "2026-11-23T09:34:49.978123Z"},
                Project("1", 1795426489),
            ),
            (
                {"id": 1, "created_at": "2026-11-23T11:34:49.978123+02:00"},
                Project("1", 1795426489),
            ),
            ({"id": 1, "created_at": "2026-11-23T09:34:49"}, Project("1", 1795426489)),
            ({"id": 1, "created_at": "some day"}, Project("1")),
            ({"id": 1, "created_at": 5}, Project("1")),
            ({"id": 1, "created_at": "1969-12-31T23:59:59Z"}, Project("1")),
            ({"id": 1, "created_at": "0001-01-01T00:00:00+23:59"}, Project("1")),
            ({"created_at": "2026-11-23T09:34:49Z"}, Project("")),
        ],
    )
    def test_every_form_that_label_studio_sends_is_accepted(
        self, value: object, project: Project
    ) -> None:
        assert parse_project(value) == project

    @pytest.mark.parametrize("value", [True, 1.0, ["1"], b"1", {"id": [1]}])
    def test_other_types_are_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match="a project is a string or a number"):
            parse_project(value)

    @given(
        identity=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
        created_at=st.none() | st.integers(0, 10**15 - 1),
    )
    def test_a_project_is_parsed_from_its_text(
        self, identity: str, created_at: int | None
    ) -> None:
        project = Project(identity, created_at)

        assert parse_project(str(project)) == project

    @given(st.text(min_size=1))
    def test_any_text_is_a_safe_name_or_refused(self, text: str) -> None:
        try:
            project = parse_project(text)
        except ValueError:
            return
        assert not set(str(project)) & set("/\\ \0\n%:")
        assert project.id.isascii()


class TestSetup:
    def test_token_and_host_are_dropped(self) -> None:
        body = {"project": "1.5", "access_token": "secret", "hostname": "http://secret"}

        request = parse_setup(body)

        assert "secret" not in repr(request)
        assert "secret" not in str(request.model_dump())

    def test_every_key_is_optional(self) -> None:
        request = parse_setup({})

        assert request.project == Project("")
        assert request.label_config is None
        assert request.extra_params is None
        assert "extra_params" not in request.model_fields_set

    @pytest.mark.parametrize("key", ["schema", "label_config"])
    def test_the_label_config_has_two_names(self, key: str) -> None:
        assert parse_setup({key: "<View/>"}).label_config == "<View/>"
        request = parse_predict({"tasks": [], key: "<View/>"})
        assert request.label_config == "<View/>"

    @pytest.mark.parametrize("empty", ["", " ", "\n\t"])
    def test_an_empty_label_config_counts_as_an_empty_view(self, empty: str) -> None:
        assert parse_setup({"schema": empty}).label_config == "<View/>"

    def test_an_error_never_quotes_the_input(self) -> None:
        for body in (
            {"project": "secret/", "access_token": "secret"},
            {"schema": ["secret"]},
            {"project": ["secret"]},
        ):
            with pytest.raises(BadRequest) as refused:
                parse_setup(body)
            assert "secret" not in str(refused.value)


class TestPredict:
    @pytest.mark.parametrize("params", [None, "text", [1], 5])
    def test_params_that_are_not_an_object_are_ignored(self, params: object) -> None:
        assert parse_predict({"tasks": [], "params": params}).params == {}

    @pytest.mark.parametrize("task_id", [1, "1", "abc", None])
    def test_ids_of_tasks_are_numbers_or_text(self, task_id: object) -> None:
        task = {"id": task_id, "data": {"x": 1}, "anything": [1]}

        assert parse_predict({"tasks": [task]}).tasks == [task]

    def test_params_may_be_100_levels_deep_and_a_context_deeper(self) -> None:
        def nested(depth: int) -> Any:
            return [nested(depth - 1)] if depth else 1

        fine = {"a": nested(98), "context": nested(500)}
        assert parse_predict({"tasks": [], "params": fine}).params == fine
        with pytest.raises(
            BadRequest, match=r"^params: nested deeper than 100 levels$"
        ):
            parse_predict({"tasks": [], "params": {"a": nested(99)}})


class TestTimes:
    @pytest.mark.parametrize(
        "text",
        [
            "2026-11-23T09:34:49.250000Z",
            "2026-11-23T09:34:49.250+00:00",
            "2026-11-23T11:34:49.250+02:00",
            "2026-11-23T09:34:49.250",
        ],
    )
    def test_every_spelling_of_a_time_is_the_same_time(self, text: str) -> None:
        moment = parse_time(text)

        assert iso_time(moment.timestamp()) == "2026-11-23T09:34:49.250Z"
        assert moment.isoformat(timespec="microseconds") == (
            "2026-11-23T09:34:49.250000+00:00"
        )

    @pytest.mark.parametrize("text", ["", "noon", "0001-01-01T00:00:00+23:59"])
    def test_any_other_text_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - Python's own text for most
            parse_time(text)

    @given(st.integers(0, 2**33))
    def test_a_time_that_we_write_can_be_read(self, milliseconds: int) -> None:
        text = iso_time(milliseconds / 1000)

        assert text is not None
        assert round(parse_time(text).timestamp() * 1000) == milliseconds
