"""The benchmark pages: goals, failed steps and handwritten notes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.common.page import NOTES, Page
from benchmarks.common.samples import OURS, Goal, median


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


def test_failed_step_is_listed_and_other_steps_are_measured(page: Page) -> None:
    with page.step("first"):
        raise KeyError("lost")
    for round_, value in enumerate([3.0, 1.0, 5.0]):
        with page.step("next"):
            page.samples.add("calls", OURS, round_, {"p50 ms": value})
    page.write()

    assert page.out is not None
    lines = page.out.read_text().splitlines()
    assert lines[0] == "# What is measured"
    assert "| a call | 3 ms | <= 2 ms | MISS |" in lines
    assert "| p50 ms | 3 (1-5) |" in lines
    assert lines[-1] == "- first: KeyError: 'lost'"
    assert page.is_missed


def test_aborted_run_keeps_its_rounds(page: Page) -> None:
    page.samples.add("calls", OURS, 0, {"p50 ms": 1.0})
    page.write()
    with pytest.raises(SystemExit), page.step("cut"):
        raise SystemExit(143)

    assert page.out is not None
    assert "| a call | 1 ms | <= 2 ms | pass |" in page.out.read_text()


def test_new_run_keeps_handwritten_notes(page: Page, tmp_path: Path) -> None:
    page.notes = page.out = tmp_path / "page.md"
    page.out.write_text(f"# Old\n\nOld numbers.\n\n{NOTES}\n\n## Found\n\nA leak.\n")
    for value in (1.0, 3.0):
        page.samples.add("calls", OURS, 0, {"p50 ms": value})
        page.write()

    text = page.out.read_text()
    assert "Old numbers." not in text
    assert text.endswith(f"{NOTES}\n\n## Found\n\nA leak.\n")
    assert text.count(NOTES) == 1
