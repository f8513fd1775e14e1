"""Moments, metrics and outcomes in words."""

from __future__ import annotations

from typing import Any

import pytest

from lsml_bento.cli.jobs import STATUSES
from lsml_bento.cli.words import ago, metrics_of, outcome
from lsml_bento.contract import iso_time
from lsml_bento.jobs.job import JobStatus
from tests.cli.listed import NOW, job


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
    assert ago(iso_time(NOW - passed), NOW) == said


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
