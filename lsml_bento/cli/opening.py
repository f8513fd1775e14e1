"""From a backend's directory to its state, as the processes that serve it name them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsml_bento.backend_dir import (
    bento_of,
    bento_service_directory,
    find_target,
    has_service,
    plain_service,
    serves,
    with_class,
)
from lsml_bento.cli.options import DEBUG, quiet, with_absolute_paths
from lsml_bento.errors import LsmlError

if TYPE_CHECKING:
    from lsml_bento.backend_spec import BackendSpec
    from lsml_bento.jobs.job import Job
    from lsml_bento.settings import Settings
    from lsml_bento.state.store import State


class OpeningError(LsmlError):
    """A directory whose backend has no name."""


@dataclass(frozen=True)
class Opened:
    """A backend as a command works on it.

    Attributes:
        spec: what its processes call it.
        settings: what the environment decides.
        state: shared with its processes.
        given: the directory as the person named it.
    """

    spec: BackendSpec
    settings: Settings
    state: State
    given: Path

    def command(self, *words: str) -> str:
        """Another command about this backend, as it can be typed here."""
        place = [] if self.given == Path() else ["-d", str(self.given)]
        return shlex.join(["lsml-bento", *words, *place])

    def dispatch(self, job: Job) -> None:
        """Enqueue a job; if the queue is unavailable, a worker finds the job itself."""
        from lsml_bento.processes.wiring import open_queue

        with suppress(LsmlError):
            queue = open_queue(self.settings, self.spec)
            queue.enqueue(job.id, job.due_at)
            queue.close()
        self._say_if_deserted()

    def _say_if_deserted(self) -> None:
        """Say that nobody will train; on Redis, other machines may."""
        from lsml_bento.processes.worker import is_deserted

        if self.settings.redis_url is None and is_deserted(self.spec.home_path):
            place = shlex.quote(str(self.given))
            click.echo(
                "No worker runs for this backend now: the job waits until "
                f"`lsml-bento start {place}` or `lsml-bento worker {place}` does.",
                err=True,
            )


@contextmanager
def opened(directory: Path) -> Iterator[Opened]:
    """The backend of a directory, with its state.

    Raises:
        LsmlError: if there is no backend, or its state can not be used.
        SystemExit: if its ``service.py`` can not be used.
    """
    quiet(bool(click.get_current_context().meta.get(DEBUG)))
    spec = find_spec(directory.expanduser().resolve())
    from lsml_bento.processes.wiring import open_state
    from lsml_bento.settings import Settings

    settings = Settings.from_env(os.environ)
    state = open_state(settings, spec.home_path, spec.name)
    try:
        yield Opened(spec, settings, state, directory)
    finally:
        state.close()


def find_spec(directory: Path) -> BackendSpec:
    """The name and the home that ``lsml-bento start`` serves a directory with.

    The directory becomes the current one, as it is for a server, so that the
    environment means the same.

    Args:
        directory: absolute. That of a built bento stands for where its service is.

    Raises:
        LsmlError: if there is no backend in it.
        SystemExit: if its ``service.py`` can not be used.
    """
    if (bento := bento_of(directory)) is not None:
        sys.path.insert(0, str(bento / "src"))  # as it is for the bento's servers
        if bento == directory:
            directory = bento_service_directory(bento)
    if not directory.is_dir() or not serves(directory):
        raise OpeningError(
            f"{directory} has neither a model.py nor a service.py with svc: name the "
            "directory of a backend"
        )
    os.environ.update(with_absolute_paths(os.environ))
    os.chdir(directory)
    if not has_service(directory):
        return _settled(with_class(find_target(directory), directory), None, directory)
    if (given := plain_service(directory)) is not None:
        return _settled(given["model"], given.get("name"), directory)
    return _imported(directory)


def _imported(directory: Path) -> BackendSpec:
    """That of a ``service.py`` which takes an import to know."""
    sys.path.insert(0, str(directory))
    with redirect_stdout(sys.stderr):  # what it prints is no part of a command's answer
        from lsml_bento.adapters.bentoml_service import spec_of
        from lsml_bento.processes.bentoml_target import svc
    spec = spec_of(svc)
    if spec is None:
        raise OpeningError(
            f"svc in {directory / 'service.py'} is a service of another kind: make it "
            "with `svc = create_service(..)`"
        )
    return spec


def _settled(target: str, name: str | None, directory: Path) -> BackendSpec:
    from lsml_bento.backend_spec import class_name
    from lsml_bento.processes.wiring import settle
    from lsml_bento.settings import Settings

    settings = Settings.from_env(os.environ)
    try:
        return settle(name or class_name(target), target, directory, settings)
    except ValueError as error:  # a name that BentoML does not take
        raise OpeningError(str(error)) from error
