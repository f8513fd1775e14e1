"""Answers with the devices that its process may see."""

import os
from typing import Any

from lsml_bento import LabelStudioMLBase


class Devices(LabelStudioMLBase):
    """No GPU is touched: what a worker may see is decided by its environment."""

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        seen = {"pid": os.getpid(), "devices": os.environ["CUDA_VISIBLE_DEVICES"]}
        return [{"result": [{"value": seen}]} for _ in tasks]
