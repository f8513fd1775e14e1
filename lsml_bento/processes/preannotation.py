"""Wire a run of ``preannotate``: a model in this process or a running backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsml_bento.backend_dir import has_service, plain_service
from lsml_bento.backend_spec import BackendSpec
from lsml_bento.contract import Project, parse_project
from lsml_bento.model.loader import ModelSource
from lsml_bento.preannotation.engine import Engine, LocalEngine, snapshot
from lsml_bento.preannotation.project_run import predict_project
from lsml_bento.preannotation.run import Run, predict_file
from lsml_bento.preannotation.selection import PreannotationError, ProjectPredictions
from lsml_bento.preannotation.task_file import TaskFile
from lsml_bento.processes.opening import read_label_config
from lsml_bento.processes.wiring import open_state
from lsml_bento.projects.lookup import project_called
from lsml_bento.settings import Settings
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import State

_NO_PROJECT = Project("0", 0)
"""The project of tasks in a file."""


@dataclass(frozen=True)
class Setup:
    """Where a run finds its model, unless it calls a URL, and keeps checkpoints."""

    spec: BackendSpec | None
    settings: Settings
    home: Path
    max_batch_size: int
    threads: int = 1


def setup_of(
    spec: BackendSpec | None, max_batch_size: int | None, *, is_class: bool = False
) -> Setup:
    """Return the setup of a backend. Its directory must be the current one.

    Args:
        spec: of the backend; None if a URL is called.
        max_batch_size: overrides the environment and the service.
        is_class: whether a class was named, which has no ``service.py``.
    """
    given: dict[str, Any] = {}
    if spec is not None and not is_class and has_service(Path.cwd()):
        given = plain_service(Path.cwd()) or {}
    settings = Settings.from_env(os.environ)
    home = settings.home or Path.home() / ".lsml" / "preannotate"
    return Setup(
        spec,
        settings,
        home if spec is None else spec.home_path,
        max_batch_size
        or settings.max_batch_size
        or int(given.get("max_batch_size") or 32),
        settings.threads or int(given.get("threads") or 1),
    )


async def preannotate(run: Run, setup: Setup, tasks: TaskFile | None) -> None:
    """Predict the tasks of a file, or of a project if there is none."""
    options = run.options
    if tasks is not None:
        opening = _open_engine(setup, options.backend, None, options.project)
        with opening as (engine, project):
            path = options.label_config or Path("label_config.xml").absolute()
            config = read_label_config(path)
            await predict_file(run, tasks, engine, project, config)
        return
    with closing(_connect(options.project, setup.settings)) as predictions:
        project, label_config = await run.in_thread(predictions.project)
        with _open_engine(setup, options.backend, project) as (engine, _):
            await predict_project(run, predictions, engine, project, label_config)


@contextmanager
def _open_engine(
    setup: Setup, url: str | None, project: Project | None, named: str | None = None
) -> Iterator[tuple[Engine, Project]]:
    """Open what predicts, and find the project that it predicts for.

    Args:
        setup: of the model.
        url: of a running backend, called in place of a model in this process.
        project: of Label Studio; None for tasks of a file.
        named: the project whose active version predicts the tasks of a file; the base
            version does if there is none.
    """
    if url is not None:
        from lsml_bento.adapters.backend_http import BackendEngine  # noqa: PLC0415

        called = BackendEngine(url, setup.settings.basic_auth)
        yield called, project or parse_project(named)
        return
    assert setup.spec is not None, "checked before"  # noqa: S101
    if project is None and named is None:
        state = MemoryState()
        engine = _local_engine(setup, setup.spec, state, has_versions=False)
        yield engine, _NO_PROJECT
        return
    with closing(open_state(setup.settings, setup.home, setup.spec.name)) as shared:
        if project is not None:
            from lsml_bento.jobs.annotations import AnnotationStore  # noqa: PLC0415
            from lsml_bento.jobs.job_store import JobStore  # noqa: PLC0415

            yield (
                _local_engine(
                    *(setup, setup.spec, shared),
                    any_task=AnnotationStore(shared).any_task,
                    note_on_job=JobStore(shared).set_version_error,
                ),
                project,
            )
            return
        meant = project_called(shared, str(named))
        copied = snapshot(shared, meant)
    yield _local_engine(setup, setup.spec, copied), meant


def _local_engine(
    setup: Setup,
    spec: BackendSpec,
    state: State,
    *,
    has_versions: bool = True,
    **jobs: Any,
) -> LocalEngine:
    from lsml_bento.adapters import label_studio_ml  # noqa: PLC0415
    from lsml_bento.processes.wiring import open_media  # noqa: PLC0415

    weights = None
    if has_versions:
        from lsml_bento.processes.wiring import open_weights  # noqa: PLC0415

        weights = open_weights(setup.settings)
    label_studio_ml.install()
    return LocalEngine(
        ModelSource(spec.target, spec.directory_path),
        state,
        open_media(setup.settings, setup.home),
        weights,
        setup.threads,
        **jobs,
    )


def _connect(project: str | None, settings: Settings) -> ProjectPredictions:
    from lsml_bento.adapters.label_studio_api.predictions import (  # noqa: PLC0415
        LabelStudioPredictions,
    )

    url, key = settings.label_studio_url, settings.label_studio_api_key
    if url is None or key is None:
        missing = "LABEL_STUDIO_URL" if url is None else "LABEL_STUDIO_API_KEY"
        raise PreannotationError(
            f"{missing} is not set: set Label Studio's URL and your access token to "
            "read the project, or read tasks from a file with --tasks"
        )
    assert project is not None, "checked before"  # noqa: S101
    return LabelStudioPredictions(url, key, project)
