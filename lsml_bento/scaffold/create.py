"""Creates a new backend's directory, from ``template/`` or from an existing class.

The template is a working backend itself. A few names in it are replaced.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lsml_bento.backend_dir import plain_service
from lsml_bento.backend_spec import (
    check_service_name,
    class_name,
    service_name,
    service_name_from,
)
from lsml_bento.scaffold.packages import LeftOut, Packages
from lsml_bento.scaffold.source import ScaffoldError, Source, find_source
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
_COPY_WHEELS = "COPY wheels ./wheels\n"
_APT = """
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends {} \\
    && rm -rf /var/lib/apt/lists/*
"""


@dataclass(frozen=True)
class Created:
    """What was written.

    Attributes:
        paths: of files, and of directories that were copied whole.
        left_out: what of the source was not copied, and why.
    """

    paths: list[Path]
    left_out: list[LeftOut]


def create_backend(
    directory: Path,
    *,
    source: Source | None = None,
    name: str | None = None,
    force: bool = False,
) -> Created:
    """Write a new backend. Nothing is written if any check fails.

    Args:
        directory: created if missing.
        source: an existing class; the template's model by default.
        name: of the service and the bento. By default the name of an existing service,
            since its state is stored under it; for a new one the directory's name.
        force: write into a directory that is not empty. Files with the names of the
            template's files and of copied files are overwritten, all others stay.

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
    beside = _copy_beside(source, directory) if source else Created([], [])
    for old in (directory / "wheels").glob("lsml_bento-*.whl"):
        old.unlink()
    written = [write_wheel(directory / "wheels")]
    for file, data in contents.items():
        written.append(directory / file)
        written[-1].write_bytes(data)
    return Created([*written, *beside.paths], beside.left_out)


def source_of(text: str) -> Source:
    """The source that ``PATH[:CLASS]`` names, PATH a file or a directory.

    Raises:
        ScaffoldError: if there is no such file, or not one class to serve in it.
        ModelImportError: naming file and line, if it is not Python.
    """
    return find_source(text, _FILES)


def checked_name(name: str) -> str:
    """The service's name for ``--name``.

    Raises:
        ScaffoldError: if BentoML does not accept it.
    """
    try:
        return check_service_name(name)
    except ValueError as error:
        raise ScaffoldError(str(error)) from None


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
        if source:
            text = _adapted(file, text, source.packages)
        if file != "model.py":
            for old, new in replaced.items():
                text = text.replace(old, new)
        contents[file] = text.encode()
    if source:
        contents["model.py"] = source.path.read_bytes()
        if source.label_config:
            contents["label_config.xml"] = source.label_config.read_bytes()
    return contents


def _adapted(file: str, text: str, packages: Packages) -> str:
    """A file of the template, with what the source's packages need."""
    if file == "requirements.txt":
        return text + "".join(f"{line}\n" for line in packages.lines)
    if file == "Dockerfile":
        if packages.system:
            names = " ".join(packages.system)
            text = text.replace(
                "\n# The user is", f"{_APT.format(names)}\n# The user is"
            )
        places = {place.as_posix() for place in packages.local.values()}
        copied = "".join(
            f"COPY {place} ./{place}\n"
            for place in sorted(places)
            if not place.startswith("wheels/")
        )
        text = text.replace(_COPY_WHEELS, _COPY_WHEELS + copied)
    if file == "bentofile.yaml" and packages.system:
        names = "".join(f'    - "{name}"\n' for name in packages.system)
        text += f"docker:\n  system_packages:\n{names}"
    return text


def _copy_beside(source: Source, directory: Path) -> Created:
    """Copy modules, data files, and what requirements name."""
    copies = source.copies(directory, _FILES)
    for name in copies.files:
        _copy(source.path.parent / name, directory / name)
    shown = [directory / name for name in copies.shown]
    for place, name in source.packages.local.items():
        if _copy(place, directory / name):
            shown.append(directory / name)
    return Created(shown, [*copies.left_out, *source.packages.left_out])


def _copy(path: Path, target: Path) -> bool:
    if path.resolve() == target.resolve():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".venv")
        shutil.copytree(path, target, dirs_exist_ok=True, ignore=ignored)
    else:
        shutil.copy2(path, target)
    return True
