"""What every process of a backend must agree on, as values by project and key."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from lsml_bento.types import Project


class State(Protocol):
    """Key/values per project, seen by every process as soon as ``write`` returns.

    Values are JSON. A project without ``created_at`` is never stored: ``resolve`` it.

    Attributes:
        writes: how often this process wrote. As long as it stays, what this process
            read is not out of date by its own doing.
    """

    writes: int

    def read(self, project: Project) -> Mapping[str, Any]:
        """All values of a project, empty for an unknown one.

        Raises:
            StateError: if no answer came within 500 ms.
        """

    def write(self, project: Project, values: Mapping[str, Any]) -> None:
        """Set several values at once, or none of them.

        Raises:
            StateError: if the store stayed locked, is full or not writable.
            TypeError: if a value is not JSON.
        """

    def projects(self) -> list[Project]:
        """Every known project, the one that was written first first.

        Raises:
            StateError: if no answer came within 500 ms.
        """

    def close(self) -> None:
        """Let go of files and connections."""


def resolve(project: Project, state: State) -> Project:
    """The project that is meant, with a ``created_at``.

    Without one, the newest known project of that id is meant; where none is known, the
    project gets ``created_at`` 0.

    Raises:
        StateError: if the state did not answer.
    """
    if project.created_at is not None:
        return project
    known = [
        other.created_at or 0 for other in state.projects() if other.id == project.id
    ]
    return Project(project.id, max(known, default=0))


def identify(project: Project) -> tuple[str, int]:
    """What values are kept under.

    Raises:
        ValueError: if the project has no ``created_at``.
    """
    if project.created_at is None:
        raise ValueError(f"project {project.id!r} has no created_at: resolve it first")
    return project.id, project.created_at


def encode(key: str, value: object) -> str:
    """A value as the JSON that is kept.

    Raises:
        TypeError: if it is not JSON.
    """
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"set({key!r}, ..) takes what JSON can hold, and this "
            f"{type(value).__name__} it can not ({error}): convert it first"
        ) from error


class MemoryState:
    """State that lives and dies with its process: for tests and classes used alone."""

    def __init__(self) -> None:
        self.writes = 0
        self._values: dict[tuple[str, int], dict[str, str]] = {}
        self._lock = threading.Lock()

    def read(self, project: Project) -> Mapping[str, Any]:
        """All values of a project, empty for an unknown one."""
        with self._lock:
            values = dict(self._values.get(identify(project), {}))
        return {key: json.loads(value) for key, value in values.items()}

    def write(self, project: Project, values: Mapping[str, Any]) -> None:
        """Set several values at once."""
        encoded = {key: encode(key, value) for key, value in values.items()}
        with self._lock:
            self._values.setdefault(identify(project), {}).update(encoded)
            self.writes += 1

    def projects(self) -> list[Project]:
        """Every known project, oldest first."""
        with self._lock:
            return [Project(*identity) for identity in self._values]

    def close(self) -> None:
        """Nothing to let go of."""
