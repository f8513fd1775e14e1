"""image-classification and object-detection: ``<Choices>`` and boxes on ``<Image>``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field

from lsml_bento.adapters.transformers_pipelines.choices import ClassifierChoices
from lsml_bento.adapters.transformers_pipelines.filling import (
    Filling,
    Options,
    Prediction,
    mean,
    read_options,
)
from lsml_bento.adapters.transformers_pipelines.pretrained import Pretrained
from lsml_bento.adapters.transformers_pipelines.target import match_target
from lsml_bento.contract import Task
from lsml_bento.error_text import describe
from lsml_bento.errors import MediaError
from lsml_bento.model.base_class import LabelStudioMLBase


class _BoxOptions(Options):
    threshold: float = Field(0.5, ge=0, le=1)


def read_image(path: str, url: str) -> Image.Image:
    """An image in RGB, rotated as a browser shows it.

    Args:
        path: the file.
        url: from the task, for the error message.

    Raises:
        MediaError: if Pillow cannot read it.
    """
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image)
            if turned.mode.startswith("I;16"):  # convert() would clip it to white
                turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
            return turned.convert("RGB")
    except Exception as error:  # Pillow raises many types
        raise MediaError(
            f"the image {url[:200]!r} cannot be read: {describe(error)}"
        ) from error


class _OfImages(Filling):
    """Outputs for a task's image."""

    @classmethod
    def load(cls, pretrained: Pretrained) -> Any:
        return pretrained.pipe()

    def read(self, model: LabelStudioMLBase, task: Task) -> Image.Image:
        """The task's image.

        Raises:
            MediaError: if it cannot be read, or reading it is not allowed.
            PredictionError: if the task has no image.
        """
        return read_image(self.file(model, task), self.value(task))


class ImageChoices(_OfImages, ClassifierChoices):
    """Choices for an image."""

    on = "Image"

    def predict(self, pipe: Any, inputs: list[Image.Image]) -> list[Prediction]:
        count = pipe.model.config.num_labels  # the default is 5
        return self.chosen(pipe(inputs, batch_size=len(inputs), top_k=count))


class Boxes(_OfImages):
    """The objects in an image, as rectangles in percent of its size."""

    exact = True  # in bfloat16 a box can be off by 1/256 of the image

    @classmethod
    def load(cls, pretrained: Pretrained) -> Any:
        """The pipeline in float32, even if its weights have another type."""
        return pretrained.pipe(dtype=torch.float32)

    def __init__(self, model: LabelStudioMLBase, pretrained: Pretrained) -> None:
        self.options = read_options(_BoxOptions, model)
        names = [name for name in pretrained.labels if name != "N/A"]
        self.target = match_target(model, pretrained, "RectangleLabels", "Image", names)

    def predict(self, pipe: Any, inputs: list[Image.Image]) -> list[Prediction]:
        """The boxes in each image; images of one size form a batch."""
        # With padding, the boxes would depend on the other images in the batch.
        sizes: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(inputs):
            sizes.setdefault(image.size, []).append(place)
        found: dict[int, Prediction] = {}
        for (width, height), places in sizes.items():
            objects = pipe(
                [inputs[place] for place in places],
                batch_size=len(places),
                threshold=self.options.threshold,
            )
            for place, those in zip(places, objects, strict=True):
                found[place] = self._prediction(those, width, height)
        return [found[place] for place in range(len(inputs))]

    def _prediction(
        self, objects: list[dict[str, Any]], width: int, height: int
    ) -> Prediction:
        result, scores = [], []
        for one in objects:
            label = self.target.labels.get(one["label"])
            if label is None:
                continue
            x, right = (_percent(one["box"][key], width) for key in ("xmin", "xmax"))
            y, low = (_percent(one["box"][key], height) for key in ("ymin", "ymax"))
            box = {"x": x, "y": y, "width": right - x, "height": low - y}
            result.append(
                self.target.region(
                    {**box, "rotation": 0, "rectanglelabels": [label]},
                    score=one["score"],
                    original_width=width,
                    original_height=height,
                    image_rotation=0,
                )
            )
            scores.append(one["score"])
        return {"result": result, "score": mean(scores)}


def _percent(pixels: float, size: int) -> float:
    """Pixels as percent, clipped: models may put corners outside of the image."""
    return min(100.0, max(0.0, 100.0 * pixels / size))
