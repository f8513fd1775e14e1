"""The tagger behind Label Studio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.pytorch_ner.decoding import Entity, Tagged
from examples.pytorch_ner.model import Tagger
from lsml_bento import LabelStudioMLBase

BASE = Path(__file__).with_name("base.safetensors")
WEIGHTS = "model.safetensors"
"""The file in the directory of a version's weights."""


class NER(LabelStudioMLBase):
    """Marks entities in the first ``Text`` that has a ``Labels`` tag.

    A label of the label config that the weights do not know is not predicted, and an
    entity whose label the label config does not have is left out.
    """

    tagger: Tagger

    def setup(self) -> None:
        self.from_name, self.to_name, self.value = (
            self.label_interface.get_first_tag_occurence("Labels", "Text")
        )
        self.set("model_version", "pytorch-ner-base")

    def load(self, weights: Path | None) -> None:
        """What this sets is shared by all projects: nothing of the label config."""
        self.tagger = Tagger.load(BASE if weights is None else weights / WEIGHTS)

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """One prediction for each task, from one forward call.

        A prediction's score is the mean probability of the text's tokens: sorted by it,
        the tasks come first that the tagger is least sure of.
        """
        texts = [str(task["data"].get(self.value) or "") for task in tasks]
        labels = self.build_label_map(self.from_name, list(self.tagger.labels))
        return [
            self._prediction(text, tagged, labels)
            for text, tagged in zip(texts, self.tagger.tag(texts), strict=True)
        ]

    def _prediction(
        self, text: str, tagged: Tagged, labels: dict[str, str]
    ) -> dict[str, Any]:
        return {
            "result": [
                self._region(text, entity, labels[entity.label])
                for entity in tagged.entities
                if entity.label in labels
            ],
            "score": tagged.score,
        }

    def _region(self, text: str, entity: Entity, label: str) -> dict[str, Any]:
        return {
            "id": f"{entity.start}-{entity.end}",  # unique: entities never overlap
            "from_name": self.from_name,
            "to_name": self.to_name,
            "type": "labels",
            "value": {
                "start": entity.start,
                "end": entity.end,
                "text": text[entity.start : entity.end],
                "labels": [label],
                "score": entity.score,
            },
        }
