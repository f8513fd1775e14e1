"""Weights in BentoML's model store, where ``bentoml models`` shows them like any other.

``bentoml.models.create`` would copy a version into the store, and what a killed process
copied so far looks like a whole one: so it is made ready in a workroom and renamed. In
it lie BentoML's ``model.yaml`` and, below ``weights/``, the files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any
from uuid import uuid4

from lsml_bento.errors import LsmlError, WeightsError
from lsml_bento.versions.staging import StagingArea, age_s, flush
from lsml_bento.versions.weights import (
    Manifest,
    Repository,
    Saved,
    check_manifest,
    is_tag,
    manifest_of,
    parse_tag,
)

_DESCRIPTION = "model.yaml"
_WEIGHTS = "weights"
_WRITING = "lsml-writing:files"
"""Shows in the store where weights are written in it. BentoML reads every directory
there, so it is a model by its looks."""


def default_store(environ: Mapping[str, str]) -> Path:
    """The model store that ``bentoml`` has with these variables: ``BENTOML_HOME``'s."""
    home = environ.get("BENTOML_HOME") or "~/bentoml"
    return Path(os.path.expandvars(home)).expanduser() / "models"


class BentoModels:
    """``Weights`` in a BentoML model store.

    Nothing is made or read before the first call, and ``find`` writes only to pull.

    Args:
        store: its directory. Never BentoML's current one, which a built bento switches.
        repository: has a copy of each version.
    """

    def __init__(self, store: Path, repository: Repository | None = None) -> None:
        self._store = store
        self._repository = repository
        self._workroom = StagingArea(store, self._path(_WRITING), _describe_writing)
        self._checked: dict[str, tuple[int, Manifest]] = {}

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A new directory to write weights into; gone after the block, unless kept.

        Raises:
            WeightsError: if the disk is full, or the store can not be written.
        """
        with self._workroom.scrap("new") as directory:
            weights = directory / _WEIGHTS
            with self._workroom.translated("written"):
                weights.mkdir()
            try:
                yield weights
            except Exception as error:
                if isinstance(error, LsmlError) or not self._workroom.is_full(error):
                    raise
                raise self._workroom.fault("written", error) from error

    def keep(
        self,
        directory: Path,
        name: str,
        version: str,
        labels: Mapping[str, str],
        metadata: Mapping[str, Any],
    ) -> Saved:
        """Store what was written under a tag, and in the repository if there is one.

        Raises:
            WeightsError: if the disk is full, the store or the repository can not be
                written, or there is no file. Then nothing is in the store.
        """
        tag = f"{name}:{version}"
        target = self._path(tag)
        if target.exists():
            raise WeightsError(f"the weights {tag} are there already: name others")
        made = directory.parent
        with self._workroom.translated("written"):
            _replace_links(directory)
            manifest = manifest_of(directory)
            files = {file: list(known) for file, known in manifest.items()}
            _describe(made, tag, labels, {**metadata, "manifest": files})
            flush(made)
            if self._repository is not None:
                self._repository.push(made, tag)
            self._put(made, target, replace=False)
            self._checked[tag] = (target / _WEIGHTS).stat().st_ino, manifest
        return Saved(tag, target / _WEIGHTS, manifest)

    def find(self, tag: str, manifest: Manifest) -> Path:
        """The directory of weights, pulled if they are not here or not whole.

        Raises:
            WeightsError: if they are nowhere, or not whole anywhere.
        """
        path = self._path(tag) / _WEIGHTS
        fault = self._fault(tag, path, manifest)
        if fault is not None and self._repository is None:
            raise WeightsError(
                f"{fault}: activate another version, or train; LSML_MODEL_REPO would "
                "keep a copy"
            )
        if fault is not None:
            with self._workroom.alone(tag.replace(":", "@")):
                # Another process may have pulled it meanwhile.
                if self._fault(tag, path, manifest) is not None:
                    self._pull(tag, manifest, fault)
        return path

    def delete(self, tag: str) -> None:
        """Remove weights here and in the repository, half-written ones too.

        Raises:
            WeightsError: if the store or the repository can not be written.
        """
        target = self._path(tag)
        if self._repository is not None:
            self._repository.delete(tag)
        self._checked.pop(tag, None)
        if target.is_dir():
            self._put(None, target)

    def tags(self, name: str) -> list[str]:
        """The tags of a name, whole or not."""
        directory = self._store / name
        with self._workroom.translated("listed"):
            entries = sorted(directory.iterdir()) if directory.is_dir() else []
        found = [f"{name}:{entry.name}" for entry in entries if entry.is_dir()]
        return [tag for tag in found if is_tag(tag)]

    def sweep(
        self, names: Iterable[str], known: Collection[str], older_than_s: float
    ) -> list[str]:
        """Remove what killed processes left: weights that no record knows, scraps.

        Raises:
            WeightsError: if the store or the repository can not be written.
        """
        removed = [
            tag
            for name in names
            for tag in self.tags(name)
            if tag not in known and age_s(self._path(tag)) >= older_than_s
        ]
        for tag in removed:
            self.delete(tag)
        return removed + self._workroom.sweep(older_than_s)

    def _path(self, tag: str) -> Path:
        return self._store.joinpath(*parse_tag(tag))

    def _fault(self, tag: str, path: Path, manifest: Manifest) -> str | None:
        """What is wrong with the weights here; None if nothing is."""
        try:
            seen = path.stat().st_ino, manifest
        except OSError:
            return f"the weights {tag} are not in the model store {self._store}"
        if self._checked.get(tag) != seen:
            try:
                check_manifest(path, manifest)
            except WeightsError as error:
                return str(error)
            self._checked[tag] = seen
        return None

    def _pull(self, tag: str, manifest: Manifest, fault: str) -> None:
        assert self._repository is not None  # noqa: S101 - find() looked
        with self._workroom.scrap("pull") as directory:
            if not self._repository.pull(tag, directory):
                raise WeightsError(
                    f"{fault}, and the model repository {self._repository.url} has "
                    "none: activate another version, or train"
                )
            check_manifest(directory / _WEIGHTS, manifest)
            with self._workroom.translated("written"):
                flush(directory)
                self._put(directory, self._path(tag))
                made = self._path(tag) / _WEIGHTS
                self._checked[tag] = made.stat().st_ino, manifest

    def _put(self, made: Path | None, target: Path, *, replace: bool = True) -> None:
        def then() -> None:
            self._point_latest(target.parent)

        self._workroom.put(made, target, then, replace=replace)

    def _point_latest(self, directory: Path) -> None:
        """Let BentoML's ``latest`` name the newest, as BentoML itself would.

        Where it can not be told which one that is, the file goes: BentoML makes it.
        """
        from bentoml._internal.models import ModelStore  # noqa: PLC0415 - half a second

        latest = directory / "latest"
        made = self._workroom.path() / f"latest-{uuid4().hex}"
        try:
            models = ModelStore(self._store).list(directory.name)
            newest = max(models, key=lambda model: model.creation_time)
            made.write_text(str(newest.tag.version))
            made.replace(latest)
        except Exception:  # noqa: BLE001 - one may be half-written, by somebody else
            for path in (latest, made):
                with suppress(OSError):
                    path.unlink()


def _describe_writing(directory: Path) -> None:
    if not (directory / _DESCRIPTION).exists():
        _describe(directory, _WRITING, {}, {"purpose": "weights are written in here"})


def _describe(
    directory: Path, tag: str, labels: Mapping[str, str], metadata: Mapping[str, Any]
) -> None:
    """Write what makes a directory a model of BentoML's."""
    from bentoml._internal.models import ModelContext  # noqa: PLC0415 - half a second
    from bentoml._internal.models.model import ModelInfo  # noqa: PLC0415
    from bentoml._internal.tag import Tag  # noqa: PLC0415

    info = ModelInfo(
        tag=Tag.from_str(tag),
        module="lsml_bento",
        labels=dict(labels),
        options={},
        metadata=_without_none(metadata),
        context=ModelContext("lsml-bento", {"lsml-bento": version_of("lsml-bento")}),
        signatures={},
        api_version="v1",
    )
    made = directory / f"new-{uuid4().hex}"
    with made.open("w", encoding="utf8") as file:
        info.dump(file)
    made.replace(directory / _DESCRIPTION)


def _without_none(value: Any) -> Any:
    """BentoML's metadata knows no None."""
    if isinstance(value, Mapping):
        entries = {str(key): entry for key, entry in value.items() if entry is not None}
        return {key: _without_none(entry) for key, entry in entries.items()}
    if isinstance(value, (list, tuple)):
        return [_without_none(entry) for entry in value if entry is not None]
    return value


def _replace_links(directory: Path) -> None:
    """Put files in the place of links, whose targets are not the version's to keep."""
    for path in [path for path in directory.rglob("*") if path.is_symlink()]:
        source = path.resolve(strict=True)
        path.unlink()
        copy: Any = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, path)
