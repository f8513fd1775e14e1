"""One call of the user's ``predict``: a batch of tasks in, one slot per task out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lsml_bento.contract import Context, Project, Task
from lsml_bento.errors import StateError
from lsml_bento.model.invoke import Slot, call, render
from lsml_bento.model.label_config import EMPTY
from lsml_bento.prediction.model_factory import ModelKey, to_key
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.state.store import State

log = logging.getLogger(__name__)

_KNOWN = 1_000
"""Projects whose values are kept for when the state is unavailable."""

_RESERVED = frozenset({"self", "tasks", "context", "helper"})


@dataclass(frozen=True)
class Group:
    """What tasks must have in common to share a call.

    Attributes:
        label_config: None for the last known one of the project.
        params: entries of Label Studio's ``params`` except the context.
        context: of an annotator who waits; such a group is never shared.
    """

    project: Project
    label_config: str | None
    params_key: str
    params: dict[str, Any] = field(compare=False)
    context: Context | None = field(default=None, compare=False)

    @classmethod
    def for_request(
        cls,
        project: Project,
        label_config: str | None,
        params: dict[str, Any],
        context: Context | None,
    ) -> Group:
        """The group of a request's tasks."""
        others = {k: v for k, v in params.items() if k not in _RESERVED}
        return cls(project, label_config, to_key(others), others, context)


class Predictor:
    """Finds the model object for a group and calls its ``predict``."""

    def __init__(self, pool: ModelPool, state: State) -> None:
        self._pool = pool
        self._state = state
        self._known: dict[Project, dict[str, Any]] = {}
        self._is_away = False
        self._lock = threading.Lock()

    def prepare(self, project: Project, label_config: str | None) -> str:
        """Make the project's model object unless it exists.

        Returns:
            The version that serves.

        Raises:
            LsmlError: if the class, its setup or the label config fails.
        """
        key = self._key(project, label_config, self._state.read(project))
        return self._made_version(key)

    def serving(self, project: Project, label_config: str | None) -> str | None:
        """The version that serves, None while its model object is not made.

        Raises:
            StateError: if the state did not answer.
        """
        key = self._key(project, label_config, self._state.read(project))
        return self._made_version(key) if self._pool.is_made(key) else None

    def predict(self, group: Group, tasks: list[Task]) -> list[Slot | Exception]:
        """Call ``predict`` once, with a copy of the tasks.

        Raises:
            WrongCount: if it returned another number of predictions.
            OutOfMemory: if the GPU ran out of memory.
            Exception: whatever it raised.
            LsmlError: if the model object cannot be made.
        """
        project = group.project
        writes = self._state.writes
        values = self._values(project)
        key = self._key(project, group.label_config, values)
        with self._pool.use(key) as (model, version):
            returned = call(model, tasks, group.params, group.context)
            if version is None:
                if self._state.writes != writes or "model_version" not in values:
                    # setup() of a new object, or predict() itself, named the base.
                    # Where another process did so first, setup() writes nothing.
                    values = self._values(project)
                base = values.get("model_version") or model.INITIAL_MODEL_VERSION
                version = str(base)
            slots = render(returned, len(tasks), version)
        if group.context is None and not isinstance(slots[0], Exception):
            self._pool.remember(key, tasks[0])
        return slots

    def _values(self, project: Project) -> dict[str, Any]:
        """The project's values, or the last known ones while the state is unavailable.

        Raises:
            StateError: if none are known.
        """
        try:
            values = self._state.read(project)
        except StateError as error:
            with self._lock:
                known = self._known.get(project)
                first, self._is_away = not self._is_away, True
            if known is None:
                raise
            if first:
                log.error("State unavailable: using the last known values: %s", error)
            return known
        with self._lock:
            self._is_away = False
            self._known[project] = values
            while len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]
        return values

    def _key(
        self, project: Project, label_config: str | None, values: Mapping[str, Any]
    ) -> ModelKey:
        if label_config is None:
            label_config = values.get("label_config") or EMPTY
        return ModelKey(project, label_config, to_key(values.get("extra_params")))

    def _made_version(self, key: ModelKey) -> str:
        version = self._pool.ensure(key)
        values = self._state.read(key.project)
        if values.get("label_config") != key.label_config:
            # The project returned to a label config whose object was kept.
            self._state.write(key.project, {"label_config": key.label_config})
        base = values.get("model_version") or self._pool.initial_version
        return str(version or base)
