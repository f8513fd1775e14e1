"""Model objects, made once and kept: one per project, label config and extra params."""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lsml_bento.errors import LsmlError, ModelSetupError
from lsml_bento.media import Media
from lsml_bento.model import LabelStudioMLBase, Surroundings, surrounded_by
from lsml_bento.source import RETRY_AFTER_S, ModelClass, ModelSource, locate
from lsml_bento.state import State
from lsml_bento.types import Project

log = logging.getLogger(__name__)


to_key = json.JSONEncoder(sort_keys=True).encode
"""JSON that is equal for equal values."""


class ModelKey(NamedTuple):
    """What a model object is made for; another one is made when a part changes."""

    project: Project
    label_config: str
    extra_params: str
    """As JSON."""

    @classmethod
    def of(cls, project: Project, label_config: str, extra_params: Any) -> ModelKey:
        """The key for values as they stand in state."""
        return cls(project, label_config, to_key(extra_params))


class _Loaded(dict[str, Any]):
    """What ``load`` set on an object; lives as long as an object that uses it."""


@dataclass
class _Entry:
    """The objects of one key: as many as ran at a time, one if it is thread-safe."""

    idle: list[LabelStudioMLBase] = field(default_factory=list)
    made: bool = False
    """Whether an object was made, though it may be lent at the moment."""
    borrowed: int = 0
    making: threading.Lock = field(default_factory=threading.Lock)
    failure: tuple[float, LsmlError] | None = None


class Models:
    """Hands out model objects; no two threads hold one at a time.

    Args:
        source: where the class comes from.
        state: given to the objects.
        media: given to the objects.
        max_models: keys kept; the least recently used goes first.
        max_objects: objects of one key at most, the number of calls at a time.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        media: Media,
        *,
        max_models: int = 8,
        max_objects: int = 1,
    ) -> None:
        self._source = source
        self._state = state
        self._media = media
        self._max_models = max_models
        self._max_objects = max_objects
        self._entries: OrderedDict[ModelKey, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._shared: weakref.ref[_Loaded] | None = None

    @property
    def name(self) -> str:
        """The name of the user's class."""
        return self._source.name

    def __len__(self) -> int:
        """How many keys have objects."""
        return len(self._entries)

    @property
    def initial_version(self) -> str:
        """The version of objects that name none.

        Raises:
            ModelImportError: if the class does not import.
        """
        return self._source.load().INITIAL_MODEL_VERSION

    def is_made(self, key: ModelKey) -> bool:
        """Whether there is an object for a key; it counts as used."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or not entry.made:
                return False
            self._entries.move_to_end(key)
            return True

    def ensure(self, key: ModelKey) -> None:
        """Make the first object for a key, unless it was made and may be lent.

        Raises:
            LsmlError: as ``borrow``.
        """
        entry = self._enter(key)
        try:
            with entry.making:
                if not entry.made:
                    # Kept before the next one may make: it shall find this object.
                    self._keep(entry, self._make_once(entry, key))
        finally:
            self._leave(key, entry)

    @contextmanager
    def borrow(self, key: ModelKey) -> Iterator[LabelStudioMLBase]:
        """An object for the key, made if there is none that is free.

        Raises:
            LabelConfigError: if the key's label config does not parse.
            ModelImportError: if the class does not import.
            ModelSetupError: if making the object failed.
            StateError: if the state did not answer.
        """
        entry = self._enter(key)
        model: LabelStudioMLBase | None = None
        try:
            model = self._take(entry, key)
            yield model
        finally:
            if model is not None:
                self._keep(entry, model)
            self._leave(key, entry)

    def _enter(self, key: ModelKey) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            entry.borrowed += 1
            return entry

    def _take(self, entry: _Entry, key: ModelKey) -> LabelStudioMLBase:
        if (model := self._take_idle(entry)) is not None:
            return model
        # Who comes while another thread makes the first object waits for that one.
        with entry.making:
            if (model := self._take_idle(entry)) is not None:
                return model
            return self._make_once(entry, key)

    def _make_once(self, entry: _Entry, key: ModelKey) -> LabelStudioMLBase:
        """Make an object, unless that failed a moment ago."""
        now = time.monotonic()
        if entry.failure and now - entry.failure[0] < RETRY_AFTER_S:
            raise entry.failure[1].with_traceback(None)
        entry.failure = None
        try:
            model = self._make(key)
        except LsmlError as error:
            entry.failure = (time.monotonic(), error)
            raise
        entry.made = True
        if model.thread_safe:
            self._keep(entry, model)
        return model

    def _take_idle(self, entry: _Entry) -> LabelStudioMLBase | None:
        with self._lock:
            if not entry.idle:
                return None
            return entry.idle[-1] if entry.idle[-1].thread_safe else entry.idle.pop()

    def _keep(self, entry: _Entry, model: LabelStudioMLBase) -> None:
        with self._lock:
            if not any(other is model for other in entry.idle):
                entry.idle.append(model)

    def _leave(self, key: ModelKey, entry: _Entry) -> None:
        with self._lock:
            entry.borrowed -= 1
            free = [k for k, other in self._entries.items() if not other.borrowed]
            # Keys that failed go first: a broken label config evicts no model.
            free.sort(key=lambda k: self._entries[k].made)
            for oldest in free[: max(0, len(self._entries) - self._max_models)]:
                del self._entries[oldest]

    def _make(self, key: ModelKey) -> LabelStudioMLBase:
        model_class = self._source.load()
        try:
            model = self._construct(model_class, key)
        except LsmlError:
            raise
        except BaseException as error:
            # User code may raise SystemExit, which must not end the server.
            if isinstance(error, KeyboardInterrupt):
                raise
            log.error(
                "setup failed: %s project=%s", self.name, key.project, exc_info=error
            )
            # The error is kept for a while; what the frames hold, weights, must not be.
            traceback.clear_frames(error.__traceback__)
            raise ModelSetupError(
                f"{self.name} could not be set up: {locate(error)}"
            ) from error
        log.info("model made: %s project=%s", self.name, key.project)
        return model

    def _construct(self, model_class: ModelClass, key: ModelKey) -> LabelStudioMLBase:
        with surrounded_by(Surroundings(key.project, self._state, self._media)):
            model = model_class(
                project_id=key.project.id, label_config=key.label_config
            )
        self._load(model)
        return model

    def _load(self, model: LabelStudioMLBase) -> None:
        """Call ``load``, or set what it set on an object of the same weights."""
        may_share = model.share_loaded and (model.thread_safe or self._max_objects == 1)
        with self._loading:
            loaded = self._shared() if self._shared and may_share else None
            if loaded is None:
                loaded = _Loaded(_changes(model))
            # A load that sets nothing fills what setup() made: each object needs it.
            if may_share and loaded:
                self._shared = weakref.ref(loaded)
        model.__dict__.update(loaded, _lsml_loaded=loaded)


def _changes(model: LabelStudioMLBase) -> dict[str, Any]:
    before = dict(vars(model))
    model.load(None)
    absent = object()
    return {
        name: value
        for name, value in vars(model).items()
        if before.get(name, absent) is not value
    }
