"""The names that users import, and the table of settings that they read."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import lsml_bento
from tests.variables import environment_names

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| *(?P<names>`[^|]+?) *\| *(?P<text>[^|]+?) *\|")


def test_public_names_are_sorted_and_complete() -> None:
    assert lsml_bento.__all__ == sorted(lsml_bento.__all__)
    for name in lsml_bento.__all__:
        assert getattr(lsml_bento, name).__name__ == name


def test_the_version_is_the_package_s() -> None:
    assert lsml_bento.__version__ == version("lsml-bento")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(
        AttributeError, match=r"^module 'lsml_bento' has no attribute 'x'"
    ):
        _ = lsml_bento.x


def test_the_package_is_marked_as_typed() -> None:
    assert Path(lsml_bento.__file__).with_name("py.typed").exists()


def test_a_model_s_names_load_no_bentoml() -> None:
    names = "LabelStudioMLBase, ModelResponse, PredictionValue, predict_fn, update_fn"
    code = (
        f"import sys; from lsml_bento import {names}; print('bentoml' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"


@pytest.mark.parametrize("example", ["gpt2", "pytorch_ner"])
def test_the_service_of_an_example_starts_without_torch(example: str) -> None:
    code = (
        "import sys; from service import svc; print(svc.name, 'torch' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "examples" / example,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == [example.replace("_", "-"), "False"]


def documented() -> dict[str, str]:
    """Variables and what they decide, as docs/settings.md has them."""
    text = (ROOT / "docs" / "settings.md").read_text()
    table = text.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    rows: dict[str, str] = {}
    for line in table.splitlines():
        if found := ROW.match(line):
            names = re.findall(r"`([A-Z_0-9]+)`", found["names"])
            rows.update(dict.fromkeys(names, found["text"]))
    return rows


def test_settings_md_lists_every_setting() -> None:
    assert documented() == environment_names()
