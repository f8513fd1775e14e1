"""What a person calls things: a job by a part of its id, a project by its number."""

from __future__ import annotations

from lsml_bento.contract import Project
from lsml_bento.errors import BadRequest, JobNotFound
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.projects.overview import known_project
from lsml_bento.state.store import State, below, last_of

SHORT = 6
"""Characters at the end of an id that mostly tell a job from all others."""

_SHOWN = 4


def job_called(state: State, text: str) -> Job:
    """The job whose id is, begins or ends with a text.

    Raises:
        JobNotFound: if there is none.
        BadRequest: if there are several.
    """
    job_store = JobStore(state)
    try:
        return job_store.find(text)
    except JobNotFound:
        ids = _ids(state, text) if text else []
        if len(ids) > 1:
            shown = ", ".join(ids[:_SHOWN]) + (", .." if ids[_SHOWN:] else "")
            raise BadRequest(
                f"{len(ids)} jobs are meant by {text[:100]!r}: {shown}; give more of "
                "the id"
            ) from None
        if not ids:
            raise
    return job_store.find(ids[0])


def _ids(state: State, text: str) -> list[str]:
    """Ids that begin or end with a text, the newest first."""
    prefix = below("job")
    ids = [last_of(key, prefix) for key, _ in state.each(prefix)]
    return [i for i in reversed(ids) if i.startswith(text) or i.endswith(text)]


def short_ids(ids: list[str]) -> dict[str, str]:
    """The ends of ids that tell them from one another."""
    length = SHORT
    while len({i[-length:] for i in ids}) < len(set(ids)):
        length += 1
    return {i: i[-length:] for i in ids}


def project_called(state: State, text: str | None) -> Project:
    """The project of an id; the only one there is, without one.

    Raises:
        NotFound: if nothing is known of it.
        BadRequest: if the text can name none, or is missing where it must not.
    """
    if text is not None:
        return known_project(state, text)
    known = state.projects()
    if not known:
        raise BadRequest(
            "no project is known here yet: connect the backend in Label Studio first"
        )
    if len(known) > 1:
        names = ", ".join(map(str, known[:_SHOWN])) + (", .." if known[_SHOWN:] else "")
        raise BadRequest(f"{len(known)} projects are known here: name one of {names}")
    return known[0]
