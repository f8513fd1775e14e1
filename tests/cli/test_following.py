"""Following a job: new log lines only."""

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
def test_only_new_lines_are_printed(
    old: list[str], new: list[str], lines: list[str]
) -> None:
    assert fresh(old, new) == lines
