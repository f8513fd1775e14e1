"""Weights in BentoML's model store, where ``bentoml models`` lists them as any other.

``bentoml.models.create`` copies a version into the store file by file, and what a
killed process has copied looks like a complete version. So a version is prepared in a
staging area and renamed. It contains BentoML's ``model.yaml`` and ``weights/``.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any
from uuid import uuid4

from lsml_bento.errors import LsmlError, WeightsError
from lsml_bento.versions.weights import (
    Manifest,
    Repository,
    Saved,
    check_manifest,
    is_tag,
    manifest_of,
    parse_tag,
)

if sys.platform != "win32":
    import fcntl

_PROBE = ".lsml-probe-"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_BYTES = 1 << 20
_DESCRIPTION = "model.yaml"
_WEIGHTS = "weights"
_WRITING = "lsml-writing:files"
"""The staging area inside the store. It looks like a model, since BentoML reads every
directory there."""


def default_store(environ: Mapping[str, str]) -> Path:
    """The model store that ``bentoml`` uses in this environment."""
    home = environ.get("BENTOML_HOME") or "~/bentoml"
    return Path(os.path.expandvars(home)).expanduser() / "models"


class BentoModels:
    """``Weights`` in a BentoML model store.

    Nothing is created or read before the first call, and ``find`` writes only to pull.

    Args:
        store: its directory. BentoML's current store is of no use, since serving a
            built bento switches it.
        repository: keeps a copy of each version.
    """

    def __init__(self, store: Path, repository: Repository | None = None) -> None:
        self._store = store
        self._repository = repository
        self._staging = StagingArea(store, self._path(_WRITING), _describe_writing)
        self._checked: dict[str, tuple[int, Manifest]] = {}

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """See ``Weights``; ``Exception``s of a full disk become ``WeightsError``."""
        with self._staging.temporary("new") as directory:
            weights = directory / _WEIGHTS
            with self._staging.translated("written"):
                weights.mkdir()
            try:
                yield weights
            except Exception as error:
                if isinstance(error, LsmlError) or not self._staging.is_full(error):
                    raise
                raise self._staging.fault("written", error) from error

    def keep(
        self,
        directory: Path,
        name: str,
        version: str,
        labels: Mapping[str, str],
        metadata: Mapping[str, Any],
    ) -> Saved:
        tag = f"{name}:{version}"
        target = self._path(tag)
        if target.exists():
            raise WeightsError(f"the weights {tag} already exist: use another tag")
        made = directory.parent
        with self._staging.translated("written"):
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
        path = self._path(tag) / _WEIGHTS
        fault = self._fault(tag, path, manifest)
        if fault is not None and self._repository is None:
            raise WeightsError(
                f"{fault}: activate another version, or train again; with "
                "LSML_MODEL_REPO a copy would exist"
            )
        if fault is not None:
            with self._staging.alone(tag.replace(":", "@")):
                # Another process may have pulled them in the meantime.
                if self._fault(tag, path, manifest) is not None:
                    self._pull(tag, manifest, fault)
        return path

    def delete(self, tag: str) -> None:
        target = self._path(tag)
        if self._repository is not None:
            self._repository.delete(tag)
        self._checked.pop(tag, None)
        if target.is_dir():
            self._put(None, target)

    def tags(self, name: str) -> list[str]:
        directory = self._store / name
        with self._staging.translated("listed"):
            entries = sorted(directory.iterdir()) if directory.is_dir() else []
        found = [f"{name}:{entry.name}" for entry in entries if entry.is_dir()]
        return [tag for tag in found if is_tag(tag)]

    def sweep(
        self, names: Iterable[str], known: Collection[str], older_than_s: float
    ) -> list[str]:
        removed = [
            tag
            for name in names
            for tag in self.tags(name)
            if tag not in known and age_s(self._path(tag)) >= older_than_s
        ]
        for tag in removed:
            self.delete(tag)
        return removed + self._staging.sweep(older_than_s)

    def _path(self, tag: str) -> Path:
        return self._store.joinpath(*parse_tag(tag))

    def _fault(self, tag: str, path: Path, manifest: Manifest) -> str | None:
        """What is wrong with the local weights; None if they are fine."""
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
        with self._staging.temporary("pull") as directory:
            if not self._repository.pull(tag, directory):
                raise WeightsError(
                    f"{fault}, and the model repository {self._repository.url} has "
                    "no copy: activate another version, or train again"
                )
            check_manifest(directory / _WEIGHTS, manifest)
            with self._staging.translated("written"):
                flush(directory)
                self._put(directory, self._path(tag))
                made = self._path(tag) / _WEIGHTS
                self._checked[tag] = made.stat().st_ino, manifest

    def _put(self, made: Path | None, target: Path, *, replace: bool = True) -> None:
        point = partial(self._point_latest, target.parent)
        self._staging.put(made, target, point, replace=replace)

    def _point_latest(self, directory: Path) -> None:
        """Update BentoML's ``latest`` to the newest version, as BentoML itself would.

        If the newest version is unknown, delete the file: BentoML recreates it.
        """
        from bentoml._internal.models import ModelStore  # noqa: PLC0415 - half a second

        latest = directory / "latest"
        made = self._staging.path() / f"latest-{uuid4().hex}"
        try:
            models = ModelStore(self._store).list(directory.name)
            newest = max(models, key=lambda model: model.creation_time)
            made.write_text(str(newest.tag.version))
            made.replace(latest)
        except Exception:  # noqa: BLE001 - another program may be writing a model
            for path in (latest, made):
                with suppress(OSError):
                    path.unlink()


def _describe_writing(directory: Path) -> None:
    if not (directory / _DESCRIPTION).exists():
        _describe(directory, _WRITING, {}, {"purpose": "staging area of lsml-bento"})


def _describe(
    directory: Path, tag: str, labels: Mapping[str, str], metadata: Mapping[str, Any]
) -> None:
    """Write ``model.yaml``, which makes a directory a BentoML model."""
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
    """Metadata without None, which BentoML does not support."""
    if isinstance(value, Mapping):
        entries = {str(key): entry for key, entry in value.items() if entry is not None}
        return {key: _without_none(entry) for key, entry in entries.items()}
    if isinstance(value, (list, tuple)):
        return [_without_none(entry) for entry in value if entry is not None]
    return value


def _replace_links(directory: Path) -> None:
    """Replace links by copies of their targets, which may be deleted later."""
    for path in [path for path in directory.rglob("*") if path.is_symlink()]:
        source = path.resolve(strict=True)
        path.unlink()
        copy: Any = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, path)


class StagingArea:
    """Where the versions of one store are written.

    Every ``OSError`` becomes a ``WeightsError``.

    Args:
        store: the store's directory, created when the first version is written.
        inside: a directory inside the store that readers of the store accept. It is
            used where files cannot be renamed into the store from beside it, as when
            the store is a mounted volume.
        prepare: makes ``inside`` acceptable to readers; called before each use.
    """

    def __init__(
        self, store: Path, inside: Path, prepare: Callable[[Path], None]
    ) -> None:
        self._store = store
        self._beside = store.parent / f".{store.name}-writing"
        self._inside = inside
        self._prepare = prepare
        self._found: Path | None = None

    @contextmanager
    def temporary(self, kind: str) -> Iterator[Path]:
        """A new directory, deleted after the block unless ``put`` moved it.

        It is locked during the block, so that ``sweep`` leaves it alone.
        """
        with self.translated("written"):
            # mkdtemp would make it unreadable for other users.
            directory = self.path() / f"{kind}-{uuid4().hex}"
            directory.mkdir()
        try:
            with self._locked(directory):
                yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def put(
        self,
        made: Path | None,
        target: Path,
        then: Callable[[], None],
        *,
        replace: bool = True,
    ) -> None:
        """Move a directory into the store, replacing the target.

        Args:
            made: a temporary directory, flushed; None only deletes the target.
            target: in the store, two levels deep.
            then: called before another process can put something.
            replace: whether the target may exist.
        """
        with self.temporary("old") as old, self.translated("written"):
            with self._locked(self.path()):
                target.parent.mkdir(parents=True, exist_ok=True)
                before = old / target.name
                if target.exists():
                    if not replace:
                        raise WeightsError(f"{target} already exists: use another name")
                    target.rename(before)
                try:
                    if made is not None:
                        made.rename(target)
                except OSError:
                    if before.exists():
                        before.rename(target)
                    raise
                then()
                with suppress(OSError):
                    target.parent.rmdir()  # if it is empty now
            if made is not None:
                _flush_one(target.parent)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """A lock between threads and processes, by name."""
        with self.translated("written"):
            lock = self.path() / f"{name}.lock"
        with self._locked(lock):
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()

    def sweep(self, older_than_s: float) -> list[str]:
        """Delete temporary directories of killed processes; returns their names."""
        with self.translated("swept"):
            found = list(self._store.glob(f"{_PROBE}*"))
            for area in (self._beside, self._inside):
                found += area.iterdir() if area.is_dir() else ()
        old = [path for path in found if age_s(path) >= older_than_s]
        return [
            path.name
            for path in old
            if path.name.startswith(("new-", "old-", "pull-", "latest-", _PROBE))
            or path.suffix == ".lock"
            if _remove_unlocked(path)
        ]

    def path(self) -> Path:
        """A directory on the store's file system."""
        if self._found is None:
            self._store.mkdir(parents=True, exist_ok=True)
            can_rename = _can_rename(self._beside, self._store)
            self._found = self._beside if can_rename else self._inside
        self._found.mkdir(parents=True, exist_ok=True)
        if self._found == self._inside:
            self._prepare(self._inside)
        return self._found

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Hold a lock that ends with the process, if the file system supports it."""
        if sys.platform == "win32":
            yield
            return
        with self.translated("written"):
            file = _lock(path)
        try:
            yield
        finally:
            os.close(file)

    @contextmanager
    def translated(self, done: str) -> Iterator[None]:
        """Turn an ``OSError`` into a ``WeightsError`` that says what to do."""
        try:
            yield
        except OSError as error:
            raise self.fault(done, error) from error

    def fault(self, done: str, error: Exception) -> WeightsError:
        advice = (
            "the disk is full: free some space, or set LSML_MODEL_STORE to another disk"
            if self.is_full(error)
            else "set LSML_MODEL_STORE to a directory that this user can write"
        )
        return WeightsError(
            f"the weights in the model store {self._store} could not be {done}: "
            f"{error}; {advice}"
        )

    def is_full(self, error: Exception) -> bool:
        """Whether the disk is full; libraries raise various errors for that."""
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if self._found is None:
            return False
        try:
            return shutil.disk_usage(self._found).free < _FULL_BYTES
        except OSError:
            return False


def flush(directory: Path) -> None:
    """Flush all files to the disk, so that a full or remote disk reports errors now.

    Raises:
        OSError: if the disk is full or fails.
    """
    for path in [*directory.rglob("*"), directory]:
        if path.is_file() or path.is_dir():
            _flush_one(path)


def _lock(path: Path) -> int:
    """Open and lock a path, creating a file if needed; closing it unlocks."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    while True:
        file = os.open(path, flags)
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # The previous holder may have deleted the file: then this lock is worthless.
        with suppress(OSError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)


def age_s(path: Path) -> float:
    """Seconds since anything in it changed; -1 if unknown."""
    try:
        found = [path, *path.rglob("*")] if path.is_dir() else [path]
        return time.time() - max(entry.lstat().st_ctime for entry in found)
    except OSError:
        return -1.0


def _flush_one(path: Path) -> None:
    if sys.platform == "win32":
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _can_rename(source: Path, store: Path) -> bool:
    """Whether files can be renamed from one directory to the other: try one."""
    name = f"{_PROBE}{uuid4().hex}"
    try:
        source.mkdir(exist_ok=True)
        (source / name).touch()
        (source / name).rename(store / name)
    except OSError:
        return False
    finally:
        for directory in (source, store):
            with suppress(OSError):
                (directory / name).unlink()
    return True


def _remove_unlocked(path: Path) -> bool:
    """Delete a path unless a process has locked it; whether it is gone."""
    if sys.platform != "win32":
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # no locks on this file system: rely on its age
        finally:
            os.close(file)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
    return not path.exists()
