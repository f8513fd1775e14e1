"""Keyword matching: the smallest useful backend, without a neural network."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lsml_bento import LabelStudioMLBase

Span = tuple[int, int]
"""Half-open offsets into the text, in code points."""


def find_words(text: str, words: Iterable[str]) -> list[Span]:
    """Find whole words, ignoring case. Of overlapping words, the longest is found."""
    longest_first = sorted({word for word in words if word}, key=len, reverse=True)
    if not longest_first:
        return []
    either = "|".join(re.escape(word) for word in longest_first)
    pattern = re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
    return [match.span() for match in pattern.finditer(text)]


def keywords_by_label(labels: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """The keywords of every label: its ``predicted_values``, or its own name.

    Args:
        labels: the attributes of each ``<Label>``, by its value.
    """
    return {
        label: [word.strip() for word in attributes["predicted_values"].split(",")]
        if attributes.get("predicted_values")
        else [label]
        for label, attributes in labels.items()
    }


def repeated(text: str, region: Mapping[str, Any]) -> Iterator[tuple[str, Span]]:
    """Other occurrences of the words of a finished region, with its labels."""
    value = region.get("value") or {}
    start, end = value.get("start"), value.get("end")
    if not isinstance(start, int) or not isinstance(end, int):
        return
    for found in find_words(text, [text[start:end]]):
        if found[1] <= start or end <= found[0]:
            for label in value.get("labels") or []:
                yield label, found


class KeywordMatcher(LabelStudioMLBase):
    """Labels keywords of the label config, and other occurrences of labeled words."""

    def setup(self) -> None:
        self.set("model_version", "keyword-1")

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        control, object_name, data_key = self.get_first_tag_occurence("Labels", "Text")
        predictions = []
        for task in tasks:
            text = str(task["data"].get(data_key) or "")
            found = (
                self._repeat(text, context) if context else self._find(text, control)
            )
            result = [
                {
                    "id": f"{label}-{start}-{end}",
                    "from_name": control,
                    "to_name": object_name,
                    "type": "labels",
                    "value": {
                        "start": start,
                        "end": end,
                        "text": text[start:end],
                        "labels": [label],
                    },
                }
                for label, (start, end) in found
            ]
            predictions.append({"result": result, "score": 1.0 if result else 0.0})
        return predictions

    def _find(self, text: str, control: str) -> list[tuple[str, Span]]:
        labels = self.parsed_label_config[control]["labels_attrs"]
        found = [
            (label, span)
            for label, words in keywords_by_label(labels).items()
            for span in find_words(text, words)
        ]
        return sorted(found, key=lambda item: (item[1], item[0]))

    def _repeat(self, text: str, context: dict[str, Any]) -> list[tuple[str, Span]]:
        finished = context.get("result") or []
        found = {item for region in finished for item in repeated(text, region)}
        return sorted(found, key=lambda item: (item[1], item[0]))
