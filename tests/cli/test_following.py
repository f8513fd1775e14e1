"""What is new in the log of a job that is followed."""

from __future__ import annotations

import pytest

from lsml_bento.cli.following import fresh


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ([], ["a"], ["a"]),
        (["a"], ["a"], []),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b"], ["b", "c"], ["c"]),
        (["a", "b"], ["x", "y"], ["x", "y"]),
        (["a", "b"], [], []),
    ],
)
def test_only_lines_that_are_new_are_printed(
    old: list[str], new: list[str], lines: list[str]
) -> None:
    assert fresh(old, new) == lines
