"""Label configs, parsed by Label Studio's own parser."""

from __future__ import annotations

import pytest

from lsml_bento.errors import LabelConfigError
from lsml_bento.model.label_config import EMPTY, parse_label_config, parse_tags
from tests.doubles import CONFIG


def test_controls_and_objects_are_found() -> None:
    interface = parse_label_config(CONFIG)

    assert interface.get_first_tag_occurence("Choices", "Text") == (
        "sentiment",
        "text",
        "text",
    )


def test_an_empty_view_is_a_label_config() -> None:
    assert not list(parse_label_config(EMPTY).controls)
    assert parse_tags(EMPTY) == {}


def test_tags_have_the_shape_of_label_studio_s_own() -> None:
    tags = parse_tags(CONFIG)

    assert list(tags) == ["sentiment"]
    assert tags["sentiment"]["type"] == "Choices"
    assert tags["sentiment"]["to_name"] == ["text"]
    assert tags["sentiment"]["labels"] == ["Positive", "Negative"]
    assert [i["value"] for i in tags["sentiment"]["inputs"]] == ["text"]


def test_changing_tags_does_not_affect_the_next_call() -> None:
    parse_tags(CONFIG)["sentiment"]["labels"].append("changed")

    assert parse_tags(CONFIG)["sentiment"]["labels"] == ["Positive", "Negative"]


def test_each_call_creates_a_new_interface() -> None:
    assert parse_label_config(CONFIG) is not parse_label_config(CONFIG)


@pytest.mark.parametrize("config", ["", "<View", "text", "<View>" * 300])
def test_an_invalid_config_is_an_error_that_says_where_to_look(config: str) -> None:
    with pytest.raises(LabelConfigError) as refused:
        parse_label_config(config)

    said = str(refused.value)
    assert said.startswith("the label config is invalid: ")
    assert said.endswith("check it in Label Studio under Settings > Labeling Interface")
    assert len(said) < 400


@pytest.mark.parametrize(
    "declaration", ["<!DOCTYPE html>", "<!doctype x []>", '<!ENTITY a "b">']
)
def test_declarations_are_refused_before_parsing(declaration: str) -> None:
    with pytest.raises(LabelConfigError, match="declares a DOCTYPE or an entity"):
        parse_label_config(f"{declaration}<View/>")
