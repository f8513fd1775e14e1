"""Weights of model versions: where they are, and how it is known they are whole."""

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
"""Files below a directory, as POSIX paths: their size in bytes and SHA-256."""


class Saved(NamedTuple):
    """Weights as they were written.

    Attributes:
        tag: in the model store, ``name:version``.
        path: their directory.
        manifest: what must be in it.
    """

    tag: str
    path: Path
    manifest: Manifest


class Weights(Protocol):
    """Keeps weights; filled by ``adapters.bentoml_models``."""

    def writing(self) -> AbstractContextManager[Path]:
        """A new directory to write weights into; gone after the block, unless kept.

        Raises:
            WeightsError: if the disk is full, or the store can not be written.
        """

    def keep(
        self,
        directory: Path,
        name: str,
        version: str,
        labels: Mapping[str, str],
        metadata: Mapping[str, Any],
    ) -> Saved:
        """Store what was written under a tag, and in the repository if there is one.

        Args:
            directory: of ``writing``, whose block has not ended; it moves away.
            name: as ``store_name`` gives it.
            version: of a tag that is not there yet; lowercase.
            labels: for people and BentoML.
            metadata: likewise, of JSON's types.

        Raises:
            WeightsError: if the disk is full, the store or the repository can not be
                written, or there is no file. Then nothing is in the store.
        """

    def find(self, tag: str, manifest: Manifest) -> Path:
        """The directory of weights, pulled if they are not here or not whole.

        Every file is read once per process to find that out, and not again.

        Raises:
            WeightsError: if they are nowhere, or not whole anywhere.
        """

    def delete(self, tag: str) -> None:
        """Remove weights here and in the repository, half-written ones too.

        Nothing happens if there are none.

        Raises:
            WeightsError: if the store or the repository can not be written.
        """

    def tags(self, name: str) -> list[str]:
        """The tags of a name, whole or not."""

    def sweep(
        self, names: Iterable[str], known: Collection[str], older_than_s: float
    ) -> list[str]:
        """Remove what killed processes left: weights that no record knows, scraps.

        Args:
            names: whose weights are looked at; those of others are let be.
            known: tags to let be.
            older_than_s: since their last change. Longer than the time from ``keep``
                to the record; what is being written is let be at any age.

        Returns:
            The tags removed, and the names of the scraps.
        """


class Repository(Protocol):
    """Keeps weights for other machines; filled by ``adapters.model_repository``."""

    @property
    def url(self) -> str:
        """Where it is, without credentials."""

    def push(self, directory: Path, tag: str) -> None:
        """Store a directory under a tag.

        Raises:
            WeightsError: if the repository can not be written.
        """

    def pull(self, tag: str, directory: Path) -> bool:
        """Write what is stored under a tag into a directory; False if there is none.

        Raises:
            WeightsError: if it can not be read, or is not whole.
        """

    def delete(self, tag: str) -> None:
        """Remove what is stored under a tag; nothing happens if there is none.

        Raises:
            WeightsError: if the repository can not be written.
        """


def is_tag(tag: str) -> bool:
    """Whether a model store takes it for a name and a version."""
    return _TAG.fullmatch(tag) is not None


def parse_tag(tag: str) -> tuple[str, str]:
    """Name and version of a tag.

    Raises:
        WeightsError: for anything that is no tag, path characters included.
    """
    found = _TAG.fullmatch(tag)
    if found is None:
        raise WeightsError(
            f"{tag[:200]!r} is no tag of a model store: it takes name:version, each of "
            f"lowercase letters, digits and ._- inside, {_TAG_LENGTH} at most"
        )
    return found["name"], found["version"]


def store_name(backend: str, project: Project) -> str:
    """The name of a project's weights in the model store: a BentoML tag's.

    Lowercase letters, digits and ``._-``, 63 at most; names that would be changed or
    cut, or that another backend's project could have, end in a hash of the whole.
    """
    whole = f"{backend}-p{project}"
    # Project ids are numbers; in others "-p" would not tell where they begin.
    is_clean = _CLEAN.fullmatch(backend) and project.id.isdigit()
    if is_clean and len(whole) <= _TAG_LENGTH:
        return whole
    name = re.sub(r"[^a-z0-9._-]+", "-", whole.lower())
    name = re.sub(r"^[^a-z0-9]+|[^a-z0-9]+$", "", name)
    digest = hashlib.sha256(f"{backend}\0{project}".encode()).hexdigest()[:_DIGEST]
    return f"{name[: _TAG_LENGTH - _DIGEST - 1].rstrip('._-')}-{digest}"


def manifest_of(directory: Path) -> Manifest:
    """What is in a directory.

    Raises:
        WeightsError: if it is empty, or can not be read.
    """
    try:
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        found = {
            path.relative_to(directory).as_posix(): (path.stat().st_size, _sha256(path))
            for path in files
        }
    except OSError as error:
        raise WeightsError(
            f"the weights in {directory} can not be read: {error}"
        ) from error
    if not found:
        raise WeightsError(
            "save_weights() got no file: write the weights into the directory that it "
            "gives, inside the with block"
        )
    return found


def check_manifest(directory: Path, manifest: Manifest) -> None:
    """Find out whether every file is there as it was written.

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
                f"the weights in {directory} are not whole: {error}"
            ) from error
        if not whole:
            raise WeightsError(
                f"the weights in {directory} are not whole: {name} has {found} of "
                f"{size} bytes, or others than were written"
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
