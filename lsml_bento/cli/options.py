"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

DEBUG = "lsml_bento.debug"
"""The key in a context's ``meta`` that says whether errors are shown in full."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def debug_option(
    help_text: str = "Show errors with their tracebacks.",
) -> Callable[[_Command], _Command]:
    """``--debug``; its value is in the context's ``meta`` and in ``debug``."""
    return click.option("--debug", is_flag=True, callback=_remember, help=help_text)


def _remember(ctx: click.Context, _: click.Parameter, debug: bool) -> bool:
    ctx.meta[DEBUG] = debug
    return debug


def directory_argument(command: _Command) -> _Command:
    """``DIR`` and ``--root-dir``, which label-studio-ml has for its parent."""
    argument = click.argument(
        "directory", metavar="DIR", type=click.Path(path_type=Path)
    )
    option = click.option(
        "--root-dir",
        type=click.Path(path_type=Path),
        default=None,
        help="The directory that DIR is in; the current one by default.",
    )
    return argument(option(command))


def resolve(directory: Path, root_dir: Path | None) -> Path:
    """The backend's directory as an absolute path."""
    return (root_dir or Path()).expanduser().joinpath(directory.expanduser()).resolve()
