"""Find a backend by its directory, with the name and the state that its server uses.

``lsml-bento start`` imports this module, so it loads only what a call needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lsml_bento.backend_dir import (
    bento_of,
    bento_service_directory,
    find_target,
    has_service,
    plain_service,
    serves,
    with_class,
)
from lsml_bento.backend_spec import BackendSpec, class_name
from lsml_bento.errors import LsmlError

if TYPE_CHECKING:
    from lsml_bento.jobs.job import Job
    from lsml_bento.settings import Settings
    from lsml_bento.state.store import State

_PATHS = ("LSML_HOME", "MODEL_DIR")


class OpeningError(LsmlError):
    """A backend or a label config that cannot be opened."""


@dataclass(frozen=True)
class OpenBackend:
    """A backend and the state that it shares with its processes."""

    spec: BackendSpec
    settings: Settings
    state: State

    def dispatch(self, job: Job) -> None:
        """Enqueue a job. If the queue is unavailable, a worker finds the job itself."""
        from lsml_bento.processes.wiring import open_queue

        with suppress(LsmlError):
            queue = open_queue(self.settings, self.spec)
            queue.enqueue(job.id, job.due_at)
            queue.close()

    @property
    def has_no_worker(self) -> bool:
        """Whether no worker runs. False with Redis, as other machines may have one."""
        from lsml_bento.processes.worker import has_no_worker

        return self.settings.redis_url is None and has_no_worker(self.spec.home_path)


@contextmanager
def open_backend(directory: Path) -> Iterator[OpenBackend]:
    """Open the backend in an absolute directory, which becomes the current one.

    Raises:
        LsmlError: if there is no backend, or its state cannot be used.
        SystemExit: if its ``service.py`` cannot be used.
    """
    spec = find_backend(directory)
    from lsml_bento.processes.wiring import open_state
    from lsml_bento.settings import Settings

    settings = Settings.from_env(os.environ)
    state = open_state(settings, spec.home_path, spec.name)
    try:
        yield OpenBackend(spec, settings, state)
    finally:
        state.close()


def find_backend(directory: Path) -> BackendSpec:
    """The name and the home with which ``lsml-bento start`` serves a directory.

    The directory becomes the current one, as it is in a server, so that the
    environment has the same meaning.

    Args:
        directory: absolute. For a built bento, the directory of its service is used.

    Raises:
        LsmlError: if there is no backend in it.
        SystemExit: if its ``service.py`` cannot be used.
    """
    if (bento := bento_of(directory)) is not None:
        sys.path.insert(0, str(bento / "src"))  # as in the bento's servers
        if bento == directory:
            directory = bento_service_directory(bento)
    check_serves(directory)
    os.environ.update(absolute_paths(os.environ))
    os.chdir(directory)
    if not has_service(directory):
        return named_backend(with_class(find_target(directory), directory))
    if (given := plain_service(directory)) is not None:
        return named_backend(given["model"], given.get("name"))
    return _imported_backend(directory)


def check_serves(directory: Path) -> None:
    """Raise an ``OpeningError`` if a directory holds nothing that can be served."""
    if not directory.is_dir() or not serves(directory):
        raise OpeningError(
            f"{directory} has neither a model.py nor a service.py with svc: name the "
            "directory of a backend"
        )


def read_label_config(path: Path) -> str:
    """The text of a label config.

    Raises:
        OpeningError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OpeningError(
            f"the label config {path} cannot be read: {reason}; save your project's "
            "(Settings > Labeling Interface > Code) and pass it with --label-config"
        ) from error


def absolute_paths(
    environ: Mapping[str, str], base: Path | None = None
) -> dict[str, str]:
    """A copy of an environment that has the same meaning in every directory.

    Relative paths are relative to ``base``, or else to where the command was typed,
    but a backend's processes run in its directory.
    """
    found = dict(environ)
    for name in _PATHS:
        if found.get(name, "").strip():
            found[name] = str(
                (base or Path()).joinpath(Path(found[name]).expanduser()).absolute()
            )
    return found


def env_file(directory: Path) -> dict[str, str]:
    """The variables of the ``.env`` in a backend's directory; its paths are absolute.

    Raises:
        OpeningError: if it cannot be read.
    """
    path = directory / ".env"
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        found = dotenv_values(path, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OpeningError(
            f"{path} cannot be read: {error}; save it as UTF-8, or remove it"
        ) from error
    present = {name: value for name, value in found.items() if value is not None}
    return absolute_paths(present, directory)


def load_env_file(directory: Path) -> None:
    """Set the variables of a directory's ``.env`` that the environment lacks.

    Raises:
        OpeningError: if it cannot be read.
    """
    for name, value in env_file(directory).items():
        os.environ.setdefault(name, value)


def named_backend(target: str, name: str | None = None) -> BackendSpec:
    """The spec of a class that is imported from the current directory.

    Reads the directory's ``.env``.

    Raises:
        OpeningError: if BentoML does not accept the name.
        SettingsError: if a variable of the environment is not valid.
    """
    from lsml_bento.processes.wiring import settle
    from lsml_bento.settings import Settings

    load_env_file(Path.cwd())
    settings = Settings.from_env(os.environ)
    try:
        return settle(name or class_name(target), target, Path.cwd(), settings)
    except ValueError as error:
        raise OpeningError(str(error)) from error


def _imported_backend(directory: Path) -> BackendSpec:
    """The spec of a ``service.py`` that has to be imported to know it."""
    sys.path.insert(0, str(directory))
    with redirect_stdout(sys.stderr):  # its prints are not a command's answer
        from lsml_bento.adapters.bentoml_service import spec_of
        from lsml_bento.processes.bentoml_target import svc
    spec = spec_of(svc)
    if spec is None:
        raise OpeningError(
            f"svc in {directory / 'service.py'} is not a service of lsml-bento: make "
            "it with `svc = create_service(..)`"
        )
    return spec
