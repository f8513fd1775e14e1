"""Running ``fit`` for a job, and testing that the new version predicts.

Nothing becomes visible to other processes here. The worker promotes the version, under
the token of the run.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lsml_bento.contract import Project, Task
from lsml_bento.error_text import locate
from lsml_bento.errors import LsmlError, StateError, TrainingError, WeightsError
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.base_class import (
    LabelStudioMLBase,
    ModelRuntime,
    call_fit,
    overrides_process_event,
    rules_of,
    takes_annotations,
    use_runtime,
)
from lsml_bento.model.invoke import try_sample
from lsml_bento.model.label_config import EMPTY
from lsml_bento.model.loader import ModelClass, ModelSource, has_own_load
from lsml_bento.model.media import Media
from lsml_bento.model.training_policy import TrainingEvent
from lsml_bento.state.store import Change, Pair, State, encode
from lsml_bento.training.child_process import Background
from lsml_bento.training.file_changes import FileChanges
from lsml_bento.versions.registry import Version, Versions
from lsml_bento.versions.weights import Saved, Weights, store_name

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
Report = Callable[[dict[str, Any]], None]
"""Called with ``progress``, ``metrics``, ``source`` and ``note`` of a run."""

_SHARED = frozenset({"label_config", "extra_params"})
"""Keys of the project, not of the trained model: they are written through."""


class Tasks(Protocol):
    """Label Studio's API, implemented by ``adapters.label_studio_api``."""

    def annotated(self, project_id: str) -> Iterator[Task]:
        """The project's annotated tasks, page by page.

        Raises:
            TrainingError: if Label Studio cannot be read.
        """


@dataclass
class FitContext:
    """What the runs of one process share.

    Attributes:
        backend: its name.
        state: shared with the other processes.
        weights: where those of versions go.
        tasks: Label Studio's API; None to learn from stored annotations.
        report: called with the progress of a run.
        should_stop: whether the run should stop.
        model_dir: ``MODEL_DIR``, where a class of label_studio_ml keeps its files.
        home: where lsml-bento keeps its own.
        stores: model stores, which hold no files of such a class.
    """

    backend: str
    state: State
    weights: Weights
    tasks: Tasks | None
    report: Report
    should_stop: bool = False
    model_dir: Path | None = None
    home: Path | None = None
    stores: tuple[Path, ...] = ()


class JobRun:
    """What ``fit`` can use of its job; implements ``base_class.Run``.

    Args:
        job: the job.
        state: captures what ``fit`` sets.
        context: shared by the runs of this process.

    Attributes:
        saved: the weights that ``fit`` wrote, once they are in the model store.
        metrics: of these weights.
        sample: one of the tasks that ``fit`` saw.
    """

    def __init__(self, job: Job, state: OverlayState, context: FitContext) -> None:
        self.job = job
        self.state = state
        self.saved: Saved | None = None
        self.metrics: dict[str, float | None] = {}
        self.sample: Task | None = None
        self._context = context
        self._written: tuple[Path, dict[str, float | None]] | None = None
        self._stack = ExitStack()
        self._notes: list[str] = []

    @property
    def job_id(self) -> str:
        return self.job.id

    @property
    def events(self) -> list[TrainingEvent]:
        return JobStore(self._context.state).events(self.job.id)

    @property
    def should_stop(self) -> bool:
        return self._context.should_stop

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None:
        self._context.report({"progress": progress, "metrics": dict(metrics)})

    def note(self, note: str) -> None:
        """Add a remark to the job."""
        self._notes.append(note)
        self._context.report({"note": "; ".join(self._notes)})

    def annotated_tasks(self) -> Iterator[Task]:
        """Tasks from Label Studio if credentials are set, else from the stored ones."""
        project = self.job.of
        tasks = self._context.tasks
        source = "annotation store" if tasks is None else "Label Studio"
        self._context.report({"source": source})
        log.info("Reading tasks: %s job=%s project=%s", source, self.job.id, project)
        store = AnnotationStore(self._context.state)
        found = (
            store.annotated_tasks(project)
            if tasks is None
            else tasks.annotated(project.id)
        )
        counted = 0
        for task in found:
            counted += len(task["annotations"])
            if self.sample is None:
                self.sample = deepcopy(task)  # the caller may change its own
            yield task
        if tasks is None:
            self._compare(project, counted, store.total(project))

    def _compare(self, project: Project, counted: int, total: int | None) -> None:
        """Warn if Label Studio has annotations that no webhook reported."""
        if total is None or counted >= total:
            return
        note = (
            f"the annotation store holds {counted} of the project's {total} "
            "annotations: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to learn from "
            "all of them"
        )
        log.warning(
            "Annotations missing: %s job=%s project=%s", note, self.job.id, project
        )
        self.note(note)

    @contextmanager
    def save_weights(self, metrics: Mapping[str, float | None]) -> Iterator[Path]:
        """A directory whose files become the version's weights when ``fit`` returns."""
        with ExitStack() as stack:
            directory = stack.enter_context(self._context.weights.writing())
            yield directory
            if not any(path.is_file() for path in directory.rglob("*")):
                raise WeightsError(
                    "the block of save_weights() wrote no file: write the weights into "
                    "the directory that it gives"
                )
            self.forget()
            self._written = directory, dict(metrics)
            self._stack = stack.pop_all()

    def keep(self) -> None:
        """Move what the last block wrote to the model store, after ``fit``."""
        if self._written is None:
            return
        directory, self.metrics = self._written
        context, project = self._context, self.job.of
        moment = time.strftime("%Y%m%dt%H%M%S", time.gmtime())
        self.saved = context.weights.keep(
            directory,
            store_name(context.backend, project),
            f"{moment}-{secrets.token_hex(3)}",
            {
                "backend": context.backend,
                "project": str(project),
                "job": self.job.id,
            },
            {
                "metrics": self.metrics,
                "parent": Versions(context.state).pointer(project).version,
                "label_config": context.state.read(project).get("label_config"),
            },
        )
        self._stack.close()

    def forget(self) -> None:
        """Delete what was written."""
        self._stack.close()
        self._written = None
        saved, self.saved = self.saved, None
        if saved is not None:
            try:
                self._context.weights.delete(saved.tag)
            except WeightsError as error:
                log.warning("Weights not deleted: %s job=%s", error, self.job.id)


class Trainer:
    """Runs jobs in this process.

    Args:
        source: loads the user's class.
        media: passed to model objects.
        context: shared by the runs.
    """

    def __init__(self, source: ModelSource, media: Media, context: FitContext) -> None:
        self._source = source
        self._media = media
        self._context = context
        self._state = context.state
        self._versions = Versions(context.state)

    def carry_out(self, job: Job) -> Version | None:
        """Run ``fit`` for a job, and test the version that it created.

        Returns:
            The version to promote; None if ``fit`` created none.

        Raises:
            LsmlError: with the reason in one sentence. Its cause is what user code
                raised, which may be ``SystemExit``.
        """
        model_class = self._source.load()
        if not rules_of(model_class, each_event=False).trains:
            # An event may arrive before a server has imported the class.
            self._context.report({"note": f"{model_class.__name__} has no fit"})
            return None
        parent = self._versions.active(job.of)
        state = OverlayState(self._state, job.of, parent.version if parent else None)
        run = JobRun(job, state, self._context)
        try:
            model = self._begin(model_class, state, run, parent)
            files = self._watched_files()
            state.capture()
            background = Background()
            self._fit(model, run)
            self._wait(background, run)
            state.release()
            run.keep()
            if run.saved is not None and has_own_load(model_class):
                run.note(
                    "load() is not called on a class that imports label_studio_ml: "
                    "import LabelStudioMLBase from lsml_bento to load the saved weights"
                )
            if not self._learned(run, files):
                return None
            version = self._version(run, parent)
            self._try(model_class, run, version)
        except BaseException:
            run.forget()
            raise
        finally:
            with suppress(OSError):  # there is none, or it is not empty
                self._workdir(job).rmdir()
        return version

    def _begin(
        self,
        model_class: ModelClass,
        state: OverlayState,
        run: JobRun,
        version: Version | None,
    ) -> LabelStudioMLBase:
        """The object that ``fit`` is called on.

        If the weights are missing, or do not load because the label config changed,
        training starts without them, as servers do.
        """
        if version is None or version.tag is None:
            return self._model(model_class, state, run, None)
        try:
            return self._model(model_class, state, run, version)
        except StateError:
            raise  # the job runs again, with the weights
        except LsmlError as error:
            model = self._model(model_class, state, run, None)
            note = f"began without the weights of {version.version}: {error}"
            log.warning("Fit %s job=%s project=%s", note, run.job.id, run.job.project)
            run.note(note)
            return model

    def _model(
        self,
        model_class: ModelClass,
        state: OverlayState,
        run: JobRun,
        version: Version | None,
    ) -> LabelStudioMLBase:
        """A new object with the weights of a version."""
        project = run.job.of
        label_config = self._state.read(project).get("label_config") or EMPTY
        runtime = ModelRuntime(project, state, self._media, run=run)
        try:
            with use_runtime(runtime):
                model = model_class(project_id=project.id, label_config=label_config)
                if not has_own_load(model_class):
                    model.load(self._path(version))
        except LsmlError:
            raise
        except BaseException as error:
            name = model_class.__name__
            raise TrainingError(
                f"{name} could not be set up: {locate(error)}"
            ) from error
        return model

    def _path(self, version: Version | None) -> Path | None:
        if version is None or version.tag is None:
            return None
        return self._context.weights.find(version.tag, version.manifest)

    def _fit(self, model: LabelStudioMLBase, run: JobRun) -> None:
        job = run.job
        data = JobStore(self._state).data(job.id)
        try:
            with use_runtime(model._lsml):
                others: dict[str, Any] = {}
                is_old = takes_annotations(model.fit)
                if is_old:
                    workdir = self._workdir(job)
                    workdir.mkdir(parents=True, exist_ok=True)
                    others["workdir"] = str(workdir)
                if overrides_process_event(type(model)):
                    output = model.process_event(job.event, data, job.id, others)
                else:
                    tasks = run.annotated_tasks
                    output = call_fit(
                        model.fit, job.event, data, tasks, job_id=job.id, **others
                    )
                known = run.state.read(job.of).get("train_output")
                if is_old and output and output != known:
                    run.state.write(job.of, {"train_output": output})
        except LsmlError:
            raise
        except BaseException as error:
            raise TrainingError(f"fit() raised {locate(error)}") from error

    def _wait(self, background: Background, run: JobRun) -> None:
        """Wait for what ``fit`` left running; the worker ends that at the time limit.

        Raises:
            TrainingError: if the job is stopped meanwhile.
        """
        started = time.monotonic()
        running = background.running()
        names = ", ".join(running)
        if running:
            log.info("Waiting for %s, left by fit: job=%s", names, run.job.id)
            run.note(f"fit left {names} running, and the job waited for it")
        while running:
            if self._context.should_stop:
                left = ", ".join(running)
                run.note(f"{left} was still running and was killed")
                raise TrainingError(f"the job was stopped while it waited for {left}")
            time.sleep(min(0.5, 0.02 + (time.monotonic() - started) / 10))
            running = background.running()
        directory = self._source.directory
        daemons = background.daemons_of(directory) if directory else []
        if daemons:
            run.note(
                f"{', '.join(daemons)} was still running when fit returned, and the "
                "job did not wait for it: start it without daemon=True"
            )

    def _workdir(self, job: Job) -> Path:
        """The directory that a ``fit`` of label_studio_ml 1.0 may write into."""
        base = self._context.model_dir or self._source.directory or Path()
        return base.absolute() / job.id

    def _watched_files(self) -> FileChanges | None:
        """The files that ``predict`` of a class of label_studio_ml may read."""
        if not self._source.is_drop_in:
            return None
        context = self._context
        roots = filter(None, (self._source.directory, context.model_dir))
        return FileChanges(roots, context.home, context.stores)

    def _learned(self, run: JobRun, files: FileChanges | None) -> bool:
        """Whether ``fit`` left anything that a new version would serve."""
        state = run.state
        known = self._state.read(run.job.of)
        if run.saved is not None or state.named_version is not None:
            return True
        if any(key not in known or known[key] != v for key, v in state.values.items()):
            return True
        if files is not None and files.found():
            return True
        if files is not None:
            run.note(
                "made no version: fit set nothing, saved nothing and changed no file"
            )
        return False

    def _version(self, run: JobRun, parent: Version | None) -> Version:
        """The version that a run created, to be promoted."""
        state, saved = run.state, run.saved
        project = run.job.of
        values = self._state.read(project)
        return Version(
            version=self._name(run, parent, str(values.get("model_version") or "")),
            created_at=time.time(),
            tag=saved.tag if saved else (parent.tag if parent else None),
            manifest=saved.manifest if saved else (parent.manifest if parent else {}),
            metrics=run.metrics,
            job=run.job.id,
            parent=parent.version if parent else None,
            label_config=values.get("label_config"),
            values={**(parent.values if parent else {}), **state.values},
            afresh=self._source.is_drop_in,
        )

    def _name(self, run: JobRun, parent: Version | None, base: str) -> str:
        """The name that ``fit`` set, if new; else the tag's, or the next number."""
        known = {version.version for version in self._versions.all(run.job.of)}
        named = run.state.named_version
        if named is not None and named not in {*known, base}:
            return named
        if run.saved is not None:
            return run.saved.tag.partition(":")[2]
        # Numbers of deleted versions are not used again.
        numbers = [
            int(version.removeprefix(f"{base}+"))
            for version in known
            if re.fullmatch(rf"{re.escape(base)}\+[0-9]{{1,9}}", version)
        ]
        return f"{base}+{max([len(known), *numbers]) + 1}"

    def _try(self, model_class: ModelClass, run: JobRun, version: Version) -> None:
        """Load a version as a server does, and predict a task."""
        try:
            model = self._model(model_class, run.state, run, version)
            sample = run.sample or AnnotationStore(self._state).any_task(run.job.of)
            if sample is not None:
                try_sample(model, sample)
        except StateError:
            raise
        except LsmlError as error:
            raise TrainingError(f"the new version is not served: {error}") from (
                error.__cause__ or error
            )


class OverlayState(State):
    """A project's values, overlaid with those that a running ``fit`` sets.

    Args:
        state: read from, and written to while changes are not captured.
        project: the only one whose changes are captured.
        version: returned by ``get("model_version")``; None for the base model's name.
    """

    def __init__(self, state: State, project: Project, version: str | None) -> None:
        self._state = state
        self._project = project
        self._version = version
        self._captured: dict[str, str] = {}
        self._captures = False

    def capture(self) -> None:
        """Capture what is set from now on instead of writing it."""
        self._captures = True

    def release(self) -> None:
        """Write through again; captured values can still be read."""
        self._captures = False

    @property
    def named_version(self) -> str | None:
        """The version that ``set("model_version", ..)`` named."""
        found = self._captured.get("model_version")
        return None if found is None else str(json.loads(found)) or None

    @property
    def values(self) -> dict[str, Any]:
        """The captured values, without the name of the version."""
        return {
            key: json.loads(value)
            for key, value in self._captured.items()
            if key != "model_version"
        }

    def read(self, project: Project) -> dict[str, Any]:
        """All values, including the captured ones."""
        values = self._state.read(project)
        if project != self._project:
            return values
        # Outside of fit, setup() reads this, and setup() names the base model.
        version = self.named_version or self._version
        if self._captures and version is not None:
            values["model_version"] = version
        return {**values, **self.values}

    def write(self, project: Project, values: Mapping[str, Any]) -> None:
        """Capture values, or write them."""
        if not self._captures or project != self._project:
            self._state.write(project, values)
            return
        shared = {key: value for key, value in values.items() if key in _SHARED}
        encoded = {key: encode(key, value) for key, value in values.items()}
        if shared:
            self._state.write(project, shared)
        self._captured.update({k: v for k, v in encoded.items() if k not in _SHARED})

    def get(self, key: str) -> str | None:
        return self._state.get(key)

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        return self._state.scan(prefix, after, limit)

    def change(self, work: Callable[[Change], _Answer], wait_s: float = 2.0) -> _Answer:
        return self._state.change(work, wait_s)

    def close(self) -> None:
        """Do nothing: the state below belongs to others."""
