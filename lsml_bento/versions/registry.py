"""Model versions: what one is, how it is promoted, and which one serves.

Only the pointer in the state decides which one serves, not the model store. The
functions take a change: the change that completes a job also promotes its version, so
an attempt that lost its lease cannot promote anything.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from lsml_bento.contract import Project, iso_time
from lsml_bento.errors import VersionInUse, VersionNotFound
from lsml_bento.state.store import Change, Pair, State, below, identify, key_of
from lsml_bento.versions.weights import Manifest

_HISTORY = 20
_NUMBER = re.compile(r"\+([0-9]{1,9})$")


class Version(BaseModel):
    """A model version that passed its checks.

    Attributes:
        version: the name that Label Studio shows.
        tag: of the weights in the model store; None if it has no weights.
        manifest: the files that the weights' directory must contain.
        metrics: passed to ``save_weights``.
        job: the id of the job that created it.
        parent: the version that it was trained from.
        label_config: of the project at that time.
        values: set by ``fit``, including those of its ancestors.
        afresh: whether servers must reload the modules of the backend's directory:
            classes of ``label_studio_ml`` may keep what they learn in module globals.
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
        """The version as clients see it."""
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
        version: None for the base version, the model before any training.
        pinned: whether later versions are stored without being promoted.
        moves: how often the pointer has moved.
        history: versions that served before, oldest first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str | None = None
    pinned: bool = False
    moves: int = 0
    history: list[str | None] = []


class Versions:
    """The versions of all projects of a backend.

    Args:
        state: shared by all processes of the backend.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def pointer(self, project: Project) -> Pointer:
        """The pointer to the version that serves.

        Raises:
            StateError: if the state did not respond.
        """
        return parsed_pointer(self._state.get(pointer_key(project)))

    def pointers(self) -> dict[Project, Pointer]:
        """The pointers of all projects that have ever had a version."""
        prefix = below("pointer")
        found = {}
        for key, value in self._state.each(prefix):
            id_, _, created_at = key.removeprefix(prefix).partition("\x1f")
            found[Project(id_, int(created_at))] = parsed_pointer(value)
        return found

    def active(self, project: Project) -> Version | None:
        """The version that serves; None for the base version."""
        version = self.pointer(project).version
        return None if version is None else self.find(project, version)

    def find(self, project: Project, version: str) -> Version:
        """Look up a version.

        Raises:
            VersionNotFound: if the project has no version of that name.
        """
        return _stored(self._state, project, version)

    def all(self, project: Project) -> list[Version]:
        """All versions, the newest first."""
        return _newest_first(self._state.each(below("version", *identify(project))))

    def tags(self) -> set[str]:
        """The tags of all versions of all projects."""
        found = set()
        for _, value in self._state.each(below("version")):
            tag = json.loads(value).get("tag")
            if tag:
                found.add(str(tag))
        return found

    def activate(self, project: Project, version: str, *, pin: bool = False) -> Pointer:
        """Make a version serve.

        Args:
            project: the project.
            version: its name; the base version's name restores the untrained model.
            pin: keep it serving even when later jobs create versions.

        Raises:
            VersionNotFound: if the project has no version of that name.
        """

        def work(change: Change) -> Pointer:
            known = change.get(version_key(project, version)) is not None
            base = change.get(key_of("value", *identify(project), "model_version"))
            if not known and (base is None or version != str(json.loads(base))):
                raise VersionNotFound(_no_version(project, version))
            return move(change, project, version if known else None, pinned=pin)

        return self._state.change(work)

    def reload(self, project: Project) -> Version:
        """Make servers load the serving version again, under a new name.

        For files in the backend's directory or ``MODEL_DIR`` that somebody replaced:
        servers import the directory's modules again and make new model objects. The new
        version has the stored weights, values and pin of the serving one.

        Raises:
            VersionNotFound: if no model of the project was ever made.
        """

        def work(change: Change) -> Version:
            pointer = parsed_pointer(change.get(pointer_key(project)))
            base = change.get(key_of("value", *identify(project), "model_version"))
            if pointer.version is None and base is None:
                raise VersionNotFound(
                    f"project {project} has no model yet: open a task in Label Studio "
                    "first"
                )
            if pointer.version is None:
                serving = Version(version=str(json.loads(base or "")), created_at=0)
            else:
                serving = _stored(change, project, pointer.version)
            stem = _NUMBER.sub("", serving.version)
            known = _newest_first(change.scan(below("version", *identify(project))))
            names = [serving.version, *(version.version for version in known)]
            numbers = [
                int(found[1])
                for name in names
                if _NUMBER.sub("", name) == stem and (found := _NUMBER.search(name))
            ]
            # Moves are counted for good, so no name of a deleted version returns.
            name = f"{stem}+{max([pointer.moves, *numbers]) + 1}"
            new = {"version": name, "created_at": time.time(), "afresh": True}
            new |= {"parent": pointer.version, "job": None}
            made = serving.model_copy(update=new)
            stored = json.dumps(made.model_dump())
            change.put(version_key(project, name), stored)
            move(change, project, name, pinned=pointer.pinned)
            return made

        return self._state.change(work)

    def rollback(self, project: Project) -> Pointer:
        """Make the previously serving version serve again.

        Raises:
            VersionNotFound: if there is none.
        """

        def work(change: Change) -> Pointer:
            pointer = parsed_pointer(change.get(pointer_key(project)))
            before = list(pointer.history)
            while before:
                version = before.pop()
                known = version is None or (
                    change.get(version_key(project, version)) is not None
                )
                if known and version != pointer.version:
                    moved = move(change, project, version)
                    moved = moved.model_copy(update={"history": before})
                    change.put(pointer_key(project), moved.model_dump_json())
                    return moved
            raise VersionNotFound(
                f"project {project} had no other version before "
                f"{pointer.version or 'the base'}: see `lsml-bento versions list`"
            )

        return self._state.change(work)

    def delete(self, project: Project, version: str) -> Version:
        """Delete a version's record; the caller deletes its weights.

        Returns:
            The version; its ``tag`` is None if another version uses the same weights.

        Raises:
            VersionNotFound: if the project has no version of that name.
            VersionInUse: if it serves.
        """

        def work(change: Change) -> Version:
            gone = _stored(change, project, version)
            if parsed_pointer(change.get(pointer_key(project))).version == version:
                raise VersionInUse(
                    f"version {version!r} of project {project} is serving: activate "
                    "another version first"
                )
            change.delete(version_key(project, version))
            left = change.scan(below("version", *identify(project)))
            if gone.tag in {parsed_version(value).tag for _, value in left}:
                return gone.model_copy(update={"tag": None})
            return gone

        return self._state.change(work)

    def retire(self, project: Project, keep: int) -> list[Version]:
        """Delete the records of the oldest versions, never of the serving one.

        Args:
            project: the project.
            keep: how many versions to keep.

        Returns:
            The deleted versions whose weights no other version uses.
        """

        def work(change: Change) -> list[Version]:
            active = parsed_pointer(change.get(pointer_key(project))).version
            known = _newest_first(change.scan(below("version", *identify(project))))
            old = [v for v in known[keep:] if v.version != active]
            for version in old:
                change.delete(version_key(project, version.version))
            used = {v.tag for v in known if v not in old}
            return [v for v in old if v.tag and v.tag not in used]

        return self._state.change(work)


def _stored(reader: State | Change, project: Project, version: str) -> Version:
    found = reader.get(version_key(project, version))
    if found is None:
        raise VersionNotFound(_no_version(project, version))
    return parsed_version(found)


def _newest_first(pairs: Iterable[Pair]) -> list[Version]:
    found = [parsed_version(value) for _, value in pairs]
    return sorted(found, key=lambda version: version.created_at, reverse=True)


def _no_version(project: Project, version: str) -> str:
    return (
        f"project {project} has no version {version[:100]!r}: see `lsml-bento versions "
        "list`"
    )


def promote(change: Change, project: Project, version: Version) -> str | None:
    """Store a checked version, and make it serve unless another version is pinned.

    Returns:
        Why it does not serve; None if it does.
    """
    # Plain json, as for set(): pydantic turns NaN into null and rejects surrogates.
    stored = json.dumps(version.model_dump())
    change.put(version_key(project, version.version), stored)
    pointer = parsed_pointer(change.get(pointer_key(project)))
    if pointer.pinned:
        return (
            f"{version.version} was stored, but {pointer.version or 'the base'} is "
            "pinned and keeps serving"
        )
    move(change, project, version.version)
    return None


def move(
    change: Change, project: Project, version: str | None, *, pinned: bool = False
) -> Pointer:
    """Point to an existing version, and restore the values that belong to it."""
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
    """Copy a value; delete the target if the source is absent."""
    found = change.get(key_of(*source))
    if found is None:
        change.delete(key_of(*target))
    else:
        change.put(key_of(*target), found)


def parsed_version(found: str) -> Version:
    """A stored version."""
    return Version.model_validate(json.loads(found))


def parsed_pointer(found: str | None) -> Pointer:
    """A stored pointer; to the base version if none was stored."""
    return Pointer() if found is None else Pointer.model_validate_json(found)


def pointer_key(project: Project) -> str:
    """The state's key of a project's pointer."""
    return key_of("pointer", *identify(project))


def version_key(project: Project, version: str) -> str:
    """The state's key of a version."""
    return key_of("version", *identify(project), version)
