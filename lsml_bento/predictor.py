"""One call of the user's ``predict``: a batch of tasks in, one slot per task out."""

from __future__ import annotations

import gc
import inspect
import logging
import marshal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lsml_bento.errors import ModelError, OutOfMemory
from lsml_bento.label_config import EMPTY
from lsml_bento.model import LabelStudioMLBase, surrounded_by
from lsml_bento.models import ModelKey, Models, to_key
from lsml_bento.rendering import Slot, render
from lsml_bento.source import locate
from lsml_bento.state import State
from lsml_bento.types import Context, Project, Task

log = logging.getLogger(__name__)

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
    """Finds the model object for a group and calls its ``predict``."""

    def __init__(self, models: Models, state: State) -> None:
        self._models = models
        self._state = state

    def prepare(self, project: Project, label_config: str | None) -> str:
        """Make the project's model object unless it is there.

        Returns:
            The version that serves.

        Raises:
            LsmlError: if the class, its setup or the label config fails.
        """
        key = self._key(project, label_config)
        self._models.ensure(key)
        return self._serving(key)

    def serving(self, project: Project, label_config: str | None) -> str | None:
        """The version that serves, None while its model object is not made.

        Raises:
            StateError: if the state did not answer.
        """
        key = self._key(project, label_config)
        return self._serving(key) if self._models.is_made(key) else None

    def predict(self, group: Group, tasks: list[Task]) -> list[Slot | Exception]:
        """Call ``predict`` once, with a copy of the tasks.

        Raises:
            WrongCount: if it returned another number of predictions.
            OutOfMemory: if the GPU's memory did not suffice.
            Exception: whatever it raised.
            LsmlError: if the model object can not be made.
        """
        writes = self._state.writes
        values = self._state.read(group.project)
        key = _key_of(group.project, group.label_config, values)
        with self._models.borrow(key) as model:
            returned = _call(model, group, _copied(tasks))
            if self._state.writes != writes:
                # By setup() of a new object, or by predict() itself.
                values = self._state.read(group.project)
            version = values.get("model_version") or model.INITIAL_MODEL_VERSION
            return render(returned, len(tasks), str(version))

    def _key(self, project: Project, label_config: str | None) -> ModelKey:
        return _key_of(project, label_config, self._state.read(project))

    def _serving(self, key: ModelKey) -> str:
        values = self._state.read(key.project)
        if values.get("label_config") != key.label_config:
            # One that came back, to an object that was kept.
            self._state.write(key.project, {"label_config": key.label_config})
        return str(values.get("model_version") or self._models.initial_version)


def _key_of(
    project: Project, label_config: str | None, values: Mapping[str, Any]
) -> ModelKey:
    if label_config is None:
        label_config = values.get("label_config") or EMPTY
    return ModelKey.of(project, label_config, values.get("extra_params"))


def _call(model: LabelStudioMLBase, group: Group, tasks: list[Task]) -> object:
    arguments = {**group.params, "context": group.context}
    try:
        with surrounded_by(model.surroundings):
            return model.predict(tasks, **_accepted(type(model).predict, arguments))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if _is_out_of_memory(error):
            # The frames of the failed call still hold its tensors.
            traceback.clear_frames(error.__traceback__)
            _free_memory()
            raise OutOfMemory(
                f"the GPU's memory does not hold {len(tasks)} tasks: lower "
                "LSML_MAX_BATCH_SIZE"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        # asyncio takes these for its own: a future can not even hold a StopIteration.
        raise ModelError(f"predict() raised {locate(error)}") from error


def _accepted(predict: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the user's ``predict`` takes."""
    names = _parameters(predict)
    if names is None:
        return arguments
    return {name: value for name, value in arguments.items() if name in names}


@lru_cache(maxsize=16)
def _parameters(predict: Callable[..., Any]) -> frozenset[str] | None:
    """Names that ``predict`` takes; None if it takes all."""
    parameters = inspect.signature(predict).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters)


def _copied(tasks: list[Task]) -> list[Task]:
    """Tasks that user code may edit: a failed call is repeated with the originals.

    marshal copies plain JSON values an order of magnitude faster than deepcopy.
    """
    copied: list[Task] = marshal.loads(marshal.dumps(tasks))  # noqa: S302 - own bytes
    return copied


def _is_out_of_memory(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return "OutOfMemoryError" in names or "CUDA out of memory" in str(error)


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.cuda.empty_cache()
