"""The backend that a command is about."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsml_bento.cli.options import DEBUG, quiet

if TYPE_CHECKING:
    from lsml_bento.jobs.job import Job
    from lsml_bento.processes.opening import OpenBackend


@contextmanager
def open_backend(directory: Path) -> Iterator[OpenBackend]:
    """Open the backend of ``--dir`` without its log.

    Raises:
        LsmlError: if there is no backend, or its state cannot be used.
        SystemExit: if its ``service.py`` cannot be used.
    """
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
