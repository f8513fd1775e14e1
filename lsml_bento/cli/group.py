"""The group of commands, and how an ``LsmlError`` ends one."""

from __future__ import annotations

import sys
from typing import Any

import click

from lsml_bento.cli.check import check
from lsml_bento.cli.create import create
from lsml_bento.cli.doctor import doctor
from lsml_bento.cli.forget import forget
from lsml_bento.cli.jobs import jobs
from lsml_bento.cli.options import DEBUG
from lsml_bento.cli.preannotate import preannotate
from lsml_bento.cli.start import start
from lsml_bento.cli.train import train
from lsml_bento.cli.versions import versions
from lsml_bento.cli.worker import worker
from lsml_bento.errors import LsmlError

_ALIASES = {"init": "create"}


class Commands(click.Group):
    """Prints an ``LsmlError`` as one line, and knows the names of older tools."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. An ``LsmlError`` ends it with exit code 1."""
        try:
            return super().invoke(ctx)
        except LsmlError as error:
            if ctx.meta.get(DEBUG):
                raise
            click.echo(f"lsml-bento: {error}", err=True)
            ctx.exit(1)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    python = sys.version.partition(" ")[0]
    click.echo(f"lsml-bento {version('lsml-bento')}, Python {python}")
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Serve a Python class as a Label Studio ML backend on BentoML."""


for _command in (
    *(create, start, worker, check, doctor),
    *(train, jobs, versions, forget, preannotate),
):
    main.add_command(_command)
