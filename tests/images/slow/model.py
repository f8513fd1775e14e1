"""Takes as long as a task says, and learns how many tasks were annotated."""

import time
from pathlib import Path
from typing import Any

from lsml_bento import LabelStudioMLBase, TrainingPolicy


class Slow(LabelStudioMLBase):
    training = TrainingPolicy(quiet_s=0.2, max_wait_s=2)

    def setup(self) -> None:
        self.set("model_version", "slow-base")

    def load(self, weights: Path | None) -> None:
        self.learned = (
            "nothing" if weights is None else (weights / "learned.txt").read_text()
        )

    def predict(
        self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        time.sleep(max(float(task["data"].get("sleep_s", 0)) for task in tasks))
        region = {
            "from_name": "sentiment",
            "to_name": "text",
            "type": "choices",
            "value": {"choices": [self.learned]},
        }
        return [{"result": [region], "score": 0.5} for _ in tasks]

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        tasks = [task["data"] for task in self.annotated_tasks()]
        time.sleep(max(float(task.get("fit_s", 0)) for task in tasks))
        with self.save_weights(metrics={"tasks": len(tasks)}) as directory:
            (directory / "learned.txt").write_text(f"{len(tasks)} tasks")
