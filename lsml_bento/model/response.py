"""HumanSignal's types of what ``predict`` may return."""

from __future__ import annotations

from collections.abc import Sequence

from label_studio_sdk.label_interface.objects import PredictionValue
from pydantic import BaseModel, ConfigDict

SingleTaskPredictions = list[PredictionValue] | PredictionValue
"""One prediction for a task, or several."""


class ModelResponse(BaseModel):
    """Predictions for the tasks of one call, in their order.

    Attributes:
        predictions: B entries, each a prediction or a list of predictions.
        model_version: for compatibility. Label Studio always gets the serving version,
            which ``/setup`` names too.
    """

    model_config = ConfigDict(protected_namespaces=())

    model_version: str | None = None
    predictions: Sequence[SingleTaskPredictions]

    def has_model_version(self) -> bool:
        return bool(self.model_version)

    def update_predictions_version(self) -> None:
        """Set the version of every prediction that has none."""
        for entry in self.predictions:
            for prediction in entry if isinstance(entry, list) else [entry]:
                if not prediction.model_version:
                    prediction.model_version = self.model_version

    def set_version(self, version: str) -> None:
        """Set the version, also of every prediction that has none."""
        self.model_version = version
        self.update_predictions_version()


__all__ = ["ModelResponse", "PredictionValue", "SingleTaskPredictions"]
