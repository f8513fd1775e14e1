"""Finds what a person names: a job by part of its id, a project by its number."""

from __future__ import annotations

from lsml_bento.contract import Project
from lsml_bento.errors import BadRequest, JobNotFound
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.projects.overview import known_project
from lsml_bento.state.store import State, below

SHORT = 6
"""Last characters of a job's id that usually identify it."""

_SHOWN = 4


def job_called(state: State, text: str) -> Job:
    """The job whose id equals a text, or begins or ends with it.

    Raises:
        JobNotFound: if no job matches.
        BadRequest: if several jobs match.
    """
    job_store = JobStore(state)
    try:
        return job_store.find(text)
    except JobNotFound:
        ids = _ids(state, text) if text else []
        if len(ids) > 1:
            shown = ", ".join(ids[:_SHOWN]) + (", ..." if ids[_SHOWN:] else "")
            raise BadRequest(
                f"{len(ids)} jobs match {text[:100]!r}: {shown}; give more of the id"
            ) from None
        if not ids:
            raise
    return job_store.find(ids[0])


def _ids(state: State, text: str) -> list[str]:
    """Ids that begin or end with a text, newest first."""
    prefix = below("job")
    ids = [key.removeprefix(prefix) for key, _ in state.each(prefix)]
    return [i for i in reversed(ids) if i.startswith(text) or i.endswith(text)]


def short_ids(ids: list[str]) -> dict[str, str]:
    """Each id's shortest unambiguous ending, at least ``SHORT`` characters."""
    length = SHORT
    while len({i[-length:] for i in ids}) < len(set(ids)):
        length += 1
    return {i: i[-length:] for i in ids}


def project_called(state: State, text: str | None) -> Project:
    """The project with an id; without one, the only known project.

    Raises:
        NotFound: if no such project is known.
        BadRequest: if no id is given, and not exactly one project is known.
    """
    if text is not None:
        return known_project(state, text)
    known = state.projects()
    if not known:
        raise BadRequest(
            "no project is known yet: connect the backend in Label Studio first"
        )
    if len(known) > 1:
        shown = ", ".join(map(str, known[:_SHOWN]))
        shown += ", ..." if known[_SHOWN:] else ""
        raise BadRequest(f"{len(known)} projects are known: name one of {shown}")
    return known[0]
