"""Lists of any length, and answers as JSON."""

from __future__ import annotations

import json

import pytest

from lsml_bento.cli.printing import print_jobs, print_json, print_versions
from tests.cli.listed import NOW, job


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
