"""Learns nothing, and writes weights whose every byte is checked where they serve."""

import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

from lsml_bento import LabelStudioMLBase, TrainingPolicy

MIB = 1 << 20
STEP_S = 0.05
PAUSE_S = 0.01
"""Between two MiB of weights, so that a kill hits the middle of a file."""

TOLD = "told.json"


class Learner(LabelStudioMLBase):
    """Predicts the checksum of the weights that it read, and whether it is theirs."""

    training = TrainingPolicy(quiet_s=0.1, max_wait_s=0.3)

    def setup(self) -> None:
        self.set("model_version", "learner-0")

    def load(self, weights: Path | None) -> None:
        # A broken version is reported, not raised: the base would serve in its place.
        self.crc, self.is_whole = (0, True) if weights is None else read(weights)

    def predict(
        self,
        tasks: list[dict[str, Any]],
        context: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        region = {
            "from_name": "served",
            "to_name": "text",
            "type": "textarea",
            "value": {"text": [str(self.crc), "whole" if self.is_whole else "half"]},
        }
        return [{"result": [region], "score": 1.0} for _ in tasks]

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        """As the newest event's task says: ``steps`` of ``STEP_S``, ``mib`` written."""
        plan = data.get("task", {}).get("data", {})
        annotated = sum(len(task["annotations"]) for task in self.annotated_tasks())
        steps = int(plan.get("steps", 10))
        for step in range(steps):
            time.sleep(STEP_S)
            self.report(progress=(step + 1) / steps)
        write(self, int(plan.get("mib", 2)), annotated)


def write(model: Learner, mib: int, annotated: int) -> None:
    """Weights of so many MiB in three files, and what must be found in them."""
    pieces = [os.urandom(MIB) for _ in range(mib)]
    crc = 0
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    metrics = {"crc": crc, "annotated": annotated}
    with model.save_weights(metrics=metrics) as directory:
        (directory / TOLD).write_text(json.dumps({"crc": crc, "bytes": mib * MIB}))
        third = -(-mib // 3)
        for number in range(3):
            with (directory / f"part-{number}.bin").open("wb", buffering=0) as file:
                for piece in pieces[number * third : (number + 1) * third]:
                    file.write(piece)
                    time.sleep(PAUSE_S)


def read(directory: Path) -> tuple[int, bool]:
    """The checksum of all bytes, and whether it is the one that ``fit`` wrote."""
    crc = size = 0
    for path in sorted(directory.glob("part-*.bin")):
        piece = path.read_bytes()
        crc, size = zlib.crc32(piece, crc), size + len(piece)
    try:
        told = json.loads((directory / TOLD).read_text())
    except (OSError, ValueError):
        return crc, False
    return crc, (crc, size) == (told["crc"], told["bytes"])
