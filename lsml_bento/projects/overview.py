"""The state of projects and of the class, for people and monitoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lsml_bento.contract import Project, parse_project
from lsml_bento.errors import NotFound
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.training_policy import TrainingRules
from lsml_bento.state.store import State, key_of, resolve
from lsml_bento.versions.registry import Versions

RULES = key_of("class", "rules")
"""The state's key of the class's training rules, written by servers."""


def known_versions(state: State) -> list[str]:
    """All model versions of all projects, newest first, each project's base last.

    Raises:
        StateError: if the state did not respond.
    """
    versions = Versions(state)
    found: list[str] = []
    for project in state.projects():
        found += [version.version for version in versions.all(project)]
        base = state.read(project).get("model_version")
        found += [str(base)] if base else []
    return list(dict.fromkeys(found))


def project_summaries(
    state: State, errors: Mapping[Project, str]
) -> list[dict[str, Any]]:
    """The version, unfinished jobs, last job and last error of each project.

    ``errors`` holds the last error of each project that had one in this process.

    Raises:
        StateError: if the state did not respond.
    """
    pointers = Versions(state).pointers()
    jobs: dict[str, list[Job]] = {}
    for job in JobStore(state).jobs():
        jobs.setdefault(job.project, []).append(job)
    found = []
    for project in dict.fromkeys([*state.projects(), *errors]):
        own = jobs.get(str(project), [])
        active = pointers[project].version if project in pointers else None
        found.append(
            {
                "project": str(project),
                "model_version": active or state.read(project).get("model_version"),
                "unfinished_jobs": sum(not job.status.is_end for job in own),
                "last_job": own[0].public() if own else None,
                "last_error": errors.get(project),
            }
        )
    return found


def stored_rules(state: State) -> TrainingRules | None:
    """The class's training rules, as stored by a server; None if not stored yet.

    Raises:
        StateError: if the state did not respond.
    """
    found = state.get(RULES)
    return None if found is None else TrainingRules.from_json(found)


def known_project(state: State, name: str) -> Project:
    """The project that a person names by its id.

    Raises:
        NotFound: if no such project is known.
    """
    try:
        project = resolve(parse_project(name), state)
    except ValueError as error:
        raise NotFound(f"no such project: {error}") from None
    if project not in state.projects():
        raise NotFound(
            f"project {name[:100]!r} is not known: connect the backend in Label "
            "Studio first"
        )
    return project


def list_versions(state: State, project: Project) -> list[dict[str, Any]]:
    """A project's versions as clients see them, newest first, the base last."""
    versions = Versions(state)
    pointer = versions.pointer(project)
    listed = [
        version.public(active=version.version == pointer.version)
        for version in versions.all(project)
    ]
    base = state.read(project).get("model_version")
    if base:
        is_active = pointer.version is None
        found = {"version": base, "tag": None, "active": is_active, "metrics": {}}
        listed.append({**found, "created_at": None, "job": None})
    if pointer.pinned:
        listed = [{**one, "pinned": one["active"]} for one in listed]
    return listed
