"""What a job shows, and when one that gathers is due."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsml_bento.contract import Project, iso_time
from lsml_bento.jobs.job import (
    ASKED_WAIT_S,
    Job,
    JobStatus,
    due_at,
    new_id,
    parsed_job,
    put_job,
)
from lsml_bento.model.training_policy import TrainingPolicy
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import key_of

JOB = Job(id="j", project="1.1795426489", event="X", created_at=1_800_000_000.25)


def test_a_client_sees_these_keys() -> None:
    assert JOB.public() == {
        "id": "j",
        "project": "1.1795426489",
        "event": "X",
        "status": "queued",
        "attempts": 0,
        "progress": None,
        "metrics": {},
        "version": None,
        "error": None,
        "created_at": "2027-01-15T08:00:00.250Z",
        "started_at": None,
        "finished_at": None,
    }
    details = JOB.with_(token="secret", traceback="Traceback").details()
    assert set(details) > set(JOB.public())
    assert "secret" not in json.dumps(details)
    assert details["traceback"] == "Traceback"


def test_a_job_knows_its_project() -> None:
    assert JOB.of == Project("1", 1795426489)


def test_a_job_is_stored_with_the_names_that_older_versions_know() -> None:
    state = MemoryState()
    state.change(lambda change: put_job(change, JOB.with_(merge_key="updated 5")))
    stored = json.loads(state.get(key_of("job", JOB.id)) or "")

    assert stored["slot"] == "updated 5"
    old = parsed_job(JOB.id, json.dumps({**stored, "source": "journal"}))
    assert (old.merge_key, old.source) == ("updated 5", "annotation store")


@pytest.mark.parametrize("status", JobStatus)
def test_three_statuses_are_an_end(status: JobStatus) -> None:
    ends = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}

    assert status.is_end == (status in ends)


@given(st.lists(st.integers(0, 2**47), min_size=2, max_size=9, unique=True))
def test_ids_sort_by_time(milliseconds: list[int]) -> None:
    ids = [new_id(one) for one in sorted(milliseconds)]

    assert ids == sorted(ids)
    assert all(len(one) == 20 and one.isalnum() for one in ids)


def test_ids_of_one_moment_differ() -> None:
    assert len({new_id(1_800_000_000_000) for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("wait_s", [float("inf"), 1e300, 1e11])
def test_a_job_of_an_endless_wait_has_no_date(wait_s: float) -> None:
    policy = TrainingPolicy(quiet_s=wait_s, max_wait_s=min(wait_s, 1e300))
    job = JOB.with_(ready_at=50.0)

    assert due_at(job, policy, 100.0) is None
    assert due_at(job.with_(asked_at=99.0), policy, 100.0) == 99.0 + ASKED_WAIT_S


@given(
    asked=st.none() | st.floats(0, 100),
    ready=st.none() | st.floats(0, 100),
    now=st.floats(100, 200),
    quiet=st.floats(0, 50),
    most=st.floats(0, 50),
)
def test_a_job_is_due_as_soon_as_one_reason_says_so(
    asked: float | None, ready: float | None, now: float, quiet: float, most: float
) -> None:
    policy = TrainingPolicy(quiet_s=quiet, max_wait_s=most)
    job = JOB.with_(asked_at=asked, ready_at=ready)

    found = due_at(job, policy, now)

    if asked is None and ready is None:
        assert found is None
        return
    assert found is not None
    if asked is not None:
        assert found <= asked + ASKED_WAIT_S
    if ready is not None:
        assert found <= ready + most
        assert found <= now + quiet
    reasons = [one for one in (asked, ready) if one is not None]
    assert found >= min(reasons), "not before there was a reason"


@given(st.floats(0, 4e9))
def test_moments_are_iso_8601_in_utc(seconds: float) -> None:
    text = iso_time(seconds)

    assert text is not None
    assert text.endswith("Z")
    found = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    assert found == pytest.approx(seconds, abs=0.0011)
    assert iso_time(None) is None
