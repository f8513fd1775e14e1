"""The registry of model versions: which exist for a project, and which one serves.

Only the pointer in the state decides which one serves, not the model store.
"""

from __future__ import annotations

import json

from lsml_bento.contract import Project
from lsml_bento.errors import VersionInUse, VersionNotFound
from lsml_bento.state.store import Change, State, below, identify
from lsml_bento.versions.version import (
    Pointer,
    Version,
    base_of,
    move,
    parsed_pointer,
    parsed_version,
    pointer_key,
    version_key,
)


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
        found = self._state.get(version_key(project, version))
        if found is None:
            raise VersionNotFound(_no_version(project, version))
        return parsed_version(found)

    def all(self, project: Project) -> list[Version]:
        """All versions, the newest first."""
        found = [
            parsed_version(value)
            for _, value in self._state.each(below("version", *identify(project)))
        ]
        return sorted(found, key=lambda version: version.created_at, reverse=True)

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
            if not known and version != base_of(change, project):
                raise VersionNotFound(_no_version(project, version))
            return move(change, project, version if known else None, pinned=pin)

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
            found = change.get(version_key(project, version))
            if found is None:
                raise VersionNotFound(_no_version(project, version))
            if parsed_pointer(change.get(pointer_key(project))).version == version:
                raise VersionInUse(
                    f"version {version!r} of project {project} is serving: activate "
                    "another version first"
                )
            change.delete(version_key(project, version))
            gone = parsed_version(found)
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
            known = [
                parsed_version(value)
                for _, value in change.scan(below("version", *identify(project)))
            ]
            known.sort(key=lambda version: version.created_at, reverse=True)
            old = [v for v in known[keep:] if v.version != active]
            for version in old:
                change.delete(version_key(project, version.version))
            used = {v.tag for v in known if v not in old}
            return [v for v in old if v.tag and v.tag not in used]

        return self._state.change(work)


def _no_version(project: Project, version: str) -> str:
    return (
        f"project {project} has no version {version[:100]!r}: see `lsml-bento versions "
        "list`"
    )
