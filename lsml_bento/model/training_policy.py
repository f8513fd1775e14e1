"""When a class trains, and what ``fit`` can use of its job."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from lsml_bento.contract import Task
from lsml_bento.errors import NotTraining

START_TRAINING = "START_TRAINING"
"""The event of Label Studio's "Start training" button and ``lsml-bento train``."""

_SINGULAR = {
    "ANNOTATIONS_CREATED": "ANNOTATION_CREATED",
    "ANNOTATIONS_DELETED": "ANNOTATION_DELETED",
}


class TrainingEvent(NamedTuple):
    """One of the events that a job combines.

    Attributes:
        action: Label Studio's name for it.
        annotation: the annotation's id; None if the event is not about an annotation.
    """

    action: str
    annotation: int | str | None


@dataclass(frozen=True)
class TrainingPolicy:
    """When annotations lead to a ``fit``: a debounce with a minimum and a limit.

    Attributes:
        min_new_annotations: how many annotations since the last ``fit`` are needed.
        quiet_s: seconds without another annotation before ``fit`` starts.
        max_wait_s: seconds after the minimum is reached until ``fit`` starts anyway.
    """

    min_new_annotations: int = 1
    quiet_s: float = 5.0
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        """Validate the numbers.

        Raises:
            ValueError: naming the invalid one.
        """
        if self.min_new_annotations < 1:
            raise ValueError("min_new_annotations must be at least 1")
        for name in ("quiet_s", "max_wait_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0 seconds")
        if math.isinf(self.quiet_s) and math.isinf(self.max_wait_s):
            raise ValueError(
                "quiet_s and max_wait_s cannot both be infinite: to train on request "
                'only, set TRAIN_EVENTS = ("START_TRAINING",)'
            )


@dataclass(frozen=True)
class TrainingRules:
    """What the server must know of a class to create jobs from events.

    Attributes:
        trains: whether the class defines ``fit``.
        actions: its ``TRAIN_EVENTS``.
        policy: when events become a job.
        each_event: whether every event becomes its own job. So it is for classes of
            ``label_studio_ml``, whose ``fit`` reads only the event.
    """

    trains: bool = True
    actions: tuple[str, ...] = (
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATION_DELETED",
        START_TRAINING,
    )
    policy: TrainingPolicy = field(default_factory=TrainingPolicy)
    each_event: bool = False

    def wants(self, action: str) -> bool:
        """Whether the class trains on events of this action."""
        if not self.trains or action in self.actions:
            return self.trains
        if self.each_event and action == "ANNOTATIONS_DELETED":
            return False  # it contains ids only, which no such class expects
        return _SINGULAR.get(action) in self.actions

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainingRules:
        found = json.loads(text)
        found["policy"] = TrainingPolicy(**found["policy"])
        found["actions"] = tuple(found["actions"])
        return cls(**found)


class Run(Protocol):
    """One execution of ``fit`` for a job; see the methods of ``LabelStudioMLBase``."""

    @property
    def job_id(self) -> str: ...

    @property
    def events(self) -> list[TrainingEvent]: ...

    @property
    def should_stop(self) -> bool: ...

    def annotated_tasks(self) -> Iterator[Task]: ...

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None: ...

    def save_weights(
        self, metrics: Mapping[str, float | None]
    ) -> AbstractContextManager[Path]: ...


class NoRun:
    """The run of an object outside of a job: reports are discarded, the rest fails."""

    job_id = ""
    should_stop = False

    @property
    def events(self) -> list[TrainingEvent]:
        return []

    def annotated_tasks(self) -> Iterator[Task]:
        raise _not_training("annotated_tasks")

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None:
        pass

    def save_weights(
        self, metrics: Mapping[str, float | None]
    ) -> AbstractContextManager[Path]:
        raise _not_training("save_weights")


def _not_training(method: str) -> NotTraining:
    return NotTraining(
        f"self.{method}() works only in the fit of a job: in a test, call "
        "lsml_bento.testing.fit(model, tasks, directory)"
    )
