"""Model objects, made once and kept.

One per project, label config, extra params and model version.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lsml_bento.contract import Project, Task
from lsml_bento.errors import LsmlError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import RETRY_AFTER_S, ModelSource
from lsml_bento.model.media import Media
from lsml_bento.prediction.model_factory import ModelFactory, ModelKey
from lsml_bento.state.store import State
from lsml_bento.versions.weights import Weights

log = logging.getLogger(__name__)

Renew = Callable[[ModelKey], ModelKey]
"""The key to use in place of one whose objects have gone; the same if they have not."""


@dataclass
class _Entry:
    """The objects of one key: as many as ran at a time, one if it is thread-safe."""

    idle: list[LabelStudioMLBase] = field(default_factory=list)
    made: bool = False
    """Whether an object was made, though it may be lent at the moment."""
    borrowed: int = 0
    making: threading.Lock = field(default_factory=threading.Lock)
    failure: tuple[float, LsmlError] | None = None
    version: str | None = None
    """What the objects really are: None where a version could not be loaded."""
    lack: bool = False
    """Whether they are the base's for a reason that may go away by itself."""
    sample: Task | None = None
    """A task that was predicted, to try another version with."""
    spare: bool = False
    """Whether the version does not serve yet: no other key goes for it."""
    retired: bool = False
    """Whether another version serves: it goes when nobody holds an object."""

    @property
    def takes_place(self) -> bool:
        return not self.spare and not self.retired


class ModelPool:
    """Hands out model objects; no two threads hold one at a time.

    Args:
        source: where the class comes from.
        state: given to the objects.
        media: given to the objects.
        weights: where those of versions are; None where there are no versions.
        max_models: keys kept; the least recently used goes first.
        max_objects: objects of one key at most, the number of calls at a time.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        media: Media,
        weights: Weights | None = None,
        *,
        max_models: int = 8,
        max_objects: int = 1,
    ) -> None:
        self._maker = ModelFactory(
            source, state, media, weights, shares=max_objects == 1
        )
        self._max_models = max_models
        self._max_objects = max_objects
        self._entries: OrderedDict[ModelKey, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The name of the user's class."""
        return self._maker.name

    def __len__(self) -> int:
        """How many keys have objects."""
        return len(self._entries)

    @property
    def initial_version(self) -> str:
        """The version of objects that name none.

        Raises:
            ModelImportError: if the class does not import.
        """
        return self._maker.load_class().INITIAL_MODEL_VERSION

    def is_made(self, key: ModelKey) -> bool:
        """Whether there is an object for a key; it counts as used."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or not entry.made:
                return False
            self._entries.move_to_end(key)
            return True

    def ensure(self, key: ModelKey, renew: Renew = lambda key: key) -> None:
        """Make the first object for a key, unless it was made and may be lent.

        Raises:
            LsmlError: as ``borrow``.
        """
        key, entry = self._enter(key, renew)
        try:
            with entry.making:
                if not entry.made:
                    # Kept before the next one may make: it shall find this object.
                    self._keep(entry, self._make_once(entry, key))
        finally:
            self._leave(key, entry)

    def version_of(self, key: ModelKey) -> str | None:
        """The version that the objects of a key really are, None for the base."""
        with self._lock:
            entry = self._entries.get(key)
            return key.version if entry is None else entry.version

    def remember(self, key: ModelKey, task: Task) -> None:
        """Keep a task that was predicted, to try another version with."""
        with self._lock:
            if (entry := self._entries.get(key)) is not None:
                entry.sample = task

    def lacks(self, project: Project, version: str | None) -> bool:
        """Whether the base stands in for a version that may be had some time."""
        with self._lock:
            lacking = [
                key
                for key, entry in self._entries.items()
                if (key.project, key.version) == (project, version) and entry.lack
            ]
        return any(self._maker.is_in_use(key) for key in lacking)

    def replace(self, project: Project, old: str | None, new: str | None) -> None:
        """Make objects of a version beside those of another, and try them.

        Those of a label config, or of extra params, that the project had before are
        made when they are asked for.

        Raises:
            LsmlError: if one can not be made, or does not predict; the old ones stay.
        """
        with self._lock:
            keys = {
                key._replace(version=new): entry.sample
                for key, entry in self._entries.items()
                if (key.project, key.version) == (project, old) and entry.made
            }
        for key in filter(self._maker.is_in_use, keys):
            self._ensure_whole(key, keys[key], spare=new != old)

    def settle(self, project: Project, version: str | None) -> None:
        """Let a project's other versions go, those in use as soon as they are free."""
        with self._lock:
            for key, entry in list(self._entries.items()):
                if key.project != project:
                    continue
                entry.spare, entry.retired = False, key.version != version
                if entry.retired and not entry.borrowed:
                    del self._entries[key]

    def reload(self) -> None:
        """Load the class afresh, for objects made from now on.

        Raises:
            ModelImportError: if it does not import any more; the old one stays.
        """
        self._maker.load_class_afresh()

    def _ensure_whole(self, key: ModelKey, sample: Task | None, *, spare: bool) -> None:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            entry.borrowed += 1
            entry.spare, entry.retired = entry.spare or spare, False
        try:
            with entry.making:
                if entry.made and entry.version == key.version:
                    return
                model = self._maker.make(key, sample)
                entry.idle.clear()
                entry.made, entry.version, entry.sample = True, key.version, sample
                entry.failure, entry.lack = None, False
                self._keep(entry, model)
        finally:
            self._leave(key, entry)

    @contextmanager
    def borrow(
        self, key: ModelKey, renew: Renew = lambda key: key
    ) -> Iterator[LabelStudioMLBase]:
        """An object for the key, made if there is none that is free.

        Args:
            key: of the object.
            renew: asked where no object of the key was made.

        Raises:
            LabelConfigError: if the key's label config does not parse.
            ModelImportError: if the class does not import.
            ModelSetupError: if making the object failed.
            StateError: if the state did not answer.
        """
        key, entry = self._enter(key, renew)
        model: LabelStudioMLBase | None = None
        try:
            model = self._take(entry, key)
            yield model
        finally:
            if model is not None:
                self._keep(entry, model)
            self._leave(key, entry)

    def _enter(self, key: ModelKey, renew: Renew) -> tuple[ModelKey, _Entry]:
        """Hold an entry. A version that is still to serve now is retired after it."""
        while True:
            with self._lock:
                entry = self._entries.setdefault(key, _Entry())
                self._entries.move_to_end(key)
                entry.borrowed += 1
            newer = key if entry.made else renew(key)
            if newer == key:
                return key, entry
            # A swap came between, and let the objects of this key go.
            entry.retired = True
            self._leave(key, entry)
            key = newer

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
            model, lack = self._maker.make_or_base(key)
        except LsmlError as error:
            entry.failure = (time.monotonic(), error)
            raise
        entry.made, entry.version, entry.lack = True, model.surroundings.version, lack
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
            # A base that stood in for a version goes when that one has come.
            is_old = model.surroundings.version != entry.version
            if not is_old and not any(other is model for other in entry.idle):
                entry.idle.append(model)

    def _leave(self, key: ModelKey, entry: _Entry) -> None:
        with self._lock:
            entry.borrowed -= 1
            if entry.retired and not entry.borrowed:
                if self._entries.get(key) is entry:
                    del self._entries[key]
                return
            places = {k: e for k, e in self._entries.items() if e.takes_place}
            free = [k for k, other in places.items() if not other.borrowed]
            # Keys that failed go first: a broken label config evicts no model.
            free.sort(key=lambda k: places[k].made)
            for oldest in free[: max(0, len(places) - self._max_models)]:
                del self._entries[oldest]
