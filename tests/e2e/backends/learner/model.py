"""Learns how many tasks were annotated, and says so in every prediction.

It takes as long as the data of a task says: ``sleep_s`` to predict, ``fit_s`` to learn.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lsml_bento import LabelStudioMLBase, TrainingPolicy


class Learner(LabelStudioMLBase):
    training = TrainingPolicy(quiet_s=0.2, max_wait_s=2)

    def setup(self) -> None:
        self.set("model_version", "learner-base")

    def load(self, weights: Path | None) -> None:
        self.learned = (
            "nothing" if weights is None else (weights / "learned.txt").read_text()
        )

    def predict(
        self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        time.sleep(longest("sleep_s", tasks))
        region = {
            "from_name": "sentiment",
            "to_name": "text",
            "type": "choices",
            "value": {"choices": [self.learned]},
        }
        return [{"result": [region], "score": 0.5} for _ in tasks]

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        tasks = list(self.annotated_tasks())
        self.report(progress=0.5)
        time.sleep(longest("fit_s", tasks))
        with self.save_weights(metrics={"tasks": len(tasks)}) as directory:
            (directory / "learned.txt").write_text(f"{len(tasks)} tasks")


def longest(name: str, tasks: Sequence[Mapping[str, Any]]) -> float:
    return max(float(task["data"].get(name, 0)) for task in tasks)
