"""Options that several commands share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from lsml_bento.pipelines import PIPELINES

DEBUG = "lsml_bento.debug"
"""The key in a context's ``meta`` that says whether errors are shown in full."""

_PATHS = ("LSML_HOME", "MODEL_DIR")
"""Paths that are meant from where the person stands: a backend's processes stand in its
directory."""

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
    return argument(root_dir_option(command))


def root_dir_option(command: _Command) -> _Command:
    """``--root-dir``, for what takes ``DIR`` in its own way."""
    return click.option(
        "--root-dir",
        type=click.Path(path_type=Path),
        default=None,
        help="The directory that DIR is in; the current one by default.",
    )(command)


def resolve(directory: Path, root_dir: Path | None) -> Path:
    """The backend's directory as an absolute path."""
    return (root_dir or Path()).expanduser().joinpath(directory.expanduser()).resolve()


def pipeline_options(command: _Command) -> _Command:
    """``--pipeline`` and ``--model``: a backend without code, in place of ``DIR``."""
    pipeline = click.option(
        "--pipeline",
        type=click.Choice(PIPELINES),
        help="Serve a pipeline of transformers in place of DIR (LSML_PIPELINE).",
    )
    model = click.option(
        "--model",
        help="The pipeline's model: a directory, or a name on the hub, NAME@REVISION "
        "for a fixed one (LSML_PIPELINE_MODEL).",
    )
    return pipeline(model(command))


def backend_option(command: _Command) -> _Command:
    """``--dir``, the directory of the backend that a command is about."""
    return click.option(
        "-d",
        "--dir",
        "directory",
        metavar="DIR",
        default=".",
        help="The backend's directory; the current one by default.",
        type=click.Path(path_type=Path),
    )(command)


def json_option(command: _Command) -> _Command:
    """``--json``: what the HTTP API answers, in place of a text for people."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print what the HTTP API answers."
    )(command)


def yes_option(command: _Command) -> _Command:
    """``--yes``: do not ask."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def log_level_option(command: _Command) -> _Command:
    """``--log-level``, for what runs on."""
    return click.option(
        "--log-level",
        type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
        help="What to log (LOG_LEVEL; INFO).",
    )(command)


def with_absolute_paths(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment that means the same in every directory."""
    settled = dict(environ)
    for name in _PATHS:
        if settled.get(name, "").strip():
            settled[name] = str(Path(settled[name]).expanduser().absolute())
    return settled


def quiet(debug: bool) -> None:
    """Leave what goes wrong to the command's one sentence, unless asked for more."""
    if debug:
        logging.basicConfig(level=logging.DEBUG)
        return
    logging.getLogger("lsml_bento").addHandler(logging.NullHandler())
    logging.getLogger("lsml_bento").propagate = False
