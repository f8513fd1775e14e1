"""Finds what an existing class needs: modules, data files, requirements."""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

from lsml_bento.backend_dir import classes, has_predict_function, parse, siblings
from lsml_bento.errors import LsmlError, ModelImportError
from lsml_bento.scaffold.packages import LeftOut, Packages, read_packages

MAX_BYTES = 1 << 30
"""Data files are copied up to this size in all, the smallest first."""

_MAX_FILES = 1_000
_OWN = "lsml_bento-"
_CACHES = frozenset({"__pycache__", "node_modules", "build", "dist"})
_READ = frozenset({"Dockerfile", "__init__.py", "label_config.xml"})
_OF_A_PROJECT = (".git", "_wsgi.py", "model.py", "pyproject.toml", "service.py")


class ScaffoldError(LsmlError):
    """The backend cannot be created as requested."""


@dataclass
class Copies:
    """What of a source's directory is copied.

    Attributes:
        files: relative to the directory.
        shown: the files, with one entry for a directory that is copied whole.
        left_out: what is not copied, and why.
    """

    files: list[Path] = field(default_factory=list)
    shown: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """An existing class to create a backend from.

    Attributes:
        path: the file that becomes ``model.py``.
        target: ``"model:Class"``, or ``"model"`` for decorated functions.
        siblings: modules and packages in the same directory that it imports.
    """

    path: Path
    target: str
    siblings: list[Path] = field(default_factory=list)

    @property
    def label_config(self) -> Path | None:
        """``label_config.xml`` in the same directory, if it exists."""
        path = self.path.with_name("label_config.xml")
        return path if path.is_file() else None

    @cached_property
    def packages(self) -> Packages:
        """What ``requirements.txt`` and ``Dockerfile`` beside it install."""
        return read_packages(self.path.parent)

    def copies(
        self, directory: Path, own: Collection[str], max_bytes: int = MAX_BYTES
    ) -> Copies:
        """What to copy into a new backend.

        Args:
            directory: the new backend's; it may be inside the source's directory.
            own: names of files that the new backend writes itself.
            max_bytes: of data files in all.
        """
        root, found = self.path.parent, Copies()
        if directory.resolve() == root:
            return found
        data: list[tuple[int, Path, list[Path]]] = []
        for entry in [*self.siblings, *self._data(directory, own, found)]:
            name = entry.relative_to(root)
            files = list(_files(entry, directory, found, root))
            code = [f for f in files if f.suffix == ".py"]
            if entry in self.siblings:  # without its code nothing works
                found.files += [f.relative_to(root) for f in code]
                found.shown.append(name)
                files = [f for f in files if f.suffix != ".py"]
            if files:
                data.append((sum(f.stat().st_size for f in files), name, files))
        left = max_bytes
        for size, name, files in sorted(data):
            shown = f"{name}/" if (root / name).is_dir() else str(name)
            many = f"{len(files):,} files, " if len(files) > 1 else ""
            if size > left or len(files) > _MAX_FILES:
                why = f"{many}{_human(size)}: too large, copy it yourself"
                found.left_out.append(LeftOut(shown, why))
                continue
            left -= size
            found.files += [f.relative_to(root) for f in files]
            if name not in found.shown:
                found.shown.append(name)
        return found

    def _data(
        self, directory: Path, own: Collection[str], found: Copies
    ) -> Iterable[Path]:
        """Entries of the source's directory that may be data which it reads."""
        root = self.path.parent
        if root in {Path.home(), Path(root.anchor)}:
            told = "data files of a home directory are not copied"
            found.left_out.append(LeftOut(str(root), told))
            return
        taken = {self.path, *self.siblings, *self.packages.local, directory.resolve()}
        if all(p in taken or _OWN in p.name for p in root.glob("wheels/*")):
            taken.add(root / "wheels")
        named = self._words()
        for entry in sorted(root.iterdir()):
            if entry in taken or entry.name in _CACHES or entry.name.startswith("."):
                if entry.name.startswith(".env"):
                    found.left_out.append(LeftOut(entry.name, "it may hold secrets"))
                continue
            why = _reason(entry, own, named)
            if why is None:
                yield entry
            elif why:
                shown = f"{entry.name}/" if entry.is_dir() else entry.name
                found.left_out.append(LeftOut(shown, why))

    def _words(self) -> set[str]:
        """The parts of paths and module names in the strings of the copied code."""
        words: set[str] = set()
        for path in [self.path, *self.siblings]:
            for file in [path] if path.is_file() else path.rglob("*.py"):
                with suppress(ModelImportError):
                    for node in ast.walk(parse(file)):
                        if isinstance(node, ast.Constant) and isinstance(
                            node.value, str
                        ):
                            text = node.value.replace("/", " ").replace(".", " ")
                            words |= set(text.split())
        return words


def find_source(text: str, own: Collection[str]) -> Source:
    """The source that ``PATH[:CLASS]`` names, PATH a file or a directory.

    Args:
        text: ``PATH[:CLASS]``.
        own: names of files that the new backend writes itself.

    Raises:
        ScaffoldError: if there is no such file, or not one class to serve in it.
        ModelImportError: naming file and line, if it is not Python.
    """
    path, wanted = _split(text)
    if path.is_dir():
        path /= "model.py"
    if not path.is_file():
        raise ScaffoldError(
            f"--from {text}: no such file: {path}; write PATH or PATH:CLASS"
        )
    path = path.resolve()
    beside = siblings(path)
    taken = sorted({found.name for found in beside} & {*own})
    if taken:
        raise ScaffoldError(
            f"{path.name} imports {', '.join(taken)} from its directory, and the new "
            "backend needs that name for its own file: rename that module first"
        )
    return Source(path, _target(path, wanted), beside)


def _split(text: str) -> tuple[Path, str | None]:
    path = Path(text).expanduser()
    before, _, after = text.rpartition(":")
    if path.exists() or not before or not after.isidentifier():
        return path, None
    return Path(before).expanduser(), after


def _target(path: Path, wanted: str | None) -> str:
    found = classes(path)
    if wanted is not None:
        if wanted in found or wanted in {
            getattr(node, "name", None) for node in parse(path).body
        }:
            return f"model:{wanted}"
        raise ScaffoldError(
            f"{path} has no class {wanted}; its classes: {', '.join(found) or 'none'}"
        )
    if len(found) == 1:
        return f"model:{found[0]}"
    if not found and has_predict_function(path):
        return "model"
    raise ScaffoldError(
        f"{path} has {len(found)} subclasses of LabelStudioMLBase"
        f"{': ' + ', '.join(found) if found else ''}; select one with "
        f"--from {path.name}:CLASS"
    )


def _reason(entry: Path, own: Collection[str], named: set[str]) -> str | None:
    """Why an entry is not copied; None if it is, "" if that goes without saying."""
    name = entry.name
    if name in _READ or fnmatch(name, "requirements*.txt"):
        return ""
    if name in own:
        return "the new backend has its own"
    if name.startswith(("test_", "tests")) or name == "conftest.py":
        return "a test"
    if entry.is_dir():
        return _reason_for_directory(entry, named)
    if entry.suffix != ".py" or entry.stem in named:
        return None
    return "service.py replaces it" if name == "_wsgi.py" else "nothing imports it"


def _reason_for_directory(entry: Path, named: set[str]) -> str | None:
    if entry.is_symlink():
        return "a link to a directory: copy it yourself"
    if (entry / "pyvenv.cfg").is_file():
        return "a virtual environment"
    if any((entry / name).exists() for name in _OF_A_PROJECT):
        return "a project of its own"
    is_code = (entry / "__init__.py").is_file() or all(
        path.suffix == ".py" for path in entry.rglob("*") if path.is_file()
    )
    return "nothing imports it" if is_code and entry.name not in named else None


def _files(entry: Path, skipped: Path, found: Copies, root: Path) -> Iterable[Path]:
    """Readable files of an entry; notes what cannot be read."""

    def note(error: OSError) -> None:
        name = Path(str(error.filename)).relative_to(root)
        found.left_out.append(LeftOut(str(name), f"cannot be read: {error.strerror}"))

    walked: Iterable[tuple[str, list[str], list[str]]] = [(str(root), [], [entry.name])]
    if entry.is_dir():
        walked = os.walk(entry, onerror=note)
    for place, names, files in walked:
        names[:] = [
            name
            for name in names
            if name not in _CACHES
            and not name.startswith(".")
            and Path(place, name).resolve() != skipped.resolve()
        ]
        for file in sorted(Path(place, name) for name in files):
            if not os.access(file, os.R_OK):
                shown = str(file.relative_to(root))
                found.left_out.append(LeftOut(shown, "cannot be read"))
            elif file.is_file() and file.suffix != ".pyc":
                yield file


def _human(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
