"""The state as ``fit`` sees it: its changes stay private until its job succeeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lsml_bento.contract import Project
from lsml_bento.state.store import Change, Pair, State, encode

_Answer = TypeVar("_Answer")

_SHARED = frozenset({"label_config", "extra_params"})
"""Keys of the project, not of the trained model: they are written through."""


class OverlayState(State):
    """A project's values, overlaid with those that a running ``fit`` sets.

    Args:
        state: read from, and written to while changes are not captured.
        project: the only one whose changes are captured.
        version: returned by ``get("model_version")``; None for the base model's name.
    """

    def __init__(self, state: State, project: Project, version: str | None) -> None:
        self._state = state
        self._project = project
        self._version = version
        self._captured: dict[str, str] = {}
        self._captures = False

    def capture(self) -> None:
        """Capture what is set from now on instead of writing it."""
        self._captures = True

    def release(self) -> None:
        """Write through again; captured values can still be read."""
        self._captures = False

    @property
    def named_version(self) -> str | None:
        """The version that ``set("model_version", ..)`` named."""
        found = self._captured.get("model_version")
        return None if found is None else str(json.loads(found)) or None

    @property
    def values(self) -> dict[str, Any]:
        """The captured values, without the name of the version."""
        return {
            key: json.loads(value)
            for key, value in self._captured.items()
            if key != "model_version"
        }

    def read(self, project: Project) -> dict[str, Any]:
        """All values, including the captured ones."""
        values = self._state.read(project)
        if project != self._project:
            return values
        # Outside of fit, setup() reads this, and setup() names the base model.
        version = self.named_version or self._version
        if self._captures and version is not None:
            values["model_version"] = version
        return {**values, **self.values}

    def write(self, project: Project, values: Mapping[str, Any]) -> None:
        """Capture values, or write them."""
        if not self._captures or project != self._project:
            self._state.write(project, values)
            return
        shared = {key: value for key, value in values.items() if key in _SHARED}
        encoded = {key: encode(key, value) for key, value in values.items()}
        if shared:
            self._state.write(project, shared)
        self._captured.update({k: v for k, v in encoded.items() if k not in _SHARED})

    def get(self, key: str) -> str | None:
        """As ``State``."""
        return self._state.get(key)

    def scan(
        self, prefix: str, after: str = "", limit: int | None = None
    ) -> list[Pair]:
        """As ``State``."""
        return self._state.scan(prefix, after, limit)

    def change(self, work: Callable[[Change], _Answer], wait_s: float = 2.0) -> _Answer:
        """As ``State``."""
        return self._state.change(work, wait_s)

    def close(self) -> None:
        """Do nothing: the state below belongs to others."""
