"""What ``predict`` may return, in HumanSignal's words."""

from __future__ import annotations

from collections.abc import Sequence

from label_studio_sdk.label_interface.objects import PredictionValue
from pydantic import BaseModel, ConfigDict

SingleTaskPredictions = list[PredictionValue] | PredictionValue
"""One prediction for a task, or several."""


class ModelResponse(BaseModel):
    """Predictions for the tasks of one call, in their order.

    Attributes:
        predictions: B entries, each one prediction or a list of them.
        model_version: kept for models that set it; what Label Studio gets is the
            version that serves, the same as ``/setup`` names.
    """

    model_config = ConfigDict(protected_namespaces=())

    model_version: str | None = None
    predictions: Sequence[SingleTaskPredictions]

    def has_model_version(self) -> bool:
        """Whether a version was set."""
        return bool(self.model_version)

    def update_predictions_version(self) -> None:
        """Give the version to every prediction that has none of its own."""
        for entry in self.predictions:
            for prediction in entry if isinstance(entry, list) else [entry]:
                if not prediction.model_version:
                    prediction.model_version = self.model_version

    def set_version(self, version: str) -> None:
        """Set the version and give it to every prediction that has none of its own."""
        self.model_version = version
        self.update_predictions_version()


__all__ = ["ModelResponse", "PredictionValue", "SingleTaskPredictions"]
