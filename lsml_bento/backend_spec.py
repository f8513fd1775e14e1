"""What names a backend to another process: which class, where, and whose state."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class BackendSpec:
    """A backend as its processes hand it to one another.

    Attributes:
        target: the class, ``"module:Class"``.
        directory: put on the import path; empty where the module is found anyway.
        name: the service's.
        home: ``LSML_HOME``, settled.
    """

    target: str
    directory: str
    name: str
    home: str

    @property
    def home_path(self) -> Path:
        """Where state, locks and the inbox are."""
        return Path(self.home)

    @property
    def directory_path(self) -> Path | None:
        """Where the class's module is, if it must be said."""
        return Path(self.directory) if self.directory else None

    def to_json(self) -> str:
        """The spec as one argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BackendSpec:
        """The spec of a text that ``to_json`` wrote."""
        found: dict[str, Any] = json.loads(text)
        return cls(**found)


def class_name(target: str) -> str:
    """The class of ``"module:Class"``; the module's own name where none is named."""
    module, _, name = target.partition(":")
    return name or module.rpartition(".")[2]


def service_name(name: str) -> str:
    """The name of a service: a class's in the way that BentoML writes them.

    Raises:
        ValueError: if it is not one that BentoML takes.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)
    lowered = words.lower().replace("_", "-")
    if _NAME.fullmatch(lowered) is None:
        raise ValueError(
            f"{name!r} can not name a BentoML service: use up to 63 lowercase letters, "
            "digits and . _ -, as in create_service(.., name='my-model')"
        )
    return lowered
