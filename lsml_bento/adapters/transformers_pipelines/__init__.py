"""A transformers pipeline as a model: which control its outputs fill, and how.

Importing this loads neither torch nor transformers: a class is imported in every
process that serves, and what computes is loaded when the first project asks.
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
"""What turns a pipeline's outputs into regions: ``"module:Class"`` of this package."""


class PipelineModel(LabelStudioMLBase):
    """The pipeline ``LSML_PIPELINE`` with the model ``LSML_PIPELINE_MODEL``.

    The weights are shared by all projects; each project's label config decides which
    control the outputs fill.
    """

    def setup(self) -> None:
        """Find the control to fill, and name the model's version.

        Raises:
            ModelSetupError: if the model can not be read, or the label config has no
                control that it fills.
            SettingsError: if a variable of the environment can not be used.
        """
        settings = Settings.from_env(os.environ)
        self._pretrained = _open(settings)
        self._filling = _filling(settings)(self, self._pretrained)
        self.set("model_version", self._pretrained.version)

    def load(self, weights: Path | None) -> None:
        """Read the model's weights.

        Raises:
            ModelSetupError: if they can not be read.
        """
        # The same for every label config, as objects of several projects share it.
        self._loaded = self._filling.load(self._pretrained)

    def predict(
        self, tasks: list[Task], context: Context | None = None, **kwargs: Any
    ) -> list[Any]:
        """Predict the tasks in one batch; the error of a task stands in its place."""
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
        """What the pipeline gets of a task: None for nothing, or an error."""
        try:
            return self._filling.read(self, task)
        except LsmlError as error:
            return error


def _open(settings: Settings) -> Pretrained:
    pipeline, model = settings.pipeline, settings.pipeline_model
    if pipeline is None or model is None:
        raise ModelSetupError(
            "no pipeline is set: start one with `lsml-bento start --pipeline PIPELINE "
            "--model MODEL`, or set LSML_PIPELINE and LSML_PIPELINE_MODEL"
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
            f"{error.name} is not installed, which a pipeline needs: "
            "pip install 'lsml-bento[transformers]'"
        ) from error
