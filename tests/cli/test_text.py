"""Times, metrics, jobs and versions as text and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lsml_bento.cli.jobs import STATUSES
from lsml_bento.cli.text import (
    ago,
    metrics_of,
    outcome,
    print_jobs,
    print_json,
    print_versions,
)
from lsml_bento.contract import iso_time
from lsml_bento.jobs.job import JobStatus
from tests.cli.listed import NOW, job


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (0, "now"),
        (42, "42 s ago"),
        (200, "3 min ago"),
        (7_300, "2 h ago"),
        (200_000, "2 d ago"),
        (-2, "in 2 s"),
    ],
)
def test_a_time_is_shown_relative_to_now(passed: float, text: str) -> None:
    assert ago(NOW - passed, NOW) == text
    assert ago(iso_time(NOW - passed), NOW) == text


def test_no_time_is_a_dash() -> None:
    assert ago(None, NOW) == "-"


def test_metrics_are_short() -> None:
    found = {"f1": 0.91234, "loss": 1.0, "bad": None, "more": 4.0}
    assert metrics_of(found) == "f1 0.9123, loss 1, bad -, .."
    assert metrics_of(found, most=4) == "f1 0.9123, loss 1, bad -, more 4"
    assert metrics_of({}) == ""


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"new_annotations": 2}, "waiting for more annotations, 2 so far"),
        ({"due_at": NOW + 3}, "starts in 3 s"),
        ({"due_at": NOW - 3}, "waiting for a worker, due 3 s ago"),
        ({"due_at": NOW, "note": "run again: it died"}, "run again: it died"),
        ({"status": "running"}, ""),
        ({"status": "running", "cancel_requested": True}, "stopping"),
        ({"status": "succeeded", "version": "v1"}, "v1"),
        ({"status": "succeeded", "note": "A has no fit"}, "A has no fit"),
        ({"status": "succeeded", "version": "v1", "error": "no server"}, "no server"),
        ({"status": "failed", "error": "it raised"}, "it raised"),
    ],
)
def test_the_outcome_of_a_job(more: dict[str, Any], text: str) -> None:
    assert outcome(job(**more), NOW) == text


def test_every_status_can_be_listed() -> None:
    assert [status.value for status in JobStatus] == list(STATUSES)


def test_thousands_of_jobs_are_printed_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    running = job(status="running", progress=0.25)
    print_jobs([running, *(job() for _ in range(2_998))])

    lines = capsys.readouterr().out.splitlines()

    assert len(lines) == 3_000
    columns = ["job", "project", "event", "status", "progress", "created", "took"]
    assert lines[0].split() == [*columns, "result"]
    assert "25%" in lines[1]


def test_thousands_of_versions_are_printed_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    about = {"created_at": NOW, "metrics": {"f1": 0.5}, "tag": "a:b", "job": "0" * 20}
    print_versions(
        [{"version": f"v{n}", "active": n == 7, **about} for n in range(999)]
    )

    lines = capsys.readouterr().out.splitlines()

    assert len(lines) == 1_000
    assert lines[8].split()[:2] == ["v7", "yes"]
    assert lines[8].endswith("000000  f1 0.5   a:b")


def test_json_is_what_a_program_reads(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    print_json({"jobs": [job(event="é\n").public()]})

    written = capsysbinary.readouterr().out

    assert json.loads(written)["jobs"][0]["event"] == "é\n"
    assert b'\n  "jobs": [\n' in written
