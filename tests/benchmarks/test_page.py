"""What the benchmarks measure with, as far as a wrong number would not show."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import verify
from benchmarks.common import tasks as payloads
from benchmarks.common.page import Page
from benchmarks.common.samples import OURS
from benchmarks.goals import Goal, median
from benchmarks.preannotation import __main__ as preannotating


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(
        "What is measured",
        {"processor": "one"},
        "By hand.",
        [Goal("a call", 2, "ms", median("calls", "p50 ms"))],
        {OURS: "measured"},
        Console(quiet=True),
        tmp_path / "page.md",
    )


def test_a_turn_that_fails_is_told_and_the_others_are_measured(page: Page) -> None:
    with page.turn("first"):
        raise KeyError("lost")
    for round_, value in enumerate([3.0, 1.0, 5.0]):
        with page.turn("next"):
            page.samples.add("calls", OURS, round_, {"p50 ms": value})
    page.write()

    assert page.out is not None
    lines = page.out.read_text().splitlines()
    assert lines[0] == "# What is measured"
    assert "| a call | 3 ms | <= 2 ms | MISS |" in lines
    assert "| p50 ms | 3 (1-5) |" in lines
    assert lines[-1] == "- first: KeyError: 'lost'"
    assert page.is_missed


def test_a_run_that_is_cut_keeps_what_it_has(page: Page) -> None:
    page.samples.add("calls", OURS, 0, {"p50 ms": 1.0})
    page.write()
    with pytest.raises(SystemExit), page.turn("cut"):
        raise SystemExit(143)

    assert page.out is not None
    assert "| a call | 1 ms | <= 2 ms | pass |" in page.out.read_text()


def test_a_score_that_is_no_number_is_not_near() -> None:
    assert verify.far_score([0.51, 0.3], [0.5, 0.31], 0.02) is None
    nan = float("nan")
    assert verify.far_score([0.5, nan], [0.5, 0.5], 0.02) == (
        "task 2 has the score nan, not 0.5 +- 0.02"
    )


def test_an_output_without_a_line_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "output.jsonl"
    empty.touch()
    with pytest.raises(RuntimeError, match="0 lines for 5 tasks"):
        preannotating.check(empty, 5)


def test_texts_are_as_long_as_their_workload_wants() -> None:
    assert {len(payloads.text(n).split()) for n in range(48)} == set(range(6, 18))
    assert len(payloads.text(7, "larger").split()) == 400
