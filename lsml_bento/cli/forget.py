"""``lsml-bento forget``: delete all that is kept for a project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsml_bento.cli.opening import opened
from lsml_bento.cli.options import backend_option, debug_option, json_option, yes_option

if TYPE_CHECKING:
    from lsml_bento.projects.deletion import Holdings

_MIB = 1 << 20


@click.command()
@click.argument("project")
@yes_option
@backend_option
@json_option
@debug_option()
def forget(
    project: str, yes: bool, directory: Path, as_json: bool, debug: bool
) -> None:
    """Delete all that is kept for PROJECT: annotations, jobs, versions and weights.

    Its jobs are cancelled first. Nothing changes in Label Studio.
    """
    with opened(directory) as backend:
        from lsml_bento.cli.printing import print_json
        from lsml_bento.cli.versions import confirm
        from lsml_bento.processes.wiring import open_weights
        from lsml_bento.projects.deletion import forget_project, holdings
        from lsml_bento.projects.lookup import project_called

        known = project_called(backend.state, project)
        found = holdings(backend.state, known)
        confirm(f"Forget project {known} with {_told(found)}?", yes=yes)
        weights = open_weights(backend.settings)
        forget_project(backend.state, weights, backend.spec.name, known)
        if as_json:
            print_json({"project": str(known), **found._asdict()})
        else:
            click.echo(f"Project {known} is forgotten: {_told(found)}.")


def _told(found: Holdings) -> str:
    return (
        f"{found.annotations} annotations of {found.tasks} tasks, {found.jobs} jobs, "
        f"{found.versions} versions ({found.weights / _MIB:,.1f} MiB), "
        f"{found.values} values"
    )
