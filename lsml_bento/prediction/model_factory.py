"""Makes one model object from the class, its setup and the weights of a version."""

from __future__ import annotations

import json
import logging
import threading
import traceback
import weakref
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

from lsml_bento.contract import Project, Task
from lsml_bento.error_text import locate
from lsml_bento.errors import LsmlError, ModelSetupError, StateError, WeightsError
from lsml_bento.model.base_class import LabelStudioMLBase, ModelRuntime, use_runtime
from lsml_bento.model.invoke import try_sample
from lsml_bento.model.loader import ModelClass, ModelSource, has_own_load
from lsml_bento.model.media import Media
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Version, Versions
from lsml_bento.versions.weights import Weights

log = logging.getLogger(__name__)

to_key = json.JSONEncoder(sort_keys=True).encode
"""JSON that is equal for equal values."""


class ModelKey(NamedTuple):
    """What a model object is made for, besides its version."""

    project: Project
    label_config: str
    extra_params: str
    """As ``to_key`` renders them."""


class _Loaded(dict[str, Any]):
    """What ``load`` set on an object; freed with the last object that uses it."""


class ModelFactory:
    """Makes model objects; for its arguments see ``ModelPool``.

    What ``load`` set on an object may be set on others too if ``shares`` is true.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        media: Media,
        weights: Weights | None,
        any_task: Callable[[Project], Task | None],
        *,
        shares: bool,
    ) -> None:
        self._source = source
        self._state = state
        self._media = media
        self._weights = weights
        self._any_task = any_task
        self._shares = shares
        self._versions = Versions(state)
        self._loading = threading.Lock()
        self._shared: weakref.WeakValueDictionary[Hashable, _Loaded] = (
            weakref.WeakValueDictionary()
        )

    def is_in_use(self, key: ModelKey) -> bool:
        """Whether the project has the key's label config and extra params now.

        Raises:
            StateError: if the state did not answer.
        """
        values = self._state.read(key.project)
        label_config = values.get("label_config") or key.label_config
        params = to_key(values.get("extra_params"))
        return key == ModelKey(key.project, label_config, params)

    def make(
        self, key: ModelKey, version: str | None, sample: Task | None = None
    ) -> LabelStudioMLBase:
        """Make an object for a key, with the weights of a version.

        Args:
            key: the key.
            version: None for the base.
            sample: a task that the object must predict.

        Raises:
            LsmlError: if the class does not import, the object cannot be made, or it
                does not predict the sample.
        """
        model = self._make(key, self._find(key, version))
        if sample is not None:
            try_sample(model, sample)
        return model

    def make_or_base(
        self, key: ModelKey, version: str | None
    ) -> tuple[LabelStudioMLBase, bool]:
        """Make an object of a version, or of the base if the version fails.

        Returns:
            The object, and whether it is the base's only until the version loads. A
            version that was made for another label config is not tried again.

        Raises:
            LsmlError: as ``make``, for the base.
            StateError: if the state did not answer.
        """
        is_foreign = False
        try:
            found = self._find(key, version)
            known = (None, key.label_config)
            is_foreign = found is not None and found.label_config not in known
            model = self._make(key, found)
            sample = self._any_task(key.project) if is_foreign else None
            if sample is not None:
                try_sample(model, sample)
        except StateError:
            raise  # it says nothing about the version
        except LsmlError as error:
            if version is None:
                raise
            log.error(
                "Version not served: project=%s version=%s: %s; the base serves%s",
                key.project,
                version,
                error,
                " until the next fit" if is_foreign else "",
                exc_info=error.__cause__,
            )
            return self._make(key, None), not is_foreign
        return model, False

    def _find(self, key: ModelKey, version: str | None) -> Version | None:
        return None if version is None else self._versions.find(key.project, version)

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
            name = self._source.name
            if version is None:  # otherwise the caller logs what serves instead
                log.error(
                    "Setup failed: %s project=%s", name, key.project, exc_info=error
                )
            # The error is kept for a while. The weights in its frames must not be.
            traceback.clear_frames(error.__traceback__)
            raise ModelSetupError(
                f"{name} could not be set up: {locate(error)}"
            ) from error
        named = f" version={version.version}" if version else ""
        log.info("Model made: %s project=%s%s", self._source.name, key.project, named)
        return model

    def _construct(
        self, model_class: ModelClass, key: ModelKey, version: Version | None
    ) -> LabelStudioMLBase:
        runtime = ModelRuntime(
            key.project, self._state, self._media, version.version if version else None
        )
        with use_runtime(runtime):
            model = model_class(
                project_id=key.project.id, label_config=key.label_config
            )
            if not has_own_load(model_class):
                self._load(model, version)
        return model

    def _load(self, model: LabelStudioMLBase, version: Version | None) -> None:
        """Call ``load``, or set what it set on an object of the same weights."""
        # By version, not by tag: load may also read values that fit set.
        named = (str(model._lsml.project), version.version) if version else ()
        shared = type(model), named
        may_share = model.share_loaded and (model.thread_safe or self._shares)
        with self._loading:
            loaded = self._shared.get(shared) if may_share else None
            if loaded is None:
                loaded = _Loaded(_changes(model, self._path(version)))
            # A load() that sets nothing fills what setup() made, in each object.
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
