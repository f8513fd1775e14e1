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
    help="Serve an existing class: PATH is copied as model.py, with the modules beside "
    "it that it imports, its label_config.xml and its requirements. CLASS is needed if "
    "it has several.",
)
@click.option(
    "--name", help="Name of the service and of the bento; the directory's by default."
)
@click.option(
    "--force",
    is_flag=True,
    help="Write into a directory that is not empty, over files with the same names.",
)
@debug_option()
def create(
    directory: Path,
    root_dir: Path | None,
    from_: str | None,
    name: str | None,
    force: bool,
    debug: bool,
) -> None:
    """Make a new backend in DIR.

    It answers valid predictions for its label config at once, and its tests pass.
    """
    from lsml_bento.scaffold.create import create_backend, find_source

    directory = resolve(directory, root_dir)
    source = find_source(from_) if from_ is not None else None
    written = create_backend(directory, source=source, name=name, force=force)
    _report(directory, written)
    if source is not None and source.label_config is None:
        click.echo(
            f"There is no label_config.xml beside {source.path.name}: put your "
            f"project's into {directory / 'label_config.xml'} before you test."
        )


def _report(directory: Path, written: list[Path]) -> None:
    from rich.console import Console
    from rich.markup import escape

    here = Path.cwd()
    shown = directory.relative_to(here) if directory.is_relative_to(here) else directory
    place = escape(shlex.quote(str(shown)))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(directory.name)}[/bold] is a new backend:")
    for path in sorted(written):
        console.print(f"  {escape(path.relative_to(directory).as_posix())}")
    console.print("\nServe it, then try what it answers:")
    console.print(f"  [green]lsml-bento start {place} -p 9090[/green]")
    console.print(f"  [green]lsml-bento check {place}[/green]")
