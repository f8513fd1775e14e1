"""The tagger as a Label Studio ML backend."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lsml_bento import LabelStudioMLBase
from ner.data import base_examples, labels_of, task_to_example
from ner.decoding import Entity, Tagged
from ner.learning import Lessons, learn, measure
from ner.model import Tagger

BASE = Path(__file__).with_name("base.safetensors")
WEIGHTS = "model.safetensors"
"""The file name in the directory of a version's weights."""

logger = logging.getLogger(__name__)


class NER(LabelStudioMLBase):
    """Finds entities in the first ``Text`` that has a ``Labels`` tag.

    It predicts only labels that are both in the weights and in the label config.
    """

    rehearse = 0.5
    """Base sentences that ``fit`` also trains on, per annotated text."""

    weights: Path = BASE
    tagger: Tagger

    def setup(self) -> None:
        self.from_name, self.to_name, self.value = (
            self.label_interface.get_first_tag_occurence("Labels", "Text")
        )
        self.set("model_version", "pytorch-ner-base")

    def load(self, weights: Path | None) -> None:
        """Load weights. All projects share them, so they ignore the label config."""
        self.weights = BASE if weights is None else weights / WEIGHTS
        self.tagger = Tagger.load(self.weights)

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Predict all tasks in one forward call.

        A prediction's score is the mean probability of the text's tokens. Sorted by it,
        the least certain tasks come first.
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

    # Learning

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        """Learn the label config's labels from all annotated tasks.

        Training starts from the active weights. New labels of the label config are
        added, and labels that are no longer in it are removed.
        """
        names = self._names()
        found = (
            task_to_example(task, self.from_name, self.value, names)
            for task in self.annotated_tasks()
        )
        examples = [example for example in found if example is not None]
        if not examples or not names:
            missing = "labels in the label config" if examples else "annotated texts"
            logger.info("No version: no %s, project=%s", missing, self.project_id)
            return
        shipped = self.build_label_map(self.from_name, labels_of(base_examples()[0]))
        lessons = Lessons.of(
            examples, {known: names[label] for known, label in shipped.items()}
        )
        tagger = Tagger.load(self.weights, list(dict.fromkeys(names.values())))
        schedule = lessons.schedule(self.rehearse)
        for epoch in learn(tagger, lessons, schedule):
            self.report(progress=epoch.share, loss=epoch.loss, f1=epoch.f1)
            if self.should_stop:
                logger.info("No version: stopped, project=%s", self.project_id)
                return
        called = {name: label for label, name in names.items()}
        metrics = measure(tagger, lessons, called)
        with self.save_weights(metrics=metrics) as directory:
            tagger.save(directory / WEIGHTS)

    def _names(self) -> dict[str, str]:
        """The names in the weights by label of the label config."""
        names: dict[str, str] = {}
        known = self.build_label_map(self.from_name, list(self.tagger.labels))
        for name, label in known.items():
            names.setdefault(label, name)
        labels = self.parsed_label_config[self.from_name]["labels"]
        return {label: names.get(label, label) for label in labels}
