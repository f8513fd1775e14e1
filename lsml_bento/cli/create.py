"""``lsml-bento create``: a new backend, or one around an existing class."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsml_bento.cli.options import debug_option, directory_argument, resolve

if TYPE_CHECKING:
    from lsml_bento.scaffold.create import Created


@click.command()
@directory_argument
@click.option(
    "--from",
    "--script",
    "from_",
    metavar="PATH[:CLASS]",
    help="Serve an existing class.",
)
@click.option(
    "--name", metavar="NAME", help="Name of the service (default: that of DIR)."
)
@click.option("--force", is_flag=True, help="Overwrite files in an existing directory.")
@debug_option(expose=False)
def create(
    directory: Path,
    root_dir: Path | None,
    from_: str | None,
    name: str | None,
    force: bool,
) -> None:
    """Create a backend in DIR.

    It returns valid predictions for its label config right away, and its tests pass.

    --from copies PATH as model.py, with the modules that it imports, the data files,
    the label_config.xml and the requirements beside it, and the system's packages of
    its Dockerfile. What is not copied is listed. CLASS is required if PATH has several.
    """
    from lsml_bento.scaffold.create import create_backend, source_of

    directory = resolve(directory, root_dir)
    source = source_of(from_) if from_ is not None else None
    created = create_backend(directory, source=source, name=name, force=force)
    _print(directory, created)
    if source is not None and source.label_config is None:
        click.echo(
            f"There is no label_config.xml beside {source.path.name}: save your "
            f"project's as {directory / 'label_config.xml'} before you test."
        )


def _print(directory: Path, created: Created) -> None:
    from rich.console import Console
    from rich.markup import escape

    here = Path.cwd()
    shown = directory.relative_to(here) if directory.is_relative_to(here) else directory
    place = escape(shlex.quote(str(shown)))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Created the backend [bold]{escape(directory.name)}[/bold]:")
    for path in sorted(created.paths):
        console.print(f"  {escape(path.relative_to(directory).as_posix())}")
    if created.left_out:
        console.print("\nNot copied:")
    for name, reason in created.left_out:
        console.print(f"  {escape(name)}: {escape(reason)}")
    console.print("\nServe it, then check its predictions:")
    console.print(f"  [green]lsml-bento start {place} -p 9090[/green]")
    console.print(f"  [green]lsml-bento check {place}[/green]")
