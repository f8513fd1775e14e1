"""What all outputs have in common: a control that they fill, inputs and options."""

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

Prediction = dict[str, Any]

WINDOWS = 8
"""Windows of one long input that are computed together."""


class Options(BaseModel):
    """What a person may set in the extra params of Label Studio's model settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_Options = TypeVar("_Options", bound=Options)


class Filling(ABC):
    """Outputs of one pipeline as regions of one project's label config.

    Args:
        model: whose label config and extra params it follows.
        pretrained: the model that computes.

    Raises:
        ModelSetupError: if the label config has no control for the outputs, or an
            extra param means nothing.
    """

    exact: ClassVar[bool] = False
    """Whether bfloat16 has too few digits for what the model puts out."""

    target: Target

    @abstractmethod
    def __init__(self, model: LabelStudioMLBase, pretrained: Pretrained) -> None:
        """Find the control."""

    @classmethod
    @abstractmethod
    def load(cls, pretrained: Pretrained) -> Any:
        """Read the weights into what ``predict`` gets.

        Raises:
            ModelSetupError: if they can not be read.
        """

    @abstractmethod
    def predict(self, pipe: Any, inputs: list[Any]) -> list[Prediction]:
        """Predictions for a batch, in its order.

        Args:
            pipe: what ``load`` made.
            inputs: B inputs as ``read`` made them, at least one.
        """

    def read(self, model: LabelStudioMLBase, task: Task) -> Any:
        """What the pipeline gets of a task: its text, None for an empty one.

        Raises:
            MediaError: if a file can not be read.
            PredictionError: if the task has nothing to read.
        """
        text = self.value(task)
        if self.target.is_url:
            path = Path(model.get_local_path(text, task_id=task.get("id")))
            try:
                # As Label Studio counts it: without a BOM, a CRLF as two.
                text = path.read_bytes().decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise MediaError(
                    f"{text[:200]} is no text in UTF-8: {error}"
                ) from error
        return text if text.strip() else None

    def value(self, task: Task) -> str:
        """The text or the address that the label config names in a task's data.

        Raises:
            PredictionError: if there is none.
        """
        key = self.target.key
        value = task["data"].get(key)
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
        """The path of the file that a task is about.

        Raises:
            MediaError: if it can not be read or must not be.
            PredictionError: if the task names none.
        """
        return model.get_local_path(self.value(task), task_id=task.get("id"))


def read_options(kind: type[_Options], model: LabelStudioMLBase) -> _Options:
    """The extra params of a project.

    Raises:
        ModelSetupError: naming the one that means nothing, and those that do.
    """
    try:
        return kind.model_validate(model.extra_params or {})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise ModelSetupError(
            f"the extra params of the model can not be used: {name or 'they'}: "
            f"{first['msg']}; this pipeline takes {', '.join(kind.model_fields)}"
        ) from error


def written(target: Target, texts: Iterable[str]) -> list[Prediction]:
    """Texts as what fills a text area; of an empty one nothing does.

    A character of which the last bytes were not generated is left out.
    """
    found = (text.rstrip("\ufffd").strip() for text in texts)
    return [
        {"result": [target.region({"text": [text]})] if text else []} for text in found
    ]


def mean(scores: list[float]) -> float | None:
    """The mean; None where nothing was found."""
    return sum(scores) / len(scores) if scores else None
