"""A model whose setup fails for as long as a file says so."""

import os
from pathlib import Path
from typing import Any

from lsml_bento import LabelStudioMLBase


class Fragile(LabelStudioMLBase):
    def setup(self) -> None:
        broken = Path(os.environ["FRAGILE_SWITCH"])
        if broken.exists():
            raise RuntimeError(broken.read_text())
        self.set("model_version", "fragile-1")

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        return [{"result": [], "score": 0.5} for _ in tasks]
