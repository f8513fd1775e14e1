"""Keeps the model objects, and says which version of each project serves.

There is one entry for each project, label config, extra params and model version.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum

from lsml_bento.contract import Project, Task
from lsml_bento.errors import LsmlError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import RETRY_AFTER_S, ModelSource
from lsml_bento.model.media import Media
from lsml_bento.prediction.model_factory import ModelFactory, ModelKey
from lsml_bento.state.store import State
from lsml_bento.versions.registry import Versions
from lsml_bento.versions.weights import Weights

log = logging.getLogger(__name__)


class _Holds(Enum):
    """What the objects of an entry are."""

    NOTHING = "no object was made yet"
    VERSION = "objects of the entry's version"
    STAND_IN = "objects of the base, until the version loads"
    BASE = "objects of the base: the version fails with this label config"


@dataclass
class _Entry:
    """The objects of one key and version: one per concurrent call, or one for all.

    An entry whose version does not serve is dropped when its last user leaves.

    Attributes:
        users: how many threads use an object or make one.
        sample: a task that was predicted, to test another version with.
    """

    key: ModelKey
    version: str | None
    holds: _Holds = _Holds.NOTHING
    idle: list[LabelStudioMLBase] = field(default_factory=list)
    users: int = 0
    making: threading.Lock = field(default_factory=threading.Lock)
    failure: tuple[float, LsmlError] | None = None
    sample: Task | None = None

    @property
    def own_version(self) -> str | None:
        """The version that the objects really are, None for the base."""
        return self.version if self.holds is _Holds.VERSION else None


class ModelPool:
    """Keeps model objects; no two threads use one at the same time.

    Args:
        source: where the class comes from.
        state: given to the objects; says which version a project starts with.
        media: given to the objects.
        weights: where the versions' weights are; None where there are no versions.
        any_task: a task of a project, to test a version with that was made for another
            label config; None if no task is known.
        max_models: entries kept; the least recently used is dropped first.
        max_objects: maximum number of objects per entry, and of concurrent calls.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        media: Media,
        weights: Weights | None = None,
        any_task: Callable[[Project], Task | None] = lambda _: None,
        *,
        max_models: int = 8,
        max_objects: int = 1,
    ) -> None:
        self._source = source
        self._versions = Versions(state)
        self._factory = ModelFactory(
            source, state, media, weights, any_task, shares=max_objects == 1
        )
        self._max_models = max_models
        self._served: dict[Project, str | None] = {}
        self._entries: OrderedDict[tuple[ModelKey, str | None], _Entry] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def initial_version(self) -> str:
        """The version of objects that do not set one.

        Raises:
            ModelImportError: if the class does not import.
        """
        return self._source.load().INITIAL_MODEL_VERSION

    # Which version serves

    def version(self, project: Project) -> str | None:
        """The version that serves a project in this process, None for the base.

        Raises:
            StateError: if the state did not answer at a project's first request.
        """
        if project in self._served:
            return self._served[project]
        version = self._versions.pointer(project).version
        return self._served.setdefault(project, version)

    def versions(self) -> dict[Project, str | None]:
        """The version that serves each project requested so far, None for the base."""
        return dict(self._served)

    def has_stand_in(self, project: Project) -> bool:
        """Whether the base serves a project until its version loads.

        Raises:
            StateError: if the state did not answer.
        """
        with self._lock:
            keys = [e.key for e in self._serving(project) if e.holds is _Holds.STAND_IN]
        return any(map(self._factory.is_in_use, keys))

    def has_old_objects(self) -> bool:
        """Whether a thread still uses objects of a version that no longer serves."""
        with self._lock:
            return not all(map(self._serves, self._entries.values()))

    def serve(
        self, project: Project, version: str | None, *, reload: bool = False
    ) -> None:
        """Let another version serve, once its objects are made and tested.

        The old objects answer until then. Objects for a label config or extra params
        that the project no longer uses are made on request.

        Args:
            project: one that ``version`` was asked for.
            version: None for the base.
            reload: import the class again first.

        Raises:
            LsmlError: if an object cannot be made or does not predict. The old version
                still serves.
        """
        if reload:
            self._source.reload()
        with self._lock:
            made = [e for e in self._serving(project) if e.holds is not _Holds.NOTHING]
        with ExitStack() as held:
            for old in [e for e in made if self._factory.is_in_use(e.key)]:
                entry = held.enter_context(self._held(old.key, version))
                self._make_version(entry, old.sample)
            with self._lock:
                self._served[project] = version
                for entry in list(self._entries.values()):
                    if not entry.users and not self._serves(entry):
                        self._drop(entry)

    # Objects

    @contextmanager
    def use(self, key: ModelKey) -> Iterator[tuple[LabelStudioMLBase, str | None]]:
        """An object of the version that serves, and the version it really is.

        It is made if none is free. The version is None for the base, which also serves
        in place of a version that does not load.

        Raises:
            LabelConfigError: if the key's label config does not parse.
            ModelImportError: if the class does not import.
            ModelSetupError: if making the object failed.
            StateError: if the state did not answer.
        """
        with self._held(key, self.version(key.project), serving=True) as entry:
            model = self._take(entry)
            try:
                yield model, model._lsml.version
            finally:
                self._keep(entry, model)

    def ensure(self, key: ModelKey) -> str | None:
        """Make an object of the version that serves, unless one was made.

        Returns:
            The version that it really is, None for the base.

        Raises:
            LsmlError: as ``use``.
        """
        with self._held(key, self.version(key.project), serving=True) as entry:
            with entry.making:
                if entry.holds is _Holds.NOTHING:
                    # Kept under the lock, so that a waiting thread finds this object.
                    self._keep(entry, self._make_once(entry))
            return entry.own_version

    def is_made(self, key: ModelKey) -> bool:
        """Whether an object of the version that serves was made; it counts as used.

        Raises:
            StateError: if the state did not answer at a project's first request.
        """
        version = self.version(key.project)
        with self._lock:
            entry = self._entries.get((key, version))
            if entry is None or entry.holds is _Holds.NOTHING:
                return False
            self._entries.move_to_end((key, version))
            return True

    def remember(self, key: ModelKey, task: Task) -> None:
        """Keep a task that was predicted, to test another version with."""
        with self._lock:
            entry = self._entries.get((key, self._served.get(key.project)))
            if entry is not None:
                entry.sample = task

    # Entries. The caller of these methods holds the lock, except for ``_held``.

    def _serving(self, project: Project) -> list[_Entry]:
        entries = self._entries.values()
        return [e for e in entries if e.key.project == project and self._serves(e)]

    def _serves(self, entry: _Entry) -> bool:
        return entry.version == self._served.get(entry.key.project)

    def _drop(self, entry: _Entry) -> None:
        self._entries.pop((entry.key, entry.version), None)

    @contextmanager
    def _held(
        self, key: ModelKey, version: str | None, *, serving: bool = False
    ) -> Iterator[_Entry]:
        """An entry that is not dropped while the block runs.

        Args:
            key: the entry's key.
            version: the entry's version.
            serving: whether ``version`` was read without the lock. If another version
                serves by now, that version's entry is used.
        """
        with self._lock:
            if serving:
                version = self._served[key.project]
            entry = self._entries.get((key, version))
            if entry is None:
                entry = self._entries[key, version] = _Entry(key, version)
            self._entries.move_to_end((key, version))
            entry.users += 1
        try:
            yield entry
        finally:
            with self._lock:
                entry.users -= 1
                if not entry.users and not self._serves(entry):
                    self._drop(entry)
                elif len(self._entries) > self._max_models:
                    self._evict()

    def _evict(self) -> None:
        """Drop the least recently used entries that have no user."""
        serving = [entry for entry in self._entries.values() if self._serves(entry)]
        free = [entry for entry in serving if not entry.users]
        # Entries that failed go first: a broken label config evicts no model.
        free.sort(key=lambda entry: entry.holds is not _Holds.NOTHING)
        for entry in free[: max(0, len(serving) - self._max_models)]:
            self._drop(entry)

    # Objects of an entry. The caller does not hold the lock.

    def _take(self, entry: _Entry) -> LabelStudioMLBase:
        if (model := self._take_idle(entry)) is not None:
            return model
        # A thread that arrives while the first object is made waits for that object.
        with entry.making:
            if (model := self._take_idle(entry)) is not None:
                return model
            return self._make_once(entry)

    def _take_idle(self, entry: _Entry) -> LabelStudioMLBase | None:
        with self._lock:
            if not entry.idle:
                return None
            return entry.idle[-1] if entry.idle[-1].thread_safe else entry.idle.pop()

    def _keep(self, entry: _Entry, model: LabelStudioMLBase) -> None:
        with self._lock:
            # A base that stood in for a version is dropped once that version is made.
            is_old = model._lsml.version != entry.own_version
            if not is_old and not any(other is model for other in entry.idle):
                entry.idle.append(model)

    def _make_once(self, entry: _Entry) -> LabelStudioMLBase:
        """Make an object, unless that failed a moment ago."""
        now = time.monotonic()
        if entry.failure and now - entry.failure[0] < RETRY_AFTER_S:
            raise entry.failure[1].with_traceback(None)
        entry.failure = None
        try:
            model, is_stand_in = self._factory.make_or_base(entry.key, entry.version)
        except LsmlError as error:
            entry.failure = (time.monotonic(), error)
            raise
        if model._lsml.version == entry.version:
            entry.holds = _Holds.VERSION
        else:
            entry.holds = _Holds.STAND_IN if is_stand_in else _Holds.BASE
        if model.thread_safe:
            self._keep(entry, model)
        return model

    def _make_version(self, entry: _Entry, sample: Task | None) -> None:
        """Make an object of the entry's version, and test it with a sample."""
        with entry.making:
            if entry.holds is _Holds.VERSION:
                return
            model = self._factory.make(entry.key, entry.version, sample)
            entry.idle.clear()
            entry.holds, entry.sample, entry.failure = _Holds.VERSION, sample, None
            self._keep(entry, model)
