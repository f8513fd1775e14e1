"""``lsml-bento versions``: list, show, activate, reload and delete versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsml_bento.cli.options import backend_options, open_backend, yes_option
from lsml_bento.errors import LsmlError

if TYPE_CHECKING:
    from lsml_bento.contract import Project
    from lsml_bento.state.store import State
    from lsml_bento.versions.registry import Version


class NotConfirmed(LsmlError):
    """A deletion that was not confirmed."""


@click.group()
def versions() -> None:
    """List, show, activate, reload and delete model versions.

    PROJECT is the id of a project in Label Studio.
    """


@versions.command("list")
@click.argument("project", required=False)
@backend_options
def list_(project: str | None, directory: Path, as_json: bool) -> None:
    """List the versions of PROJECT, newest first.

    PROJECT is optional if only one project is known.
    """
    with open_backend(directory) as backend:
        from lsml_bento.projects.lookup import project_called

        known = project_called(backend.state, project)
        _print(backend.state, known, as_json=as_json)


@versions.command()
@click.argument("project")
@click.argument("version")
@backend_options
def show(project: str, version: str, directory: Path, as_json: bool) -> None:
    """Show the details of a version of PROJECT."""
    with open_backend(directory) as backend:
        from lsml_bento.cli.text import print_json
        from lsml_bento.projects.lookup import project_called
        from lsml_bento.projects.overview import list_versions
        from lsml_bento.versions.registry import Versions

        known = project_called(backend.state, project)
        listed = list_versions(backend.state, known)
        row = next((one for one in listed if one["version"] == version), None)
        found = None
        if row is None or row["created_at"] is not None:
            found = Versions(backend.state).find(known, version)
        config = backend.state.read(known).get("label_config")
        details = {**(row or {}), **(_details(found, config) if found else {})}
        if as_json:
            print_json(details)
        else:
            _print_facts(details)


@versions.command()
@click.argument("project")
@click.argument("version")
@click.option(
    "--pin", is_flag=True, help="Keep it active when later jobs train new versions."
)
@backend_options
def activate(
    project: str, version: str, pin: bool, directory: Path, as_json: bool
) -> None:
    """Activate a version of PROJECT.

    The version of the base model brings back the untrained model. Without --pin, the
    next job's version replaces it.
    """
    with open_backend(directory) as backend:
        from lsml_bento.projects.lookup import project_called
        from lsml_bento.versions.registry import Versions

        known = project_called(backend.state, project)
        Versions(backend.state).activate(known, version, pin=pin)
        pinned = ", pinned" if pin else ""
        done = f"Activated {version} for project {known}{pinned}."
        _print(backend.state, known, as_json=as_json, done=done)


@versions.command()
@click.argument("project", required=False)
@backend_options
def reload(project: str | None, directory: Path, as_json: bool) -> None:
    """Load the model of PROJECT again, after you replaced its files.

    Servers import the modules of DIR again and make new model objects, which read the
    files of DIR and MODEL_DIR as they are now. They serve under a new version name, so
    that Label Studio asks for new predictions. PROJECT is optional if only one project
    is known.
    """
    with open_backend(directory) as backend:
        from lsml_bento.projects.lookup import project_called
        from lsml_bento.versions.registry import Versions

        known = project_called(backend.state, project)
        made = Versions(backend.state).reload(known)
        done = f"Project {known} loads its files again as {made.version}."
        _print(backend.state, known, as_json=as_json, done=done)


@versions.command()
@click.argument("project", required=False)
@backend_options
def rollback(project: str | None, directory: Path, as_json: bool) -> None:
    """Activate the version of PROJECT that was active before.

    PROJECT is optional if only one project is known.
    """
    with open_backend(directory) as backend:
        from lsml_bento.projects.lookup import project_called
        from lsml_bento.versions.registry import Versions

        known = project_called(backend.state, project)
        served = Versions(backend.state).rollback(known).version
        done = f"Rolled project {known} back to {served or 'the base model'}."
        _print(backend.state, known, as_json=as_json, done=done)


@versions.command()
@click.argument("project")
@click.argument("version")
@yes_option
@backend_options
def delete(
    project: str, version: str, yes: bool, directory: Path, as_json: bool
) -> None:
    """Delete a version of PROJECT and its weights."""
    with open_backend(directory) as backend:
        from lsml_bento.processes.wiring import open_weights
        from lsml_bento.projects.lookup import project_called
        from lsml_bento.versions.registry import Versions

        kept = Versions(backend.state)
        known = project_called(backend.state, project)
        kept.find(known, version)
        confirm(f"Delete {version} of project {known} and its weights?", yes=yes)
        gone = kept.delete(known, version)
        if gone.tag:
            open_weights(backend.settings).delete(gone.tag)
        done = f"Deleted {version} of project {known}."
        _print(backend.state, known, as_json=as_json, done=done)


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation, unless ``--yes`` was given.

    Raises:
        NotConfirmed: if the answer is no or missing.
    """
    try:
        if yes or click.confirm(question, err=True):
            return
    except click.Abort:
        click.echo(err=True)
    raise NotConfirmed("nothing was deleted: answer y, or pass --yes")


def _print(state: State, project: Project, *, as_json: bool, done: str = "") -> None:
    """Print what was done to a project's versions, or list them."""
    from lsml_bento.cli.text import print_json, print_versions
    from lsml_bento.projects.overview import list_versions

    if done and not as_json:
        click.echo(done)
        return
    listed = list_versions(state, project)
    if as_json:
        print_json({"versions": listed})
    elif listed:
        print_versions(listed)
    else:
        click.echo(f"Project {project} has no versions yet.")


def _details(version: Version, label_config: str | None) -> dict[str, Any]:
    files = version.manifest.items()
    return {
        "parent": version.parent,
        "files": {name: {"bytes": size, "sha256": sha} for name, (size, sha) in files},
        "values": version.values,
        "label_config": version.label_config,
        "label_config_is_current": version.label_config == label_config,
    }


def _print_facts(details: dict[str, Any]) -> None:
    from lsml_bento.cli.tables import console, facts
    from lsml_bento.cli.text import at, metrics_of

    rows: dict[str, Any] = {"version": details["version"]}
    pinned = ", pinned" if details.get("pinned") else ""
    rows["active"] = f"yes{pinned}" if details["active"] else "no"
    rows |= {
        "created": at(details["created_at"]) or "the base model, not trained here",
        "job": details["job"],
        "metrics": metrics_of(details["metrics"], most=len(details["metrics"])),
        "trained from": details.get("parent"),
        "weights": details["tag"],
    }
    for name, file in details.get("files", {}).items():
        rows[f"  {name}"] = f"{file['bytes']:,} bytes, sha256 {file['sha256'][:16]}.."
    for name, value in details.get("values", {}).items():
        rows[f"value {name}"] = str(value)
    if "label_config_is_current" in details:
        same = details["label_config_is_current"]
        rows["label config"] = "unchanged" if same else "changed since"
    console().print(facts(rows))
