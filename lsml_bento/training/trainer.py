"""Running ``fit`` for a job, and testing that the new version predicts.

Nothing becomes visible to other processes here. The worker promotes the version, under
the token of the run.
"""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

from lsml_bento.error_text import locate
from lsml_bento.errors import LsmlError, StateError, TrainingError
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.base_class import (
    LabelStudioMLBase,
    ModelRuntime,
    rules_of,
    use_runtime,
)
from lsml_bento.model.invoke import try_sample
from lsml_bento.model.label_config import EMPTY
from lsml_bento.model.loader import ModelClass, ModelSource
from lsml_bento.model.media import Media
from lsml_bento.training.job_run import FitContext, JobRun
from lsml_bento.training.overlay_state import OverlayState
from lsml_bento.versions.registry import Versions
from lsml_bento.versions.version import Version

log = logging.getLogger(__name__)


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
            state.capture()
            self._fit(model, job)
            state.release()
            run.keep()
            version = self._version(run, parent)
            if version is not None:
                self._try(model_class, run, version)
        except BaseException:
            run.forget()
            raise
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
            self._context.report({"note": note})
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

    def _fit(self, model: LabelStudioMLBase, job: Job) -> None:
        data = JobStore(self._state).data(job.id)
        try:
            with use_runtime(model._lsml):
                model.fit(job.event, data, job_id=job.id)
        except LsmlError:
            raise
        except BaseException as error:
            raise TrainingError(f"fit() raised {locate(error)}") from error

    def _version(self, run: JobRun, parent: Version | None) -> Version | None:
        """The version that a run created, to be promoted."""
        state, saved = run.state, run.saved
        is_silent = saved is None and not state.values and not state.named_version
        if is_silent and not self._source.is_drop_in:
            return None
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
