"""Moments, metrics and tables as a person reads them."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from lsml_bento.cli.following import fresh
from lsml_bento.cli.jobs import STATUSES
from lsml_bento.cli.showing import ago, jobs_table, metrics_of, outcome, print_jobs
from lsml_bento.jobs import Job, JobStatus, moment, new_id

NOW = 1_795_426_489.0


def job(**more: Any) -> Job:
    about = {"project": "1.100", "event": "START_TRAINING", "created_at": NOW - 200}
    return Job.model_validate({"id": new_id(0), **about, **more})


def printed(jobs: list[Job], width: int) -> list[str]:
    shown = Console(width=width)
    with shown.capture() as capture:
        shown.print(jobs_table(jobs, width, NOW))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (0, "now"),
        (42, "42 s ago"),
        (200, "3 min ago"),
        (7_300, "2 h ago"),
        (200_000, "2 d ago"),
        (-2, "in 2 s"),
    ],
)
def test_a_moment_is_said_by_its_distance(passed: float, said: str) -> None:
    assert ago(NOW - passed, NOW) == said
    assert ago(moment(NOW - passed), NOW) == said


def test_no_moment_is_a_dash() -> None:
    assert ago(None, NOW) == "-"


def test_metrics_are_short() -> None:
    found = {"f1": 0.91234, "loss": 1.0, "bad": None, "more": 4.0}
    assert metrics_of(found) == "f1 0.9123, loss 1, bad -, .."
    assert metrics_of(found, most=4) == "f1 0.9123, loss 1, bad -, more 4"
    assert metrics_of({}) == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"new_annotations": 2}, "for more annotations, 2 came"),
        ({"due_at": NOW + 3}, "begins in 3 s"),
        ({"due_at": NOW - 3}, "for a worker, 3 s ago due"),
        ({"due_at": NOW, "note": "run again: it died"}, "run again: it died"),
        ({"status": "running"}, ""),
        ({"status": "running", "cancel_requested": True}, "told to stop"),
        ({"status": "succeeded", "version": "v1"}, "v1"),
        ({"status": "succeeded", "note": "A has no fit"}, "A has no fit"),
        ({"status": "succeeded", "version": "v1", "error": "no server"}, "no server"),
        ({"status": "failed", "error": "it raised"}, "it raised"),
    ],
)
def test_a_job_tells_what_became_of_it(more: dict[str, Any], said: str) -> None:
    assert outcome(job(**more), NOW) == said


def test_every_status_can_be_asked_for() -> None:
    assert [status.value for status in JobStatus] == list(STATUSES)


def test_a_wide_table_shows_all_in_a_line_each() -> None:
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


def test_a_narrow_table_leaves_out_what_tells_least() -> None:
    one = job(status="failed", error="fit() raised ValueError: " + "x" * 200)

    [head, first] = printed([one], 80)

    assert head.split() == ["job", "project", "status", "created", "took", "result"]
    assert first.startswith(f"{one.id[-6:]}  1.100    failed  3 min ago  -     fit()")
    assert len(first) <= 80


def test_ids_are_as_long_as_they_must_be_to_differ() -> None:
    one, two = job(id="aaa1234567"), job(id="bbb1234567")
    assert [line.split()[0] for line in printed([one, two], 80)[1:]] == [
        "a1234567",
        "b1234567",
    ]


def test_thousands_of_jobs_are_printed_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    running = job(status="running", progress=0.25)
    print_jobs([running, *(job() for _ in range(2_998))])

    lines = capsys.readouterr().out.splitlines()

    assert len(lines) == 3_000
    assert lines[0].split()[:4] == ["job", "project", "event", "status"]
    assert "25%" in lines[1]


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
