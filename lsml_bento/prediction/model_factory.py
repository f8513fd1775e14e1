"""Making one model object: the class, its setup, and the weights of a version."""

from __future__ import annotations

import json
import logging
import threading
import traceback
import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

from lsml_bento.contract import Project, Task
from lsml_bento.error_text import locate
from lsml_bento.errors import LsmlError, ModelSetupError, StateError, WeightsError
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.model.base_class import LabelStudioMLBase, Surroundings, surrounded_by
from lsml_bento.model.invoke import try_sample
from lsml_bento.model.loader import ModelClass, ModelSource
from lsml_bento.model.media import Media
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Versions
from lsml_bento.versions.version import Version
from lsml_bento.versions.weights import Weights

log = logging.getLogger(__name__)


to_key = json.JSONEncoder(sort_keys=True).encode
"""JSON that is equal for equal values."""


class ModelKey(NamedTuple):
    """What a model object is made for; another one is made when a part changes."""

    project: Project
    label_config: str
    extra_params: str
    """As JSON."""
    version: str | None = None
    """None for the base."""

    @classmethod
    def of(
        cls,
        project: Project,
        label_config: str,
        extra_params: Any,
        version: str | None = None,
    ) -> ModelKey:
        """The key for values as they stand in state."""
        return cls(project, label_config, to_key(extra_params), version)


class _Loaded(dict[str, Any]):
    """What ``load`` set on an object; lives as long as an object that uses it."""


class ModelFactory:
    """Makes model objects.

    Args:
        source: where the class comes from.
        state: given to the objects.
        media: given to the objects.
        weights: where those of versions are; None where there are no versions.
        shares: whether what ``load`` set may be set on several objects.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        media: Media,
        weights: Weights | None,
        *,
        shares: bool,
    ) -> None:
        self._source = source
        self._state = state
        self._media = media
        self._weights = weights
        self._shares = shares
        self._versions = Versions(state)
        self._journal = AnnotationStore(state)
        self._loading = threading.Lock()
        self._shared: weakref.WeakValueDictionary[Hashable, _Loaded] = (
            weakref.WeakValueDictionary()
        )

    @property
    def name(self) -> str:
        """The name of the user's class."""
        return self._source.name

    def load_class(self) -> ModelClass:
        """The user's class.

        Raises:
            ModelImportError: if it does not import.
        """
        return self._source.load()

    def load_class_afresh(self) -> ModelClass:
        """The user's class, of modules imported anew.

        Raises:
            ModelImportError: if it does not import any more; the old one stays.
        """
        return self._source.load_afresh()

    def is_in_use(self, key: ModelKey) -> bool:
        """Whether the project has the key's label config and extra params now.

        Raises:
            StateError: if the state did not answer.
        """
        values = self._state.read(key.project)
        label_config = values.get("label_config") or key.label_config
        params = values.get("extra_params")
        return key == ModelKey.of(key.project, label_config, params, key.version)

    def make(self, key: ModelKey, sample: Task | None = None) -> LabelStudioMLBase:
        """A new object for a key, with the weights of its version.

        Args:
            key: the key.
            sample: a task that it must predict.

        Raises:
            LsmlError: if the class does not import, the object can not be made, or does
                not predict.
        """
        model = self._make(key, self._version(key))
        if sample is not None:
            try_sample(model, sample)
        return model

    def make_or_base(self, key: ModelKey) -> tuple[LabelStudioMLBase, bool]:
        """A new object of the key's version, or of the base if that one is no good.

        Returns:
            The object, and whether it is the base's for a reason that may go away by
            itself: the version was made for the key's label config.

        Raises:
            LsmlError: as ``make``, for the base.
            StateError: if the state did not answer.
        """
        version: Version | None = None
        is_foreign = False
        try:
            version = self._version(key)
            is_foreign = version is not None and version.label_config not in (
                None,
                key.label_config,
            )
            model = self._make(key, version)
            sample = self._journal.any_task(key.project) if is_foreign else None
            if sample is not None:
                try_sample(model, sample)
        except StateError:
            raise  # it says nothing about the version
        except LsmlError as error:
            if key.version is None:
                raise
            log.error(
                "version %s of project=%s is not served: %s; the base serves%s",
                key.version,
                key.project,
                error,
                " until the next fit" if is_foreign else "",
                exc_info=error.__cause__,
            )
            return self._make(key, None), not is_foreign
        return model, False

    def _version(self, key: ModelKey) -> Version | None:
        if key.version is None:
            return None
        return self._versions.find(key.project, key.version)

    def _make(self, key: ModelKey, version: Version | None) -> LabelStudioMLBase:
        model_class = self._source.load()
        try:
            model = self._construct(model_class, key, version)
        except LsmlError:
            raise
        except BaseException as error:
            # User code may raise SystemExit, which must not end the server.
            if isinstance(error, KeyboardInterrupt):
                raise
            if version is None:  # else whoever asked tells what serves in its place
                log.error(
                    "setup failed: %s project=%s",
                    self.name,
                    key.project,
                    exc_info=error,
                )
            # The error is kept for a while; what the frames hold, weights, must not be.
            traceback.clear_frames(error.__traceback__)
            raise ModelSetupError(
                f"{self.name} could not be set up: {locate(error)}"
            ) from error
        named = f" version={version.version}" if version else ""
        log.info("model made: %s project=%s%s", self.name, key.project, named)
        return model

    def _construct(
        self, model_class: ModelClass, key: ModelKey, version: Version | None
    ) -> LabelStudioMLBase:
        surroundings = Surroundings(
            key.project, self._state, self._media, version.version if version else None
        )
        with surrounded_by(surroundings):
            model = model_class(
                project_id=key.project.id, label_config=key.label_config
            )
            self._load(model, version)
        return model

    def _load(self, model: LabelStudioMLBase, version: Version | None) -> None:
        """Call ``load``, or set what it set on an object of the same weights."""
        # By version, not by tag: load may read what fit set, beside its weights.
        named = (str(model.surroundings.project), version.version) if version else ()
        shared = type(model), named
        may_share = model.share_loaded and (model.thread_safe or self._shares)
        with self._loading:
            loaded = self._shared.get(shared) if may_share else None
            if loaded is None:
                loaded = _Loaded(_changes(model, self._path(version)))
            # A load that sets nothing fills what setup() made: each object needs it.
            if may_share and loaded:
                self._shared[shared] = loaded
        model.__dict__.update(loaded, _lsml_loaded=loaded)

    def _path(self, version: Version | None) -> Path | None:
        if version is None or version.tag is None:
            return None
        if self._weights is None:
            raise WeightsError(f"no model store is set to find {version.tag} in")
        return self._weights.find(version.tag, version.manifest)


def _changes(model: LabelStudioMLBase, weights: Path | None) -> dict[str, Any]:
    before = dict(vars(model))
    model.load(weights)
    absent = object()
    return {
        name: value
        for name, value in vars(model).items()
        if before.get(name, absent) is not value
    }
