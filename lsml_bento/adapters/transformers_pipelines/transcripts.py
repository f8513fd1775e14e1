"""automatic-speech-recognition: ``<TextArea>`` on ``<Audio>``."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import transformers
from numpy.typing import NDArray

from lsml_bento.adapters.transformers_pipelines.audio import read_audio
from lsml_bento.adapters.transformers_pipelines.filling import (
    WINDOWS,
    Filling,
    Options,
    Prediction,
    read_options,
    written,
)
from lsml_bento.adapters.transformers_pipelines.pretrained import Pretrained
from lsml_bento.adapters.transformers_pipelines.target import find_targets
from lsml_bento.contract import Task
from lsml_bento.model.base_class import LabelStudioMLBase

_WINDOW_S = 30
_IN_WINDOWS = {"ctc", "ctc_with_lm", "seq2seq_whisper"}
"""Types of models for which the pipeline joins the windows of a recording."""


class _SpeechOptions(Options):
    language: str | None = None
    task: Literal["transcribe", "translate"] | None = None


class Transcripts(Filling):
    """Transcripts of recordings, of any length for Whisper and CTC models."""

    def __init__(self, model: LabelStudioMLBase, pretrained: Pretrained) -> None:
        options = read_options(_SpeechOptions, model)
        self._generation = options.model_dump(exclude_none=True)
        self.target = find_targets(model, pretrained, "TextArea", "Audio")[0]
        self._rate = pretrained.read(transformers.AutoFeatureExtractor).sampling_rate

    @classmethod
    def load(cls, pretrained: Pretrained) -> Any:
        return pretrained.pipe(pads=True)

    def read(self, model: LabelStudioMLBase, task: Task) -> NDArray[np.float32] | None:
        """The task's recording; None if it is empty.

        Raises:
            MediaError: if it cannot be read, or reading it is not allowed.
            PredictionError: if the task has no recording.
        """
        samples = read_audio(self.file(model, task), self.value(task), self._rate)
        return samples if len(samples) else None

    def predict(self, pipe: Any, inputs: list[NDArray[np.float32]]) -> list[Prediction]:
        found = pipe(
            inputs,
            batch_size=max(len(inputs), WINDOWS),
            chunk_length_s=_window_s(pipe),
            ignore_warning=True,
            generate_kwargs=self._generation,
        )
        return written(self.target, (str(one["text"]) for one in found))


def _window_s(pipe: Any) -> float:
    """Whisper's own window if it has one; 0 if the model reads a whole recording."""
    if pipe.type not in _IN_WINDOWS:
        return 0
    return float(getattr(pipe.feature_extractor, "chunk_length", None) or _WINDOW_S)
