"""The base class of all outputs: the control that they fill, inputs and options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lsml_bento.adapters.transformers_pipelines.pretrained import Pretrained
from lsml_bento.adapters.transformers_pipelines.target import Target
from lsml_bento.contract import Task
from lsml_bento.errors import MediaError, ModelSetupError, PredictionError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.label_config import look_up

Prediction = dict[str, Any]

WINDOWS = 8
"""Windows of a long input that are computed in one batch."""


class Options(BaseModel):
    """The extra params of Label Studio's model settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_Options = TypeVar("_Options", bound=Options)


class Filling(ABC):
    """Fills a project's control with the outputs of a pipeline.

    Args:
        model: provides the label config and the extra params.
        pretrained: the transformers model.

    Raises:
        ModelSetupError: if the label config has no control for the outputs, or an
            extra param is invalid.
    """

    exact: ClassVar[bool] = False
    """Whether bfloat16 is too inexact for the outputs."""

    target: Target

    @abstractmethod
    def __init__(self, model: LabelStudioMLBase, pretrained: Pretrained) -> None:
        """Find the control and read the options."""

    @classmethod
    @abstractmethod
    def load(cls, pretrained: Pretrained) -> Any:
        """Load the weights; the result is passed to ``predict``.

        Raises:
            ModelSetupError: if they cannot be read.
        """

    @abstractmethod
    def predict(self, pipe: Any, inputs: list[Any]) -> list[Prediction]:
        """Predict a batch, in its order.

        Args:
            pipe: from ``load``.
            inputs: B inputs from ``read``, at least one.
        """

    def read(self, model: LabelStudioMLBase, task: Task) -> Any:
        """The pipeline's input for a task: its text, or None if that is empty.

        Raises:
            MediaError: if a file cannot be read.
            PredictionError: if the task has no text.
        """
        text = self.value(task)
        if self.target.is_url:
            path = Path(model.get_local_path(text, task_id=task.get("id")))
            try:
                # As Label Studio counts offsets: no BOM, and CRLF as two characters.
                text = path.read_bytes().decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise MediaError(
                    f"{text[:200]!r} is not a UTF-8 text: {error}"
                ) from error
        return text if text.strip() else None

    def value(self, task: Task) -> str:
        """The text or URL in a task's data that the label config refers to.

        Raises:
            PredictionError: if it is missing.
        """
        key = self.target.key
        value = look_up(task["data"], key)
        if isinstance(value, (int, float)):
            return str(value)
        if isinstance(value, str):
            return value
        raise PredictionError(
            f"task {task.get('id')} has no text in data[{key!r}], which "
            f'<{self.target.object} name="{self.target.to_name}"> shows: it has '
            f"{', '.join(map(repr, list(task['data'])[:20])) or 'nothing'}"
        )

    def file(self, model: LabelStudioMLBase, task: Task) -> str:
        """The path of a task's file.

        Raises:
            MediaError: if it cannot be read, or reading it is not allowed.
            PredictionError: if the task has no file.
        """
        return model.get_local_path(self.value(task), task_id=task.get("id"))


def read_options(kind: type[_Options], model: LabelStudioMLBase) -> _Options:
    """The extra params of a project.

    Raises:
        ModelSetupError: naming the invalid one, and the valid names.
    """
    try:
        return kind.model_validate(model.extra_params or {})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise ModelSetupError(
            f"the extra params of the model are invalid: {name or 'they'}: "
            f"{first['msg']}; this pipeline accepts {', '.join(kind.model_fields)}"
        ) from error


def written(target: Target, texts: Iterable[str]) -> list[Prediction]:
    """Predictions that fill a text area; without a region for an empty text.

    An incomplete character at the end of a text is removed.
    """
    found = (text.rstrip("\ufffd").strip() for text in texts)
    return [
        {"result": [target.region({"text": [text]})] if text else []} for text in found
    ]


def mean(scores: list[float]) -> float | None:
    """The mean; None for an empty list."""
    return sum(scores) / len(scores) if scores else None
