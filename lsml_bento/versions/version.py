"""Promotion: what a version is, and how it comes to serve.

Functions of a change: a version gets there by the change that ends its job, so that a
run which lost its job can promote nothing.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from lsml_bento.contract import Project, iso_time
from lsml_bento.state.store import Change, identify, key_of
from lsml_bento.versions.weights import Manifest

_HISTORY = 20


class Version(BaseModel):
    """A model version that was checked.

    Attributes:
        version: what Label Studio is told.
        tag: of the weights in the model store; None where ``load`` gets none.
        manifest: what must be in the weights' directory.
        metrics: what ``save_weights`` got.
        job: that made it.
        parent: the version that it was trained from.
        label_config: of the project when it was made.
        values: what ``fit`` set, its ancestors' values included.
        afresh: whether the modules of the backend's directory must be loaded afresh,
            since what they learned lives in another process.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str
    created_at: float
    tag: str | None = None
    manifest: Manifest = {}
    metrics: dict[str, float | None] = {}
    job: str | None = None
    parent: str | None = None
    label_config: str | None = None
    values: dict[str, Any] = {}
    afresh: bool = False

    def public(self, *, active: bool) -> dict[str, Any]:
        """What a client sees."""
        return {
            "version": self.version,
            "tag": self.tag,
            "active": active,
            "metrics": self.metrics,
            "created_at": iso_time(self.created_at),
            "job": self.job,
        }


class Pointer(BaseModel):
    """Which version of a project serves.

    Attributes:
        version: None for the base, the model as it is before any training.
        pinned: whether later versions are made without being promoted.
        moves: how often the pointer moved.
        history: versions that served before, the last one last.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str | None = None
    pinned: bool = False
    moves: int = 0
    history: list[str | None] = []


def promote(change: Change, project: Project, version: Version) -> str | None:
    """Store a version that was checked, and let it serve unless another one is pinned.

    Returns:
        What is worth knowing: that it does not serve, and why.
    """
    # As set() stores values: pydantic makes null of NaN, and refuses lone surrogates.
    stored = json.dumps(version.model_dump())
    change.put(version_key(project, version.version), stored)
    pointer = parsed_pointer(change.get(pointer_key(project)))
    if pointer.pinned:
        return (
            f"{version.version} was made, but {pointer.version or 'the base'} is pinned"
            " and goes on serving"
        )
    move(change, project, version.version)
    return None


def move(
    change: Change, project: Project, version: str | None, *, pinned: bool = False
) -> Pointer:
    """Point at a version that is there, and bring back the values that belong to it."""
    pointer = parsed_pointer(change.get(pointer_key(project)))
    old = _values(change, project, pointer.version)
    new = _values(change, project, version)
    identity = identify(project)
    for key in new.keys() - old.keys():
        _copy(change, ("value", *identity, key), ("base-value", *identity, key))
    for key in old.keys() - new.keys():
        _copy(change, ("base-value", *identity, key), ("value", *identity, key))
    for key, value in new.items():
        change.put(key_of("value", *identity, key), json.dumps(value))
    history = pointer.history
    if version != pointer.version:
        history = [*history, pointer.version][-_HISTORY:]
    moved = Pointer(
        version=version, pinned=pinned, moves=pointer.moves + 1, history=history
    )
    change.put(pointer_key(project), moved.model_dump_json())
    return moved


def _values(change: Change, project: Project, version: str | None) -> dict[str, Any]:
    if version is None:
        return {}
    found = change.get(version_key(project, version))
    values: dict[str, Any] = json.loads(found).get("values") or {} if found else {}
    return values


def _copy(
    change: Change, source: tuple[str | int, ...], target: tuple[str | int, ...]
) -> None:
    """Copy a value; where there is none, there is none afterwards."""
    found = change.get(key_of(*source))
    if found is None:
        change.delete(key_of(*target))
    else:
        change.put(key_of(*target), found)


def parsed_version(found: str) -> Version:
    """A version as it was stored."""
    return Version.model_validate(json.loads(found))


def base_of(change: Change, project: Project) -> str | None:
    """The base's own name, if the class has said it."""
    found = change.get(key_of("value", *identify(project), "model_version"))
    return None if found is None else str(json.loads(found))


def parsed_pointer(found: str | None) -> Pointer:
    """A pointer as it was stored; at the base where none was."""
    return Pointer() if found is None else Pointer.model_validate_json(found)


def pointer_key(project: Project) -> str:
    """Where a project's pointer is kept."""
    return key_of("pointer", *identify(project))


def version_key(project: Project, version: str) -> str:
    """Where a version is kept."""
    return key_of("version", *identify(project), version)
