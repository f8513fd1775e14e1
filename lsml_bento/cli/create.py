"""``lsml-bento create``: a new backend, or one around an existing class."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from lsml_bento.cli.options import debug_option, directory_argument, resolve


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

    --from copies PATH as model.py, with the modules beside it that it imports, its
    label_config.xml and its requirements. CLASS is required if PATH has several.
    """
    from lsml_bento.scaffold.create import create_backend, find_source

    directory = resolve(directory, root_dir)
    source = find_source(from_) if from_ is not None else None
    written = create_backend(directory, source=source, name=name, force=force)
    _print(directory, written)
    if source is not None and source.label_config is None:
        click.echo(
            f"There is no label_config.xml beside {source.path.name}: save your "
            f"project's as {directory / 'label_config.xml'} before you test."
        )


def _print(directory: Path, written: list[Path]) -> None:
    from rich.console import Console
    from rich.markup import escape

    here = Path.cwd()
    shown = directory.relative_to(here) if directory.is_relative_to(here) else directory
    place = escape(shlex.quote(str(shown)))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Created the backend [bold]{escape(directory.name)}[/bold]:")
    for path in sorted(written):
        console.print(f"  {escape(path.relative_to(directory).as_posix())}")
    console.print("\nServe it, then check its predictions:")
    console.print(f"  [green]lsml-bento start {place} -p 9090[/green]")
    console.print(f"  [green]lsml-bento check {place}[/green]")
