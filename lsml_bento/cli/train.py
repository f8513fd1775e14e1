"""``lsml-bento train``: what Label Studio's button *Start Training* does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsml_bento.cli.opening import Opened, opened
from lsml_bento.cli.options import backend_option, debug_option, json_option
from lsml_bento.errors import LsmlError

if TYPE_CHECKING:
    from lsml_bento.contract import Project
    from lsml_bento.jobs.events import Event
    from lsml_bento.model.training_policy import TrainingRules


class NothingToTrain(LsmlError):
    """A class that does not learn when it is asked to."""


@click.command()
@click.argument("project", required=False)
@backend_option
@click.option(
    "--wait",
    is_flag=True,
    help="Stay until the job ends; the exit code is 0 if it succeeded.",
)
@json_option
@debug_option()
def train(
    project: str | None, directory: Path, wait: bool, as_json: bool, debug: bool
) -> None:
    """Queue a training job for PROJECT, or have the one that waits begin.

    PROJECT may be left out where only one is known.
    """
    with opened(directory) as backend:
        from lsml_bento.cli.jobs import see_through
        from lsml_bento.cli.printing import print_json
        from lsml_bento.jobs.job_store import JobStore
        from lsml_bento.projects.lookup import project_called

        known = project_called(backend.state, project)
        rules = _rules(backend)
        job = JobStore(backend.state).enqueue(_event(backend, known), rules)
        if job is None:
            raise NothingToTrain(_why(rules, backend))
        hint = backend.command("jobs", "show", job.id, "--follow")
        if not as_json:
            click.echo(f"Job {job.id} of project {known} is queued.")
            if not wait:
                click.echo(f"Follow it: `{hint}`")
        elif not wait:
            print_json({"job": job.id})
        backend.dispatch(job)
        if wait:
            see_through(backend.state, job, as_json=as_json, hint=hint)


def _rules(backend: Opened) -> TrainingRules:
    """What a server noted of the class; what it would suppose, before it did."""
    from lsml_bento.backend_dir import is_drop_in
    from lsml_bento.model.training_policy import TrainingRules
    from lsml_bento.projects.overview import stored_rules

    directory = backend.spec.directory_path
    return stored_rules(backend.state) or TrainingRules(
        each_event=directory is not None and is_drop_in(directory)
    )


def _event(backend: Opened, project: Project) -> Event:
    """As Label Studio's, with what is known here of the project."""
    from lsml_bento.contract import iso_time
    from lsml_bento.jobs.events import Event
    from lsml_bento.model.training_policy import START_TRAINING

    about: dict[str, Any] = {
        "id": int(project.id) if project.id.isdecimal() else project.id,
        "created_at": iso_time(project.created_at),
        "label_config": backend.state.read(project).get("label_config"),
    }
    return Event(START_TRAINING, project, {"project": about})


def _why(rules: TrainingRules, backend: Opened) -> str:
    name = backend.spec.target
    if not rules.trains:
        return f"{name} has no fit: write one, and start the backend again"
    return (
        f"{name} does not train on START_TRAINING: its TRAIN_EVENTS are "
        f"{', '.join(rules.actions) or 'none'}"
    )
