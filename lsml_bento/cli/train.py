"""``lsml-bento train``: does what Label Studio's button *Start Training* does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsml_bento.cli.options import backend_options, command_line, dispatch, open_backend
from lsml_bento.errors import LsmlError

if TYPE_CHECKING:
    from lsml_bento.contract import Project
    from lsml_bento.jobs.events import Event
    from lsml_bento.model.training_policy import TrainingRules
    from lsml_bento.processes.opening import OpenBackend


class NothingToTrain(LsmlError):
    """A class that does not train on request."""


@click.command()
@click.argument("project", required=False)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for the end of the job; exit with 0 if it succeeded.",
)
@backend_options
def train(project: str | None, directory: Path, wait: bool, as_json: bool) -> None:
    """Queue a training job for PROJECT.

    If the project already has a queued job, that job starts now. PROJECT is
    optional if only one project is known.
    """
    with open_backend(directory) as backend:
        from lsml_bento.cli.jobs import follow_job
        from lsml_bento.cli.text import print_json
        from lsml_bento.jobs.job_store import JobStore
        from lsml_bento.projects.lookup import project_called

        known = project_called(backend.state, project)
        rules = _rules(backend)
        job = JobStore(backend.state).enqueue(_event(backend, known), rules)
        if job is None:
            raise NothingToTrain(_reason(rules, backend))
        hint = command_line(directory, "jobs", "show", job.id, "--follow")
        if not as_json:
            click.echo(f"Queued job {job.id} of project {known}.")
            if not wait:
                click.echo(f"Follow it: `{hint}`")
        elif not wait:
            print_json({"job": job.id})
        dispatch(backend, job, directory)
        if wait:
            follow_job(backend.state, job, as_json=as_json, hint=hint)


def _rules(backend: OpenBackend) -> TrainingRules:
    """The rules that a server stored for the class, or their defaults before that."""
    from lsml_bento.backend_dir import is_drop_in
    from lsml_bento.model.training_policy import TrainingRules
    from lsml_bento.projects.overview import stored_rules

    directory = backend.spec.directory_path
    return stored_rules(backend.state) or TrainingRules(
        each_event=directory is not None and is_drop_in(directory)
    )


def _event(backend: OpenBackend, project: Project) -> Event:
    """The event that Label Studio sends, with what is known here of the project."""
    from lsml_bento.contract import iso_time
    from lsml_bento.jobs.events import Event
    from lsml_bento.model.training_policy import START_TRAINING

    about: dict[str, Any] = {
        "id": int(project.id) if project.id.isdecimal() else project.id,
        "created_at": iso_time(project.created_at),
        "label_config": backend.state.read(project).get("label_config"),
    }
    return Event(START_TRAINING, project, {"project": about})


def _reason(rules: TrainingRules, backend: OpenBackend) -> str:
    name = backend.spec.target
    if not rules.trains:
        return f"{name} has no fit method: write one, and restart the backend"
    return (
        f"{name} does not train on START_TRAINING: its TRAIN_EVENTS are "
        f"{', '.join(rules.actions) or 'none'}"
    )
