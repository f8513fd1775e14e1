"""Options that several commands share, and the backend that they name."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lsml_bento.jobs.job import Job
    from lsml_bento.processes.opening import OpenBackend

DEBUG = "lsml_bento.debug"
"""The key in a context's ``meta`` that says whether to show tracebacks."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def debug_option(
    help_text: str = "Show tracebacks of errors.", *, expose: bool = True
) -> Callable[[_Command], _Command]:
    """``--debug``: stored in the context's ``meta``, and passed on if exposed."""
    return click.option(
        "--debug", is_flag=True, callback=_store, expose_value=expose, help=help_text
    )


def _store(ctx: click.Context, _: click.Parameter, debug: bool) -> bool:
    ctx.meta[DEBUG] = debug
    return debug


def directory_argument(command: _Command) -> _Command:
    """``DIR`` and ``--root-dir``, which label-studio-ml has for its parent."""
    argument = click.argument(
        "directory", metavar="DIR", type=click.Path(path_type=Path)
    )
    return argument(root_dir_option(command))


def root_dir_option(command: _Command) -> _Command:
    """``--root-dir``, for commands with a ``DIR`` argument of their own."""
    return click.option(
        "--root-dir",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Directory that contains DIR.",
    )(command)


def resolve(directory: Path, root_dir: Path | None) -> Path:
    """The backend's directory as an absolute path."""
    return (root_dir or Path()).expanduser().joinpath(directory.expanduser()).resolve()


def backend_options(command: _Command) -> _Command:
    """``--dir`` as ``directory``, ``--json`` as ``as_json``, and ``--debug``."""
    directory = click.option(
        "-d",
        "--dir",
        "directory",
        metavar="DIR",
        default=".",
        help="Directory of the backend (default: .).",
        type=click.Path(path_type=Path),
    )
    as_json = click.option(
        "--json", "as_json", is_flag=True, help="Print the HTTP API's JSON."
    )
    return directory(as_json(debug_option(expose=False)(command)))


def yes_option(command: _Command) -> _Command:
    """``--yes``: do not ask."""
    return click.option(
        "-y", "--yes", is_flag=True, help="Do not ask for confirmation."
    )(command)


def log_level_option(command: _Command) -> _Command:
    """``--log-level``, for commands that run until they are stopped."""
    return click.option(
        "--log-level",
        type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
        metavar="LEVEL",
        help="DEBUG, INFO, WARNING or ERROR (LOG_LEVEL).",
    )(command)


def quiet(debug: bool) -> None:
    """Hide the log, as the command reports errors itself, unless debugging."""
    if debug:
        logging.basicConfig(level=logging.DEBUG)
        return
    logging.getLogger("lsml_bento").addHandler(logging.NullHandler())
    logging.getLogger("lsml_bento").propagate = False


# The backend of ``--dir``


@contextmanager
def open_backend(directory: Path) -> Iterator[OpenBackend]:
    """Open the backend of ``--dir`` without its log; see ``opening.open_backend``."""
    from lsml_bento.processes import opening

    quiet(bool(click.get_current_context().meta.get(DEBUG)))
    with opening.open_backend(directory.expanduser().resolve()) as backend:
        yield backend


def command_line(directory: Path, *words: str) -> str:
    """Another command about the backend, as it can be typed here."""
    place = [] if directory == Path() else ["-d", str(directory)]
    return shlex.join(["lsml-bento", *words, *place])


def dispatch(backend: OpenBackend, job: Job, directory: Path) -> None:
    """Enqueue a job, and say if no worker is running."""
    backend.dispatch(job)
    if backend.has_no_worker:
        place = shlex.quote(str(directory))
        click.echo(
            "No worker is running for this backend. The job waits until you run "
            f"`lsml-bento start {place}` or `lsml-bento worker {place}`.",
            err=True,
        )
