"""What predicts in a run of ``preannotate``: a model here, or a backend that runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsml_bento.adapters import label_studio_ml
from lsml_bento.adapters.backend_http import BackendEngine
from lsml_bento.backend_dir import has_service, plain_service
from lsml_bento.backend_spec import BackendSpec, class_name
from lsml_bento.cli.opening import OpeningError, find_spec
from lsml_bento.cli.options import with_absolute_paths
from lsml_bento.contract import Project, parse_project
from lsml_bento.model.loader import ModelSource
from lsml_bento.preannotation.engine import Engine, LocalEngine, snapshot
from lsml_bento.processes.home import open_state, settle
from lsml_bento.projects.lookup import project_called
from lsml_bento.settings import Settings
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import State

_NOBODYS = Project("0", 0)
"""The project of tasks that are in a file."""


@dataclass(frozen=True)
class Place:
    """Where a run finds its model, and keeps what it notes.

    Attributes:
        spec: of the backend's directory or class; None where a URL is asked.
        settings: what the environment decides.
        home: for notes.
        max_batch_size: tasks in a call.
        threads: calls at a time.
    """

    spec: BackendSpec | None
    settings: Settings
    home: Path
    max_batch_size: int
    threads: int = 1


def find_place(target: str | None, max_batch_size: int | None) -> Place:
    """The place of a backend's directory or class; that of none, where a URL is asked.

    A directory becomes the current one, as it is for a server.

    Args:
        target: a directory, ``"module:Class"``, or None.
        max_batch_size: where the environment and the service are not to decide.

    Raises:
        LsmlError: if there is no backend.
    """
    given: dict[str, Any] = {}
    if target is None:
        spec = None
    elif ":" in target and not Path(target).exists():
        spec = _spec_of_class(target)
    else:
        directory = Path(target).expanduser().resolve()
        spec = find_spec(directory)
        if has_service(Path.cwd()):
            given = plain_service(Path.cwd()) or {}
    settings = Settings.from_env(os.environ)
    home = settings.home or Path.home() / ".lsml" / "preannotate"
    return Place(
        spec,
        settings,
        home if spec is None else spec.home_path,
        max_batch_size
        or settings.max_batch_size
        or int(given.get("max_batch_size") or 32),
        settings.threads or int(given.get("threads") or 1),
    )


@contextmanager
def opened(
    place: Place, project: Project | None, named: str | None, backend: str | None
) -> Iterator[tuple[Engine, Project]]:
    """What predicts, and the project that it predicts for.

    Args:
        place: of the model.
        project: of Label Studio; None for tasks out of a file.
        named: the project whose version predicts these; the base does without.
        backend: the URL to ask in place of a model here.

    Raises:
        LsmlError: if it can not be opened.
    """
    settings, spec = place.settings, place.spec
    if backend is not None:
        engine = BackendEngine(backend, settings.basic_auth)
        yield engine, project or parse_project(named)
        return
    assert spec is not None, "a model is somewhere"  # noqa: S101
    if project is not None:
        state = open_state(settings, place.home, spec.name)
        try:
            yield _local(place, spec, state), project
        finally:
            state.close()
        return
    if named is None:
        yield _local(place, spec, MemoryState()), _NOBODYS
        return
    state = open_state(settings, place.home, spec.name)
    try:
        meant = project_called(state, named)
        copied = snapshot(state, meant)
    finally:
        state.close()
    yield _local(place, spec, copied), meant


def _local(place: Place, spec: BackendSpec, state: State) -> LocalEngine:
    from lsml_bento.processes.label_studio import open_media
    from lsml_bento.processes.wiring import open_weights

    label_studio_ml.install()
    return LocalEngine(
        ModelSource(spec.target, spec.directory_path),
        state,
        open_media(place.settings, place.home),
        open_weights(place.settings),
        place.threads,
    )


def _spec_of_class(target: str) -> BackendSpec:
    os.environ.update(with_absolute_paths(os.environ))
    settings = Settings.from_env(os.environ)
    try:
        return settle(class_name(target), target, Path.cwd(), settings)
    except ValueError as error:
        raise OpeningError(str(error)) from error
