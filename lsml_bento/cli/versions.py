"""``lsml-bento versions``: which there are, and which one serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsml_bento.cli.opening import opened
from lsml_bento.cli.options import backend_option, debug_option, json_option, yes_option
from lsml_bento.errors import LsmlError

if TYPE_CHECKING:
    from lsml_bento.contract import Project
    from lsml_bento.state.store import State
    from lsml_bento.versions.version import Version


class NotConfirmed(LsmlError):
    """Something that is not done without a yes."""


@click.group()
def versions() -> None:
    """List model versions, choose which one serves, delete them.

    A project is named by its id in Label Studio.
    """


@versions.command("list")
@click.argument("project", required=False)
@backend_option
@json_option
@debug_option()
def list_(project: str | None, directory: Path, as_json: bool, debug: bool) -> None:
    """List the versions of PROJECT, the newest first.

    PROJECT may be left out where only one is known.
    """
    with opened(directory) as backend:
        from lsml_bento.projects.lookup import project_called

        known = project_called(backend.state, project)
        _print(backend.state, known, as_json=as_json)


@versions.command()
@click.argument("project")
@click.argument("version")
@backend_option
@json_option
@debug_option()
def show(
    project: str, version: str, directory: Path, as_json: bool, debug: bool
) -> None:
    """Show all that is known of a version of PROJECT."""
    with opened(directory) as backend:
        from lsml_bento.cli.printing import print_json
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
        told = {**(row or {}), **(_details(found, config) if found else {})}
        if as_json:
            print_json(told)
        else:
            _show(told)


@versions.command()
@click.argument("project")
@click.argument("version")
@click.option("--pin", is_flag=True, help="Keep it, whatever later jobs make.")
@backend_option
@json_option
@debug_option()
def activate(
    project: str, version: str, pin: bool, directory: Path, as_json: bool, debug: bool
) -> None:
    """Let a version of PROJECT serve; the base's own brings back the untrained model.

    Without --pin, the next job's version takes its place.
    """
    with opened(directory) as backend:
        from lsml_bento.projects.lookup import project_called
        from lsml_bento.versions.registry import Versions

        known = project_called(backend.state, project)
        Versions(backend.state).activate(known, version, pin=pin)
        pinned = ", pinned" if pin else ""
        said = f"{version} serves project {known}{pinned}."
        _print(backend.state, known, as_json=as_json, said=said)


@versions.command()
@click.argument("project", required=False)
@backend_option
@json_option
@debug_option()
def rollback(project: str | None, directory: Path, as_json: bool, debug: bool) -> None:
    """Let the version of PROJECT serve that served before.

    PROJECT may be left out where only one is known.
    """
    with opened(directory) as backend:
        from lsml_bento.projects.lookup import project_called
        from lsml_bento.versions.registry import Versions

        known = project_called(backend.state, project)
        served = Versions(backend.state).rollback(known).version
        said = f"{served or 'The base'} serves project {known} again."
        _print(backend.state, known, as_json=as_json, said=said)


@versions.command()
@click.argument("project")
@click.argument("version")
@yes_option
@backend_option
@json_option
@debug_option()
def delete(
    project: str, version: str, yes: bool, directory: Path, as_json: bool, debug: bool
) -> None:
    """Delete a version of PROJECT, with its weights in the model store."""
    with opened(directory) as backend:
        from lsml_bento.processes.wiring import open_weights
        from lsml_bento.projects.lookup import project_called
        from lsml_bento.versions.registry import Versions

        kept = Versions(backend.state)
        known = project_called(backend.state, project)
        kept.find(known, version)
        confirm(f"Delete {version} of project {known}, with its weights?", yes=yes)
        gone = kept.delete(known, version)
        if gone.tag:
            open_weights(backend.settings).delete(gone.tag)
        said = f"{version} of project {known} is deleted."
        _print(backend.state, known, as_json=as_json, said=said)


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless the answer is there.

    Raises:
        NotConfirmed: if it is no, or nobody answers.
    """
    try:
        if yes or click.confirm(question, err=True):
            return
    except click.Abort:
        click.echo(err=True)
    raise NotConfirmed("nothing was deleted: answer y, or give --yes")


def _print(state: State, project: Project, *, as_json: bool, said: str = "") -> None:
    """Print a project's versions, or what was done to them."""
    from lsml_bento.cli.printing import print_json, print_versions
    from lsml_bento.projects.overview import list_versions

    if said and not as_json:
        click.echo(said)
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


def _show(told: dict[str, Any]) -> None:
    from lsml_bento.cli.showing import console, facts
    from lsml_bento.cli.words import at, metrics_of

    rows: dict[str, Any] = {"version": told["version"]}
    pinned = ", pinned" if told.get("pinned") else ""
    rows["serves"] = f"yes{pinned}" if told["active"] else "no"
    rows |= {
        "made": at(told["created_at"]) or "not by training: it is the base",
        "by job": told["job"],
        "metrics": metrics_of(told["metrics"], most=len(told["metrics"])),
        "trained from": told.get("parent"),
        "weights": told["tag"],
    }
    for name, file in told.get("files", {}).items():
        rows[f"  {name}"] = f"{file['bytes']:,} bytes, sha256 {file['sha256'][:16]}.."
    for name, value in told.get("values", {}).items():
        rows[f"value {name}"] = str(value)
    if "label_config_is_current" in told:
        same = told["label_config_is_current"]
        rows["label config"] = "the project's own" if same else "changed since then"
    console().print(facts(rows))
