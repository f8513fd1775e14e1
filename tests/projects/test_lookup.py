"""Jobs by a part of their id, projects by their number or by being the only one."""

from __future__ import annotations

from functools import partial

import pytest

from lsml_bento.contract import Project
from lsml_bento.errors import BadRequest, JobNotFound, NotFound
from lsml_bento.jobs.job import Job
from lsml_bento.projects.lookup import job_called, project_called, short_ids
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import Change, key_of


@pytest.fixture
def state() -> MemoryState:
    made = MemoryState()
    for name in ("018aaa000001", "018aaa000002", "018bbb0000ff"):
        job = Job(id=name, project="1.100", event="E", created_at=0)
        made.change(partial(put, job=job))
    return made


def put(change: Change, job: Job) -> None:
    change.put(key_of("job", job.id), job.model_dump_json())


@pytest.mark.parametrize("text", ["018bbb0000ff", "018b", "ff", "0ff"])
def test_a_job_is_found_by_its_id_or_its_beginning_or_end(
    state: MemoryState, text: str
) -> None:
    assert job_called(state, text).id == "018bbb0000ff"


def test_a_part_of_several_ids_is_refused_with_a_list(state: MemoryState) -> None:
    with pytest.raises(BadRequest) as caught:
        job_called(state, "018a")
    assert str(caught.value) == (
        "2 jobs match '018a': 018aaa000002, 018aaa000001; give more of the id"
    )


@pytest.mark.parametrize("text", ["zz", "", "aaa"])
def test_a_part_of_none_is_refused(state: MemoryState, text: str) -> None:
    with pytest.raises(JobNotFound, match=f"there is no job '{text}'"):
        job_called(state, text)


def test_ids_are_shortened_to_unambiguous_endings() -> None:
    assert short_ids(["a-123456", "b-654321"]) == {
        "a-123456": "123456",
        "b-654321": "654321",
    }
    assert short_ids(["ab-123456", "bb-123456"])["ab-123456"] == "ab-123456"
    assert short_ids(["a-123456", "a-123456"]) == {"a-123456": "123456"}
    assert short_ids([]) == {}


def test_a_project_is_found_by_its_id_or_as_the_only_one() -> None:
    state = MemoryState()
    with pytest.raises(BadRequest, match="no project is known yet"):
        project_called(state, None)

    state.write(Project("1", 100), {})

    assert project_called(state, None) == Project("1", 100)
    assert project_called(state, "1") == Project("1", 100)
    assert project_called(state, "1.100") == Project("1", 100)
    for unknown in ("2", "1.200"):
        with pytest.raises(NotFound, match=f"project '{unknown}' is not known"):
            project_called(state, unknown)

    state.write(Project("2", 100), {})

    with pytest.raises(BadRequest, match=r"2 projects .* name one of 1\.100, 2\.100"):
        project_called(state, None)
