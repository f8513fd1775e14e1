"""Creates a new backend's directory, from ``template/`` or from an existing class.

The template is a working backend itself. A few names in it are replaced.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from lsml_bento.backend_dir import (
    classes,
    has_predict_function,
    parse,
    plain_service,
    siblings,
)
from lsml_bento.backend_spec import (
    check_service_name,
    class_name,
    service_name,
    service_name_from,
)
from lsml_bento.errors import LsmlError
from lsml_bento.scaffold.wheel import wheel_name, write_wheel

_FILES = {
    "model.py": ["model.py"],
    "service.py": ["service.py"],
    "label_config.xml": ["label_config.xml"],
    "test_api.py": ["test_contract.py", "test_example.py"],
    "requirements.txt": ["requirements.txt"],
    "bentofile.yaml": ["bentofile.yaml"],
    "Dockerfile": ["Dockerfile"],
    "docker-compose.yml": ["docker-compose.yml"],
    ".dockerignore": ["dockerignore"],
    "README.md": ["README.md"],
}
_TARGET = "model:NewModel"
_NAME = "new-model"
_WHEEL = "lsml_bento-0.0.0-py3-none-any.whl"

_NOT_NEEDED = re.compile(
    r"\s*(?:(?:label[-_.]studio[-_.]ml|lsml[-_.]bento|gunicorn)(?![-_.\w])"
    r"|\./wheels/lsml_bento-)",
    re.IGNORECASE,
)


class ScaffoldError(LsmlError):
    """The backend cannot be created as requested."""


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

    @property
    def requirements(self) -> list[str]:
        """The lines of ``requirements.txt`` in the same directory that still apply."""
        path = self.path.with_name("requirements.txt")
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        return [
            line
            for line in lines
            if line.strip()
            and not line.lstrip().startswith("#")
            and not _NOT_NEEDED.match(line)
        ]


def create_backend(
    directory: Path,
    *,
    source: Source | None = None,
    name: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Write a new backend. Nothing is written if any check fails.

    Args:
        directory: created if missing.
        source: an existing class; the template's model by default.
        name: of the service and the bento. By default the name of an existing service,
            since its state is stored under it; for a new one the directory's name.
        force: write into a directory that is not empty. Files with the names of the
            template's files are overwritten, all others stay.

    Returns:
        The files written.

    Raises:
        ScaffoldError: if the directory is not empty or a name is invalid.
        WheelError: if no wheel of lsml-bento can be built.
    """
    _check_empty(directory, force)
    if name is None:
        name = _name_before(directory) or _name_of(directory)
    replaced = {
        _TARGET: source.target if source else _TARGET,
        _NAME: checked_name(name),
        _WHEEL: wheel_name(),
    }
    contents = _contents(source, replaced)
    for old in (directory / "wheels").glob("lsml_bento-*.whl"):
        old.unlink()
    written = [write_wheel(directory / "wheels")]
    for file, data in contents.items():
        written.append(directory / file)
        written[-1].write_bytes(data)
    return [*written, *_copy_siblings(source, directory)]


def find_source(text: str) -> Source:
    """The source that ``PATH[:CLASS]`` names, PATH a file or a directory.

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
    taken = sorted({found.name for found in beside} & {*_FILES})
    if taken:
        raise ScaffoldError(
            f"{path.name} imports {', '.join(taken)} from its directory, and the new "
            "backend needs that name for its own file: rename that module first"
        )
    return Source(path, _target(path, wanted), beside)


def checked_name(name: str) -> str:
    """The service's name for ``--name``.

    Raises:
        ScaffoldError: if BentoML does not accept it.
    """
    try:
        return check_service_name(name)
    except ValueError as error:
        raise ScaffoldError(str(error)) from None


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


def _check_empty(directory: Path, force: bool) -> None:
    if directory.is_file():
        raise ScaffoldError(f"{directory} is a file: name a new directory")
    if force or not directory.is_dir():
        return
    there = sorted(path.name for path in directory.iterdir())
    if there:
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise ScaffoldError(
            f"{directory} is not empty, it contains {', '.join(there[:5])}{more}: name "
            "another directory, or overwrite files of the same names with --force"
        )


def _name_before(directory: Path) -> str | None:
    """The existing service's name, if it can be read without importing the file."""
    if not (directory / "service.py").is_file():
        return None
    given = plain_service(directory)
    if given is None:
        return None
    with suppress(ValueError):  # a name that BentoML never accepted
        return service_name(given.get("name") or class_name(given["model"]))
    return None


def _name_of(directory: Path) -> str:
    words = re.sub(r"[^a-z0-9.]+", "-", directory.name.lower())
    return service_name_from(words) or "backend"


def _contents(source: Source | None, replaced: dict[str, str]) -> dict[str, bytes]:
    template = files("lsml_bento") / "template"
    contents: dict[str, bytes] = {}
    for file, parts in _FILES.items():
        if source and file == "test_api.py":
            parts = parts[:1]  # the second part tests the template's own model
        text = "".join((template / part).read_text(encoding="utf-8") for part in parts)
        if source and file == "requirements.txt":
            text += "".join(f"{line}\n" for line in source.requirements)
        if file != "model.py":
            for old, new in replaced.items():
                text = text.replace(old, new)
        contents[file] = text.encode()
    if source:
        contents["model.py"] = source.path.read_bytes()
        if source.label_config:
            contents["label_config.xml"] = source.label_config.read_bytes()
    return contents


def _copy_siblings(source: Source | None, directory: Path) -> list[Path]:
    copied = []
    for path in source.siblings if source else []:
        target = directory / path.name
        if path.resolve() == target.resolve():
            continue
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(path, target, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy2(path, target)
        copied.append(target)
    return copied
