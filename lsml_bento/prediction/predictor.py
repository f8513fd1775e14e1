"""One call of the user's ``predict``: a batch of tasks in, one slot per task out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lsml_bento.contract import Context, Project, Task
from lsml_bento.errors import StateError
from lsml_bento.model.invoke import call
from lsml_bento.model.label_config import EMPTY
from lsml_bento.model.render import Slot, render
from lsml_bento.prediction.model_factory import ModelKey, to_key
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.version_follower import VersionFollower
from lsml_bento.state.store import State

log = logging.getLogger(__name__)

_KNOWN = 1_000
"""Projects whose values are kept for the time that the state is away."""

_RESERVED = frozenset({"self", "tasks", "context", "helper"})


@dataclass(frozen=True)
class Group:
    """What tasks must have in common to share a call.

    Attributes:
        label_config: None for the last one known of the project.
        params: entries of Label Studio's ``params`` but the context.
        context: of an annotator who waits; such a group is never shared.
    """

    project: Project
    label_config: str | None
    params_key: str
    params: dict[str, Any] = field(compare=False)
    context: Context | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        project: Project,
        label_config: str | None,
        params: dict[str, Any],
        context: Context | None,
    ) -> Group:
        """The group of one request."""
        others = {k: v for k, v in params.items() if k not in _RESERVED}
        return cls(project, label_config, to_key(others), others, context)


class Predictor:
    """Finds the model object for a group and calls its ``predict``.

    Args:
        models: makes the objects.
        state: the projects' values.
        serving: says which version of a project serves.
    """

    def __init__(
        self, models: ModelPool, state: State, serving: VersionFollower
    ) -> None:
        self._models = models
        self._state = state
        self._serving = serving
        self._known: dict[Project, dict[str, Any]] = {}
        self._is_away = False
        self._lock = threading.Lock()

    def prepare(self, project: Project, label_config: str | None) -> str:
        """Make the project's model object unless it is there.

        Returns:
            The version that serves.

        Raises:
            LsmlError: if the class, its setup or the label config fails.
        """
        key = self._key(project, label_config)
        self._models.ensure(key, self._renew)
        return self._version(key)

    def serving(self, project: Project, label_config: str | None) -> str | None:
        """The version that serves, None while its model object is not made.

        Raises:
            StateError: if the state did not answer.
        """
        key = self._key(project, label_config)
        return self._version(key) if self._models.is_made(key) else None

    def predict(self, group: Group, tasks: list[Task]) -> list[Slot | Exception]:
        """Call ``predict`` once, with a copy of the tasks.

        Raises:
            WrongCount: if it returned another number of predictions.
            OutOfMemory: if the GPU's memory did not suffice.
            Exception: whatever it raised.
            LsmlError: if the model object can not be made.
        """
        writes = self._state.writes
        values = self._values(group.project)
        key = self._key_of(group.project, group.label_config, values)
        with self._models.borrow(key, self._renew) as model:
            returned = call(model, tasks, group.params, group.context)
            if self._state.writes != writes or "model_version" not in values:
                # By setup() of a new object, or by predict() itself; setup() writes
                # nothing where that of another process was quicker.
                values = self._values(group.project)
            base = values.get("model_version") or model.INITIAL_MODEL_VERSION
            version = str(model.surroundings.version or base)
            slots = render(returned, len(tasks), version)
        if group.context is None and not isinstance(slots[0], Exception):
            self._models.remember(key, tasks[0])
        return slots

    def _values(self, project: Project) -> dict[str, Any]:
        """The project's values; those read last while the state does not answer.

        Raises:
            StateError: if none were read yet.
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
                log.error("predictions go on with what is known: %s", error)
            return known
        with self._lock:
            self._is_away = False
            self._known[project] = values
            while len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]
        return values

    def _key(self, project: Project, label_config: str | None) -> ModelKey:
        return self._key_of(project, label_config, self._state.read(project))

    def _key_of(
        self, project: Project, label_config: str | None, values: Mapping[str, Any]
    ) -> ModelKey:
        if label_config is None:
            label_config = values.get("label_config") or EMPTY
        version = self._serving.version(project)
        return ModelKey.of(project, label_config, values.get("extra_params"), version)

    def _renew(self, key: ModelKey) -> ModelKey:
        """The key of the version that serves now: a swap may have come between."""
        return key._replace(version=self._serving.version(key.project))

    def _version(self, key: ModelKey) -> str:
        values = self._state.read(key.project)
        if values.get("label_config") != key.label_config:
            # One that came back, to an object that was kept.
            self._state.write(key.project, {"label_config": key.label_config})
        version = self._models.version_of(key)
        base = values.get("model_version") or self._models.initial_version
        return str(version or base)
