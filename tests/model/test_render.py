"""From what predict returned to what Label Studio can store."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.label_interface import LabelInterface

from lsml_bento.errors import MediaError, PredictionError, WrongCount
from lsml_bento.model.invoke import for_annotator, render
from lsml_bento.model.response import ModelResponse, PredictionValue
from tests.doubles import CONFIG, choice

REGION = choice("Positive")


def slot_of(entry: object) -> Any:
    """The slot of one task, parsed; an error if it has none."""
    (slot,) = render([entry], 1, "v1")
    if isinstance(slot, Exception):
        raise slot
    return json.loads(slot)


def prediction(result: object = None, score: float | None = None) -> dict[str, Any]:
    return {
        "result": [REGION] if result is None else result,
        "score": score,
        "model_version": "v1",
    }


class TestShapes:
    @pytest.mark.parametrize("returned", [None, [], (), ModelResponse(predictions=[])])
    def test_no_predictions_are_an_empty_entry_for_each_task(
        self, returned: object
    ) -> None:
        assert render(returned, 3, "v1") == [b"[]", b"[]", b"[]"]

    @pytest.mark.parametrize(
        "returned",
        [
            [{"result": [REGION]}],
            ({"result": [REGION]},),
            [[{"result": [REGION]}]],
            [PredictionValue(result=[REGION], score=None)],
            {"predictions": [{"result": [REGION]}]},
            {"predictions": [{"result": [REGION]}], "model_version": "other"},
            ModelResponse(predictions=[PredictionValue(result=[REGION], score=None)]),
            ModelResponse.model_validate(
                {"predictions": [{"result": [REGION], "score": None}]}
            ),
            [MappingProxyType({"result": (REGION,)})],
            [{"result": [REGION], "model_version": "other"}],
        ],
    )
    def test_every_form_of_a_prediction_is_accepted(self, returned: object) -> None:
        (slot,) = render(returned, 1, "v1")

        assert isinstance(slot, bytes)
        parsed = json.loads(slot)
        assert (parsed if type(parsed) is list else [parsed]) == [prediction()]

    @pytest.mark.parametrize(
        "nothing", [None, {}, {"score": 1}, [], [None], [{}, None]]
    )
    def test_an_entry_without_a_result_does_not_count_as_a_prediction(
        self, nothing: object
    ) -> None:
        assert slot_of(nothing) == []

    def test_an_entry_without_a_result_among_others_is_left_out(self) -> None:
        assert slot_of([{}, {"result": [REGION]}, None]) == [prediction()]

    def test_several_predictions_of_a_task_are_all_kept(self) -> None:
        several = [{"result": [REGION], "score": 0.5}, PredictionValue(result=[])]

        assert slot_of(several) == [
            prediction(score=0.5),
            prediction(result=[], score=0.0),
        ]

    @pytest.mark.parametrize(
        ("result", "sent"),
        [
            (None, []),
            ([], []),
            ({"choices": ["Positive"]}, {"choices": ["Positive"]}),
            ("Positive", "Positive"),
            ((REGION,), [REGION]),
        ],
    )
    def test_a_result_is_never_null(self, result: object, sent: object) -> None:
        assert slot_of({"result": result})["result"] == sent

    def test_other_fields_of_a_prediction_are_kept(self) -> None:
        sent = slot_of({"result": [], "cluster": 3, "task": 1})

        assert sent == {**prediction(result=[]), "cluster": 3, "task": 1}

    @pytest.mark.parametrize("returned", [[{}], [{}, {}, {}]])
    def test_another_number_of_entries_is_a_wrong_count(
        self, returned: list[Any]
    ) -> None:
        with pytest.raises(WrongCount) as wrong:
            render(returned, 2, "v1")

        assert (wrong.value.expected, wrong.value.found) == (2, len(returned))

    @pytest.mark.parametrize(
        ("returned", "kind"),
        [
            ("text", "str"),
            (5, "int"),
            ({"result": []}, "dict"),
            ({1, 2}, "set"),
            ((n for n in range(2)), "generator"),
            (np.zeros(3), "ndarray"),
        ],
    )
    def test_a_result_that_is_not_a_list_is_an_error(
        self, returned: object, kind: str
    ) -> None:
        with pytest.raises(
            PredictionError, match=rf"^predict\(\) returned {kind}: ret"
        ):
            render(returned, 2, "v1")

    def test_an_entry_of_a_wrong_type_is_an_error_for_its_task_only(self) -> None:
        first, second = render([{"result": []}, 3], 2, "v1")

        assert isinstance(first, bytes)
        assert str(second) == "a prediction is a dict or a PredictionValue, not int"


class Colour(Enum):
    RED = "red"


class TestValues:
    @pytest.mark.parametrize(
        ("value", "sent"),
        [
            (np.float32(0.5), 0.5),
            (np.float64(0.5), 0.5),
            (np.int64(7), 7),
            (np.uint8(7), 7),
            (np.bool_(True), True),
            (np.str_("a"), "a"),
            (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
            (np.array(1.5), 1.5),
            (np.array(["a"], dtype=object), ["a"]),
            (torch.tensor(0.5), 0.5),
            (torch.tensor([1, 2]), [1, 2]),
            (torch.tensor([[0.5]], requires_grad=True), [[0.5]]),
            (torch.tensor(True), True),
            (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
            (math.nan, None),
            (math.inf, None),
            (np.float32("nan"), None),
            (np.array([np.nan, 1.0]), [None, 1.0]),
            (torch.tensor([math.inf]), [None]),
            ((1, 2), [1, 2]),
            (Colour.RED, "red"),
            (Decimal("0.5"), "0.5"),
            (datetime(2026, 1, 2, tzinfo=timezone.utc), "2026-01-02T00:00:00Z"),
            (2**70, 2**70),
        ],
    )
    def test_numbers_of_other_libraries_are_numbers(
        self, value: object, sent: object
    ) -> None:
        assert slot_of({"result": [{"value": {"x": value}}]})["result"] == [
            {"value": {"x": sent}}
        ]

    @pytest.mark.parametrize(
        ("score", "sent"),
        [
            (torch.tensor(0.5), 0.5),
            (torch.tensor([0.5]), 0.5),
            (torch.tensor([0.5, 0.5]), None),
            (torch.tensor(math.nan), None),
            (np.float32(0.25), 0.25),
            (object(), None),
        ],
    )
    def test_scores_of_other_libraries_are_finite_or_null(
        self, score: object, sent: float | None
    ) -> None:
        assert slot_of({"result": [], "score": score})["score"] == sent

    def test_a_score_that_raises_is_null(self) -> None:
        class Strange:
            def __float__(self) -> float:
                raise RuntimeError("no")

        assert slot_of({"result": [], "score": Strange()})["score"] is None

    @pytest.mark.parametrize("value", [object(), {"a": {1: object()}}, lambda: 1])
    def test_a_value_that_json_cannot_hold_is_an_error(self, value: object) -> None:
        with pytest.raises(
            PredictionError, match="cannot be sent as JSON: TypeError: "
        ):
            slot_of({"result": [value]})

    def test_a_lone_surrogate_is_an_error(self) -> None:
        with pytest.raises(PredictionError, match=r"cannot be sent as JSON: .*surrog"):
            slot_of({"result": ["\ud83d"]})

    def test_a_recursive_value_is_an_error(self) -> None:
        result: list[Any] = []
        result.append(result)

        with pytest.raises(PredictionError, match="cannot be sent as JSON"):
            slot_of({"result": result})

    def test_an_object_that_raises_is_an_error_for_its_task_only(self) -> None:
        class Strange:
            def tolist(self) -> object:
                raise RuntimeError("the device is gone")

        with pytest.raises(PredictionError, match="RuntimeError: the device is gone"):
            slot_of({"result": [Strange()]})


class TestRegions:
    @pytest.mark.parametrize("wrap", ["dict", "value", "alone"])
    def test_a_region_of_the_sdk_is_rendered(self, wrap: str) -> None:
        region = LabelInterface(CONFIG).get_control("sentiment").label("Positive")
        entry: object = {
            "dict": {"result": [region]},
            "value": PredictionValue(result=[region]),
            "alone": {"result": region},
        }[wrap]

        assert slot_of(entry)["result"] == [{**REGION, "id": region.id}]

    def test_regions_and_dicts_can_be_mixed(self) -> None:
        region = LabelInterface(CONFIG).get_control("sentiment").label("Positive")

        sent = slot_of({"result": [REGION, region]})["result"]

        assert sent == [REGION, {**REGION, "id": region.id}]

    def test_relations_follow_the_regions(self) -> None:
        control = LabelInterface(CONFIG).get_control("sentiment")
        first, second = control.label("Positive"), control.label("Negative")
        first.relations = []
        first.add_relation(region=second, label="says")

        sent = slot_of({"result": [first, second]})["result"]

        assert [entry.get("id", entry["type"]) for entry in sent] == [
            first.id,
            second.id,
            "relation",
        ]
        assert sent[2] == {
            "from_id": first.id,
            "to_id": second.id,
            "type": "relation",
            "direction": "right",
            "labels": "says",
        }


class TestForAnnotators:
    @pytest.mark.parametrize(
        ("slot", "sent"),
        [
            (b"[]", b'{"result":[]}'),
            (b'{"result":[1]}', b'{"result":[1]}'),
            (b'[{"result":[1]},{"result":[2]}]', b'{"result":[1]}'),
        ],
    )
    def test_a_slot_is_one_object(self, slot: bytes, sent: bytes) -> None:
        assert for_annotator(slot) == sent


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(results=st.lists(st.lists(JSON, max_size=4), min_size=1, max_size=4))
def test_what_is_rendered_is_parsed_as_it_was(results: list[list[Any]]) -> None:
    slots = render([{"result": result} for result in results], len(results), "v1")

    parsed = [json.loads(slot) for slot in slots if isinstance(slot, bytes)]
    assert [slot["result"] for slot in parsed] == results
    assert {slot["model_version"] for slot in parsed} == {"v1"}


def test_an_error_in_the_list_is_for_its_task_only() -> None:
    error = MediaError("the file of task 2 cannot be read: fetch it again")

    slots = render([{"result": [REGION]}, error], 2, "v1")

    assert isinstance(slots[0], bytes)
    assert slots[1] is error
