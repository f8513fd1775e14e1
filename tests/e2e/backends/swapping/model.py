"""Says its weights and process; learns for as long as its event says."""

import os
import time
from pathlib import Path
from typing import Any

from lsml_bento import LabelStudioMLBase, TrainingPolicy

BASE = "swapping-0"


class Swapping(LabelStudioMLBase):
    training = TrainingPolicy(quiet_s=0)

    def setup(self) -> None:
        self.set("model_version", BASE)

    def load(self, weights: Path | None) -> None:
        self.name = BASE if weights is None else (weights / "name").read_text()

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        seen = {"worker": os.getpid(), "version": str(self.model_version)}
        value = {"choices": [self.name], **seen}
        region = {
            "from_name": "sentiment",
            "to_name": "text",
            "type": "choices",
            "value": value,
        }
        return [{"result": [region]} for _ in tasks]

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        number = sum(1 for _ in self.annotated_tasks())
        until = time.monotonic() + data["task"]["data"].get("fit_s", 0)
        while time.monotonic() < until:
            self.report(progress=0.5)
            time.sleep(0.1)
        name = f"swapping-{number}"
        self.set("model_version", name)
        with self.save_weights(metrics={"tasks": number}) as directory:
            (directory / "name").write_text(name)
