"""The lightest backend there is: what `lsml-bento start` itself costs."""

from __future__ import annotations

from typing import Any

from lsml_bento import LabelStudioMLBase


class Light(LabelStudioMLBase):
    """Answers nothing, loads nothing."""

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        return [{"result": [], "score": 0.0} for _ in tasks]
