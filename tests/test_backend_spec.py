"""Names of services."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsml_bento.backend_spec import (
    BackendSpec,
    check_service_name,
    class_name,
    service_name,
    service_name_from,
)


@pytest.mark.parametrize(
    ("target", "name"),
    [("model:MyNER", "my-ner"), ("model:NER2x", "ner2x"), ("pkg.my_model", "my-model")],
)
def test_a_service_is_named_after_its_class(target: str, name: str) -> None:
    assert service_name(class_name(target)) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "a b", "Ä", "x" * 64])
def test_a_name_that_bentoml_rejects_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a BentoML service"):
        check_service_name(name)


@given(st.text())
def test_a_name_from_any_text_is_valid_or_empty(text: str) -> None:
    name = service_name_from(text)

    assert not name or check_service_name(name) == name.replace("_", "-")


def test_a_spec_is_read_back_from_its_json() -> None:
    spec = BackendSpec("model:NER", "/backend", "ner", "/backend/.lsml")

    assert BackendSpec.from_json(spec.to_json()) == spec
