"""Weights of model versions: where they are stored, and how they are verified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lsml_bento.contract import Project
from lsml_bento.errors import WeightsError

_CHUNK = 1 << 20
_TAG_LENGTH = 63
_DIGEST = 12
_CLEAN = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PART = rf"[a-z0-9](?:[a-z0-9._-]{{0,{_TAG_LENGTH - 2}}}[a-z0-9])?"
_TAG = re.compile(rf"(?P<name>{_PART}):(?P<version>{_PART})")

Manifest = dict[str, tuple[int, str]]
"""Relative POSIX path of each file -> its size in bytes and SHA-256."""


class Saved(NamedTuple):
    """Stored weights.

    Attributes:
        tag: in the model store, ``name:version``.
        path: their directory.
        manifest: the files in it.
    """

    tag: str
    path: Path
    manifest: Manifest


class Weights(Protocol):
    """Stores weights; implemented by ``adapters.bentoml_models``."""

    def writing(self) -> AbstractContextManager[Path]:
        """A new directory to write weights into, deleted after the block unless kept.

        Raises:
            WeightsError: if the disk is full or the store is not writable.
        """

    def keep(
        self,
        directory: Path,
        name: str,
        version: str,
        labels: Mapping[str, str],
        metadata: Mapping[str, Any],
    ) -> Saved:
        """Store the written weights under a tag, and in the repository if there is one.

        Args:
            directory: from ``writing``, still inside its block; it is moved.
            name: from ``store_name``.
            version: lowercase; the tag must not exist yet.
            labels: for people and BentoML.
            metadata: for people and BentoML; JSON values only.

        Raises:
            WeightsError: if the directory is empty, the disk is full, or the store or
                the repository is not writable. Then the store is unchanged.
        """

    def find(self, tag: str, manifest: Manifest) -> Path:
        """The directory of weights, pulled from the repository if missing or damaged.

        Every file is verified once per process.

        Raises:
            WeightsError: if no undamaged copy exists.
        """

    def delete(self, tag: str) -> None:
        """Delete weights from store and repository, if they exist, complete or not.

        Raises:
            WeightsError: if the store or the repository is not writable.
        """

    def tags(self, name: str) -> list[str]:
        """The tags of a name, including incomplete ones."""

    def sweep(
        self, names: Iterable[str], known: Collection[str], older_than_s: float
    ) -> list[str]:
        """Delete what killed processes left: unregistered weights and temporary files.

        Args:
            names: only weights of these names are examined.
            known: tags to keep.
            older_than_s: minimum seconds since the last change. It must exceed the time
                between ``keep`` and the registration of a version. Directories that are
                being written are never deleted.

        Returns:
            The deleted tags and the names of temporary directories.
        """


class Repository(Protocol):
    """Shares weights with other machines; see ``adapters.model_repository``."""

    @property
    def url(self) -> str:
        """Its URL without credentials."""

    def push(self, directory: Path, tag: str) -> None:
        """Store a directory under a tag.

        Raises:
            WeightsError: if the repository is not writable.
        """

    def pull(self, tag: str, directory: Path) -> bool:
        """Copy the files of a tag into a directory; False if the tag does not exist.

        Raises:
            WeightsError: if they cannot be read or are damaged.
        """

    def delete(self, tag: str) -> None:
        """Delete the files of a tag, if it exists.

        Raises:
            WeightsError: if the repository is not writable.
        """


def is_tag(tag: str) -> bool:
    """Whether a text is ``name:version`` as a model store allows it."""
    return _TAG.fullmatch(tag) is not None


def parse_tag(tag: str) -> tuple[str, str]:
    """Name and version of a tag.

    Raises:
        WeightsError: if it is not a valid tag, for example because of a ``/``.
    """
    found = _TAG.fullmatch(tag)
    if found is None:
        raise WeightsError(
            f"{tag[:200]!r} is not a tag of a model store: write name:version, each of "
            f"at most {_TAG_LENGTH} lowercase letters, digits, dots and hyphens"
        )
    return found["name"], found["version"]


def store_name(backend: str, project: Project) -> str:
    """The name of a project's weights in the model store.

    It is valid in a BentoML tag: at most 63 lowercase letters, digits and ``._-``. A
    name that had to be changed or cut, or that another backend's project could get
    too, ends in a hash.
    """
    whole = f"{backend}-p{project}"
    # Only before a number does "-p" show unambiguously where the id begins.
    is_clean = _CLEAN.fullmatch(backend) and project.id.isdigit()
    if is_clean and len(whole) <= _TAG_LENGTH:
        return whole
    name = re.sub(r"[^a-z0-9._-]+", "-", whole.lower())
    name = re.sub(r"^[^a-z0-9]+|[^a-z0-9]+$", "", name)
    digest = hashlib.sha256(f"{backend}\0{project}".encode()).hexdigest()[:_DIGEST]
    return f"{name[: _TAG_LENGTH - _DIGEST - 1].rstrip('._-')}-{digest}"


def manifest_of(directory: Path) -> Manifest:
    """The manifest of a directory.

    Raises:
        WeightsError: if it is empty or cannot be read.
    """
    try:
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        found = {
            path.relative_to(directory).as_posix(): (path.stat().st_size, _sha256(path))
            for path in files
        }
    except OSError as error:
        raise WeightsError(
            f"the weights in {directory} cannot be read: {error}"
        ) from error
    if not found:
        raise WeightsError(
            "save_weights() got no file: write the weights into the directory that it "
            "returns, inside the with block"
        )
    return found


def check_manifest(directory: Path, manifest: Manifest) -> None:
    """Verify that every file is complete and unchanged.

    Raises:
        WeightsError: naming the first file that is not.
    """
    for name, (size, digest) in manifest.items():
        path = directory / name
        try:
            found = path.stat().st_size
            whole = found == size and _sha256(path) == digest
        except OSError as error:
            raise WeightsError(
                f"the weights in {directory} are damaged: {error}"
            ) from error
        if not whole:
            raise WeightsError(
                f"the weights in {directory} are damaged: {name} has {found} of "
                f"{size} bytes, or different content"
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
