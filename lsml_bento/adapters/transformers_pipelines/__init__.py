"""Serves a transformers pipeline as a model, without user code.

Importing this loads neither torch nor transformers, since every serving process imports
the class. They are loaded when the first project needs the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsml_bento.contract import Context, Task
from lsml_bento.errors import LsmlError, ModelSetupError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.settings import Settings

if TYPE_CHECKING:
    from lsml_bento.adapters.transformers_pipelines.filling import Filling, Prediction
    from lsml_bento.adapters.transformers_pipelines.pretrained import Pretrained

FILLINGS = {
    "token-classification": "spans:Spans",
    "text-classification": "choices:TextChoices",
    "zero-shot-classification": "choices:ZeroShotChoices",
    "text-generation": "texts:Continuations",
    "summarization": "texts:Summaries",
    "image-classification": "images:ImageChoices",
    "object-detection": "images:Boxes",
    "automatic-speech-recognition": "transcripts:Transcripts",
}
"""The class of this package, ``"module:Class"``, that makes regions of the outputs."""


class PipelineModel(LabelStudioMLBase):
    """The pipeline ``LSML_PIPELINE`` with the model ``LSML_PIPELINE_MODEL``.

    All projects share the weights. Each project's label config decides which control
    the outputs fill.
    """

    def setup(self) -> None:
        """Find the control to fill, and name the model's version.

        Raises:
            ModelSetupError: if the model cannot be read, or the label config has no
                suitable control.
            SettingsError: if an environment variable is invalid.
        """
        settings = Settings.from_env(os.environ)
        self._pretrained = _open(settings)
        self._filling = _filling(settings)(self, self._pretrained)
        self.set("model_version", self._pretrained.version)

    def load(self, weights: Path | None) -> None:
        """Load the model's weights.

        Raises:
            ModelSetupError: if they cannot be read.
        """
        # Independent of the label config, since several projects share the result.
        self._loaded = self._filling.load(self._pretrained)

    def predict(
        self, tasks: list[Task], context: Context | None = None, **kwargs: Any
    ) -> list[Any]:
        """Predict the tasks in one batch; a task's error replaces its prediction."""
        inputs = [self._read(task) for task in tasks]
        given = [i for i in inputs if i is not None and not isinstance(i, LsmlError)]
        predictions: Iterator[Prediction] = iter(())
        if given:
            with self._pretrained.computing(exact=self._filling.exact):
                predictions = iter(self._filling.predict(self._loaded, given))
        return [
            next(predictions)
            if one is not None and not isinstance(one, LsmlError)
            else one or {"result": []}
            for one in inputs
        ]

    def _read(self, task: Task) -> Any:
        """The pipeline's input for a task: None if the task is empty, or an error."""
        try:
            return self._filling.read(self, task)
        except LsmlError as error:
            return error


def _open(settings: Settings) -> Pretrained:
    pipeline, model = settings.pipeline, settings.pipeline_model
    if pipeline is None or model is None:
        raise ModelSetupError(
            "no pipeline is set: use `lsml-bento start --pipeline PIPELINE --model "
            "MODEL`, or set LSML_PIPELINE and LSML_PIPELINE_MODEL"
        )
    opened: Pretrained = _import("pretrained:open_pretrained")(
        pipeline, model, settings.pipeline_device
    )
    return opened


def _filling(settings: Settings) -> type[Filling]:
    found: type[Filling] = _import(FILLINGS[str(settings.pipeline)])
    return found


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        raise ModelSetupError(
            f"the pipeline needs {error.name}, which is not installed: run "
            "pip install 'lsml-bento[transformers]'"
        ) from error
