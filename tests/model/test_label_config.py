"""Label configs, parsed by Label Studio's own parser."""

from __future__ import annotations

import pytest

from lsml_bento.errors import LabelConfigError
from lsml_bento.model.label_config import (
    EMPTY,
    look_up,
    parse_label_config,
    parse_tags,
    unroll,
    variables,
)
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


def test_a_list_of_images_has_a_value_too() -> None:
    tags = parse_tags(
        """<View><Image name="i" valueList="$images"/>
        <Choices name="c" toName="i"><Choice value="yes"/></Choices></View>"""
    )
    assert tags["c"]["inputs"][0]["value"] == "images"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text", "a"),
        ("doc.body", "b"),
        ("pages[1].url", "d"),
        ("pages.0.url", "c"),
        ("rows[0][1]", 2),
        ("a.b", "one key"),
        ("doc.none", None),
        ("text.body", None),
        ("pages[7].url", None),
        ("none", None),
    ],
)
def test_keys_are_looked_up_as_label_studio_does(key: str, value: object) -> None:
    data = {
        "text": "a",
        "doc": {"body": "b"},
        "pages": [{"url": "c"}, {"url": "d"}],
        "rows": [[1, 2]],
        "a.b": "one key",
        "a": {"b": "two keys"},
    }
    assert look_up(data, key) == value


def test_the_keys_in_a_value_are_found() -> None:
    assert variables("$doc.body") == ["doc.body"]
    assert variables("Say: $a[0].b or $c!") == ["a[0].b", "c"]
    assert variables("text") == variables(None) == []


REPEATER = """<View><Text name="title" value="$title"/>
<Repeater on="$chapters" indexFlag="@c@">
  <Text name="head_@c@" value="$chapters[@c@].head"/>
  <Repeater on="$chapters[@c@].pages" mode="pagination">
    <Image name="page_@c@_{{idx}}" value="$chapters[@c@].pages[{{idx}}]"/>
    <RectangleLabels name="box_@c@_{{idx}}" toName="page_@c@_{{idx}}">
      <Label value="Title"/>
    </RectangleLabels>
  </Repeater>
</Repeater></View>"""


def test_repeaters_are_repeated_for_each_item_of_a_task() -> None:
    interface = parse_label_config(REPEATER)
    chapters = [{"head": "a", "pages": ["p", "q"]}, {"head": "b", "pages": ["r"]}]

    shown = unroll(interface, {"title": "t", "chapters": chapters})

    assert {control.name: control.to_name for control in shown.controls} == {
        f"box_{n}": [f"page_{n}"] for n in ("0_0", "0_1", "1_0")
    }
    assert [tag.value for tag in shown.objects if tag.tag == "Text"] == [
        "$title",
        "$chapters[0].head",
        "$chapters[1].head",
    ]
    assert [tag.name for tag in unroll(interface, {"title": "t"}).objects] == ["title"]
    plain = parse_label_config(CONFIG)
    assert unroll(plain, {}) is plain
