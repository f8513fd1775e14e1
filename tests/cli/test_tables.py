"""Tables as wide as a terminal."""

from __future__ import annotations

from rich.console import Console

from lsml_bento.cli.tables import jobs_table, versions_table
from lsml_bento.jobs.job import Job
from tests.cli.listed import NOW, job


def printed(jobs: list[Job], width: int) -> list[str]:
    shown = Console(width=width)
    with shown.capture() as capture:
        shown.print(jobs_table(jobs, width, NOW))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_wide_table_has_all_columns_in_one_line() -> None:
    one = job(status="running", progress=0.5, started_at=NOW - 90)
    two = job(status="failed", error="a\nb " * 90)

    [head, first, second] = printed([one, two], 140)

    assert head.split()[:5] == ["job", "project", "event", "status", "progress"]
    assert head.split()[5:] == ["created", "took", "metrics", "result"]
    assert first.split()[:4] == [one.id[-6:], "1.100", "START_TRAINING", "running"]
    assert "50%" in first
    assert "3 min ago" in first
    assert "1 min" in first
    assert second.endswith("…")
    assert len(second) <= 140


def test_a_narrow_table_has_fewer_columns() -> None:
    one = job(status="failed", error="fit() raised ValueError: " + "x" * 200)

    [head, first] = printed([one], 80)

    assert head.split() == ["job", "project", "status", "created", "took", "result"]
    assert first.startswith(f"{one.id[-6:]}  1.100    failed  3 min ago  -     fit()")
    assert len(first) <= 80


def test_ids_are_just_long_enough_to_differ() -> None:
    one, two = job(id="aaa1234567"), job(id="bbb1234567")
    assert [line.split()[0] for line in printed([one, two], 80)[1:]] == [
        "a1234567",
        "b1234567",
    ]


def test_brackets_in_a_cell_are_not_markup() -> None:
    [_, first] = printed([job(project="[red]1", status="cancelled")], 80)

    assert first.split()[1] == "[red]1"


def test_the_table_of_versions_shows_the_active_one() -> None:
    about = {"created_at": NOW, "metrics": {}, "tag": None, "job": None}
    one = {"version": "v2", "active": True, "pinned": True, **about}
    two = {"version": "v1", "active": False, **about, "created_at": None}
    shown = Console(width=120)
    with shown.capture() as capture:
        shown.print(versions_table([one, two], 120))

    [head, first, second] = capture.get().splitlines()

    columns = ["version", "active", "created", "job", "metrics", "weights"]
    assert head.split() == columns
    assert first.split()[:3] == ["v2", "yes,", "pinned"]
    assert second.split() == ["v1", "base", "model"]
