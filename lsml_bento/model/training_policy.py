"""When a class learns, and what ``fit`` reaches of the job that it runs in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from lsml_bento.contract import Task
from lsml_bento.errors import NotTraining

START_TRAINING = "START_TRAINING"
"""What Label Studio's button sends, and ``lsml-bento train``."""

_SINGULAR = {
    "ANNOTATIONS_CREATED": "ANNOTATION_CREATED",
    "ANNOTATIONS_DELETED": "ANNOTATION_DELETED",
}


class TrainingEvent(NamedTuple):
    """One of the events that a job gathered.

    Attributes:
        action: as Label Studio names it.
        annotation: the annotation's id; None for an event about something else.
    """

    action: str
    annotation: int | str | None


@dataclass(frozen=True)
class TrainingPolicy:
    """How a burst of annotations becomes one ``fit``.

    Attributes:
        min_new_annotations: annotations since the last ``fit`` that are worth one.
        quiet_s: how long no further annotation may come before it begins.
        max_wait_s: how long a burst may put it off, from its minimum on.
    """

    min_new_annotations: int = 1
    quiet_s: float = 5.0
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: naming the one that means nothing.
        """
        if self.min_new_annotations < 1:
            raise ValueError("min_new_annotations is 1 or more")
        for name in ("quiet_s", "max_wait_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is 0 or more seconds")


@dataclass(frozen=True)
class TrainingRules:
    """What must be known of a class to make jobs of events.

    Attributes:
        trains: whether it has a ``fit`` of its own.
        actions: its ``TRAIN_EVENTS``.
        policy: how events are gathered.
        each_event: whether every event is a job, as for ``label_studio_ml``'s classes,
            whose ``fit`` reads the event and nothing else.
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
        """Whether an event of this action is trained on."""
        if not self.trains or action in self.actions:
            return self.trains
        if self.each_event and action == "ANNOTATIONS_DELETED":
            return False  # it brings ids only, which no such class expects
        return _SINGULAR.get(action) in self.actions

    def to_json(self) -> str:
        """The rules as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainingRules:
        """The rules of a text that ``to_json`` wrote."""
        found = json.loads(text)
        found["policy"] = TrainingPolicy(**found["policy"])
        found["actions"] = tuple(found["actions"])
        return cls(**found)


class Run(Protocol):
    """The job that a ``fit`` runs in."""

    @property
    def job_id(self) -> str:
        """The job's id."""

    @property
    def events(self) -> list[TrainingEvent]:
        """What the job gathered, in order."""

    @property
    def should_stop(self) -> bool:
        """Whether the job was cancelled or ran out of time."""

    def annotated_tasks(self) -> Iterator[Task]:
        """Tasks with their annotations; the skipped ones are left out."""

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None:
        """Show how far the job is."""

    def save_weights(
        self, metrics: Mapping[str, float | None]
    ) -> AbstractContextManager[Path]:
        """A directory that becomes the version's weights when the block ends."""


class NoRun:
    """Outside of a job: reports go nowhere, and there is nothing to learn from."""

    job_id = ""
    should_stop = False

    @property
    def events(self) -> list[TrainingEvent]:
        """None."""
        return []

    def annotated_tasks(self) -> Iterator[Task]:
        """Refuse.

        Raises:
            NotTraining: always.
        """
        raise NotTraining(
            "self.annotated_tasks() has tasks in the fit of a job only: in a test, "
            "give them with lsml_bento.testing.fit(model, tasks)"
        )

    def report(
        self, progress: float | None, metrics: Mapping[str, float | None]
    ) -> None:
        """Nothing."""

    def save_weights(
        self, metrics: Mapping[str, float | None]
    ) -> AbstractContextManager[Path]:
        """Refuse.

        Raises:
            NotTraining: always.
        """
        raise NotTraining(
            "self.save_weights() has a directory in the fit of a job only: in a test, "
            "call fit through lsml_bento.testing.fit(model, tasks)"
        )
