"""Model versions of a project: which there are, and which one serves.

The pointer in the state decides, and nothing else: not the newest entry of the model
store, not a file.
"""

from __future__ import annotations

import json

from lsml_bento.contract import Project
from lsml_bento.errors import VersionInUse, VersionNotFound
from lsml_bento.state.store import Change, State, below, identify, last_of
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
        """Which version serves.

        Raises:
            StateError: if the state did not answer.
        """
        return parsed_pointer(self._state.get(pointer_key(project)))

    def pointers(self) -> dict[Project, Pointer]:
        """The pointers of all projects that ever had a version."""
        prefix = below("pointer")
        found = {}
        for key, value in self._state.each(prefix):
            id_, _, created_at = last_of(key, prefix).partition("\x1f")
            found[Project(id_, int(created_at))] = parsed_pointer(value)
        return found

    def active(self, project: Project) -> Version | None:
        """The version that serves, None for the base."""
        version = self.pointer(project).version
        return None if version is None else self.find(project, version)

    def find(self, project: Project, version: str) -> Version:
        """A version.

        Raises:
            VersionNotFound: if the project has none of that name.
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
        """Let a version serve.

        Args:
            project: the project.
            version: its name; the base's own brings back the untrained model.
            pin: keep it, whatever later jobs make.

        Raises:
            VersionNotFound: if the project has none of that name.
        """

        def work(change: Change) -> Pointer:
            known = change.get(version_key(project, version)) is not None
            if not known and version != base_of(change, project):
                raise VersionNotFound(_no_version(project, version))
            return move(change, project, version if known else None, pinned=pin)

        return self._state.change(work)

    def rollback(self, project: Project) -> Pointer:
        """Let the version serve that served before.

        Raises:
            VersionNotFound: if there was none.
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
                f"{pointer.version or 'the base'}: `lsml-bento versions list` shows all"
            )

        return self._state.change(work)

    def delete(self, project: Project, version: str) -> Version:
        """Forget a version; its weights are for the caller to remove.

        Returns:
            The version, without its ``tag`` where another one uses the weights.

        Raises:
            VersionNotFound: if the project has none of that name.
            VersionInUse: if it serves.
        """

        def work(change: Change) -> Version:
            found = change.get(version_key(project, version))
            if found is None:
                raise VersionNotFound(_no_version(project, version))
            if parsed_pointer(change.get(pointer_key(project))).version == version:
                raise VersionInUse(
                    f"the version {version!r} of project {project} serves: activate "
                    "another one first"
                )
            change.delete(version_key(project, version))
            gone = parsed_version(found)
            left = change.scan(below("version", *identify(project)))
            if gone.tag in {parsed_version(value).tag for _, value in left}:
                return gone.model_copy(update={"tag": None})
            return gone

        return self._state.change(work)

    def retire(self, project: Project, keep: int) -> list[Version]:
        """Forget the oldest versions, never the one that serves.

        Args:
            project: the project.
            keep: how many stay.

        Returns:
            The versions forgotten whose weights no other version uses.
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
        f"project {project} has no version {version[:100]!r}: `lsml-bento versions "
        "list` shows them"
    )
