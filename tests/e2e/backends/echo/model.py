"""Answers each task with its own id and text, after the time that the task asks."""

import os
import threading
import time
from typing import Any

from lsml_bento import LabelStudioMLBase


class Echo(LabelStudioMLBase):
    """A stand-in for a device: a batch takes as long as its slowest task."""

    predicted = 0
    counting = threading.Lock()

    def setup(self) -> None:
        self.set("model_version", "echo-1")

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        time.sleep(max(task["data"].get("sleep_s", 0) for task in tasks))
        with self.counting:
            Echo.predicted += len(tasks)
        return [self._echo(task) for task in tasks]

    def _echo(self, task: dict[str, Any]) -> dict[str, Any]:
        seen = [str(Echo.predicted), str(os.getpid())]
        texts = [str(task["id"]), task["data"]["text"], *seen]
        region = {
            "from_name": "echo",
            "to_name": "text",
            "type": "textarea",
            "value": {"text": texts},
        }
        return {"result": [region], "score": 1.0}
