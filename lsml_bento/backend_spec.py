"""Identifies a backend to its other processes: class, directory, name, home."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_LENGTH = 63
_NAME = re.compile(rf"[a-z0-9]([a-z0-9.-]{{0,{_LENGTH - 2}}}[a-z0-9])?")


@dataclass(frozen=True)
class BackendSpec:
    """A backend, in the form that its processes pass to each other.

    Attributes:
        target: the class, ``"module:Class"``.
        directory: added to the import path; empty if the module is importable anyway.
        name: the service's name.
        home: the absolute path of ``LSML_HOME``.
    """

    target: str
    directory: str
    name: str
    home: str

    @property
    def home_path(self) -> Path:
        """The directory of state, locks and spooled events."""
        return Path(self.home)

    @property
    def directory_path(self) -> Path | None:
        """The directory of the class's module, if it has to be on the import path."""
        return Path(self.directory) if self.directory else None

    def to_json(self) -> str:
        """The spec as one command-line argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BackendSpec:
        found: dict[str, Any] = json.loads(text)
        return cls(**found)


def class_name(target: str) -> str:
    """The class of ``"module:Class"``; of ``"module"``, the module's own name."""
    module, _, name = target.partition(":")
    return name or module.rpartition(".")[2]


def service_name(name: str) -> str:
    """A service's name, made from a class's name: ``MyModel`` becomes ``my-model``.

    Raises:
        ValueError: if BentoML does not accept it.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)
    return check_service_name(words.lower(), name)


def check_service_name(name: str, given: str | None = None) -> str:
    """A service's name, with hyphens in place of underscores.

    The error message quotes ``given``, what the user wrote, or else the name.

    Raises:
        ValueError: if BentoML does not accept it.
    """
    name, given = name.replace("_", "-"), given or name
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"{given!r} cannot name a BentoML service: use up to {_LENGTH} lowercase "
            "letters, digits, dots and hyphens, such as 'my-model'"
        )
    return name


def service_name_from(text: str) -> str:
    """A service's name made from any text; empty if no character of it is allowed."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower())
    return name.lstrip("._-")[:_LENGTH].rstrip("._-")
