"""``lsml-bento forget``: delete everything that is stored for a project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsml_bento.cli.options import backend_options, open_backend, yes_option

if TYPE_CHECKING:
    from lsml_bento.projects.deletion import StoredCounts

_MIB = 1 << 20


@click.command()
@click.argument("project")
@yes_option
@backend_options
def forget(project: str, yes: bool, directory: Path, as_json: bool) -> None:
    """Delete everything that is stored for PROJECT.

    That is annotations, jobs, versions and weights. Its jobs are cancelled first.
    Nothing changes in Label Studio.
    """
    with open_backend(directory) as backend:
        from lsml_bento.cli.text import print_json
        from lsml_bento.cli.versions import confirm
        from lsml_bento.processes.wiring import open_weights
        from lsml_bento.projects.deletion import count_stored, forget_project
        from lsml_bento.projects.lookup import project_called

        known = project_called(backend.state, project)
        found = count_stored(backend.state, known)
        confirm(f"Delete project {known} with {_contents(found)}?", yes=yes)
        weights = open_weights(backend.settings)
        forget_project(backend.state, weights, backend.spec.name, known)
        if as_json:
            print_json({"project": str(known), **found._asdict()})
        else:
            click.echo(f"Project {known} deleted: {_contents(found)}.")


def _contents(found: StoredCounts) -> str:
    return (
        f"{found.annotations} annotations of {found.tasks} tasks, {found.jobs} jobs, "
        f"{found.versions} versions ({found.weights / _MIB:,.1f} MiB), "
        f"{found.values} values"
    )
