"""Reads the requirements and the Dockerfile of an existing backend."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

_NOT_NEEDED = re.compile(
    r"\s*(?:(?:label[-_.]studio[-_.]ml|lsml[-_.]bento|gunicorn)(?![-_.\w])"
    r"|\./wheels/lsml_bento-)",
    re.IGNORECASE,
)
_OWN_WHEEL = re.compile(r"(?:\./)?wheels/lsml_bento-|# lsml-bento is in")
_OPTION = re.compile(
    r"(-[rcef]|--(?:requirement|constraint|editable|find-links)\b)[\s=]*(.+)"
)
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_LOCAL = re.compile(
    r"(?:[\w.-]+\s*@\s*)?(?:file:(?://)?)?(?P<path>[^\s;\[#@]+)"
    r"(?P<extras>\[[^\]]*\])?(?:#egg=\S*)?(?P<rest>.*)"
)
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz")
_SECRET = re.compile(r"(://)[^/\s@]+@")

_APT_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_APT_WITH_VALUE = frozenset({"-t", "-o", "--target-release", "--option"})
# Debian 13, the new image's system, no longer has the name on the left.
_APT_RENAMED = {"libgl1-mesa-glx": "libgl1"}
_HARMLESS = frozenset(
    {"apt", "apt-get", "cd", "chmod", "chown", "echo", "groupadd", "install", "mkdir"}
    | {"rm", "set", "true", "useradd"}
)
_INSTALLERS = frozenset({"pip", "setuptools", "uv", "wheel"})
_SHELL = re.compile(r"(?:^|[\s;])(?:if|for|while|case)\s|\bsh\s+-\w*c\b")
_NEW_IMAGE = "python:3.12-slim"
_LIKE_NEW_IMAGE = re.compile(r"(?:^|[/\s])python:(?:3\.12\b|\$)")
_OWN_VARIABLES = ("LOG_LEVEL", "LSML_", "PIP_", "PORT", "PYTHON", "THREADS", "WORKERS")
_WIDTH = 100
_ADD = "add it to the new Dockerfile if the model needs it"


class LeftOut(NamedTuple):
    """Something that is not copied, and why."""

    name: str
    reason: str


@dataclass
class Packages:
    """What a backend installs.

    Attributes:
        lines: of requirements, with the files that ``-r`` names in their place.
        local: files and directories that lines name -> where they are copied to.
        system: packages of the system.
        left_out: lines and instructions that are not taken over, and why.
    """

    lines: list[str] = field(default_factory=list)
    local: dict[Path, Path] = field(default_factory=dict)
    system: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def omit(self, name: str, reason: str) -> None:
        """Note something that is not taken over, without the passwords in its URLs."""
        shown = _SECRET.sub(r"\1...@", " ".join(name.split()))
        shown = f"{shown[:_WIDTH]}.." if len(shown) > _WIDTH else shown
        if (left_out := LeftOut(shown, reason)) not in self.left_out:
            self.left_out.append(left_out)


def read_packages(directory: Path) -> Packages:
    """What ``requirements.txt`` and ``Dockerfile`` in a directory install."""
    found = Packages()
    files = [directory / "requirements.txt"]
    dockerfile = directory / "Dockerfile"
    if dockerfile.is_file():
        named = _read_dockerfile(dockerfile, found)
        files += [directory / name for name in named if "test" not in name]
    read: set[Path] = set()
    for path in files:
        if path.is_file():
            _read_requirements(path, directory, found, read)
    is_git = any("git+" in line for line in found.lines)
    if is_git and "git" not in found.system:
        found.system.append("git")
    return found


def _read_requirements(
    path: Path, root: Path, found: Packages, read: set[Path]
) -> None:
    if path.resolve() in read:
        return
    read.add(path.resolve())
    for line in _lines(path):
        if _OWN_WHEEL.match(line):
            continue
        if _NOT_NEEDED.match(line):
            found.omit(line, "lsml-bento replaces it")
            continue
        option = _OPTION.match(_COMMENT.sub("", line))
        flag, value = option.groups() if option else ("", line)
        if flag in {"-r", "--requirement"} and "://" not in value:
            other = path.parent / value.strip("\"'")
            if other.is_file():
                _read_requirements(other, root, found, read)
            else:
                found.omit(line, "no such file")
            continue
        local = _LOCAL.fullmatch(value)
        if local is None or not _is_path(local, value, is_option=bool(flag)):
            found.lines.append(line)
        else:
            near = path.parent if flag in {"-c", "--constraint"} else root
            _take_local(line, flag, local, near, root, found)


def _take_local(
    line: str,
    flag: str,
    named: re.Match[str],
    near: Path,
    root: Path,
    found: Packages,
) -> None:
    """Note a line with a path, relative to ``near``, and what the path leads to."""
    place = (near / Path(named["path"].strip("\"'")).expanduser()).resolve()
    if place == root.resolve():
        found.omit(line, "it names the directory itself, whose modules are copied")
    elif not place.exists():
        found.omit(line, "no such file")
    else:
        target = found.local[place] = _place(place, root.resolve())
        more = f"{named['extras'] or ''}{named['rest']}"
        found.lines.append(f"{flag} ./{target.as_posix()}{more}".strip())


def _lines(path: Path) -> Iterator[str]:
    """The lines of a requirements file as pip reads them."""
    raw = path.read_bytes()
    wide = raw[:2] in {b"\xff\xfe", b"\xfe\xff"}  # written by PowerShell
    text = raw.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        if _COMMENT.sub("", line).strip():
            yield line.strip()


def _is_path(found: re.Match[str], value: str, *, is_option: bool) -> bool:
    if value.startswith("-") or "://" in value.replace("file://", ""):
        return False
    path = found["path"]
    return (
        is_option
        or "file:" in value
        or path.startswith((".", "/", "~"))
        or path.endswith(_ARCHIVES)
        or "/" in path
    )


def _place(path: Path, root: Path) -> Path:
    """Where a file or directory that requirements name is copied to."""
    if path.is_relative_to(root):
        return path.relative_to(root)
    return Path("wheels" if path.suffix == ".whl" else "packages", path.name)


def _read_dockerfile(path: Path, found: Packages) -> list[str]:
    """Note the system's packages, and return the requirements files that pip reads."""
    files: list[str] = []
    stages: set[str] = set()
    text = path.read_text(encoding="utf-8", errors="replace")
    text = re.sub(r"^[ \t]*#.*\n?", "", text, flags=re.MULTILINE)
    for line in re.sub(r"\\[ \t]*\r?\n", " ", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        match word.upper():
            case "FROM":
                if not (_LIKE_NEW_IMAGE.search(rest) or stages & {*rest.split()}):
                    found.omit(f"FROM {rest}", f"the new image is {_NEW_IMAGE}")
                stages |= set(re.findall(r"(?i)\sas\s+(\S+)", rest))
            case "RUN":
                files += _read_run(rest, found)
            case "ENV":
                for name in re.findall(r"([A-Za-z_]\w*)=", rest) or rest.split()[:1]:
                    if not name.startswith(_OWN_VARIABLES):
                        found.omit(f"ENV {name}", "set it where the backend runs")
            case "ADD" | "COPY" if "://" in rest or "--from" in rest:
                found.omit(line.strip(), _ADD)
    return files


def _read_run(text: str, found: Packages) -> list[str]:
    """Note what a RUN installs; see ``_read_dockerfile``."""
    text = re.sub(r"--(?:mount|network|security)=\S+", "", text)
    if _SHELL.search(text):
        if not re.search(r"-test\.txt\b", text):  # of every example of HumanSignal's
            found.omit(f"RUN {text}", _ADD)
        return []
    commands = re.split(r"&&|\|\|?|;", text)
    return [file for one in commands for file in _read_command(one.strip(), found)]


def _read_command(command: str, found: Packages) -> list[str]:
    """Note what one command of RUN installs; see ``_read_dockerfile``."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    while words and (words[0] == "sudo" or re.match(r"\w+=", words[0])):
        words.pop(0)
    if words[:1] in (["apt-get"], ["apt"]) and "install" in words:
        _read_apt(words[words.index("install") + 1 :], found)
        return []
    is_pip = any(re.fullmatch(r"(?:.*/)?pip3?|uv", w) for w in words[:4])
    if not is_pip or "install" not in words:
        if words and words[0] not in _HARMLESS:
            found.omit(f"RUN {command}", _ADD)
        return []
    given = words[words.index("install") + 1 :]
    files = []
    for flag, value in pairwise(given):
        if flag in {"-r", "--requirement"}:
            files.append(Path(value).name)
    named = [w for w in given if not w.startswith("-") and Path(w).name not in files]
    named = [w for w in named if re.split(r"[=<>~\[]", w)[0] not in _INSTALLERS]
    if [w for w in named if not _NOT_NEEDED.match(w)]:
        found.omit(f"RUN {command}", "add its packages to requirements.txt")
    return files


def _read_apt(words: list[str], found: Packages) -> None:
    skip = False
    for word in words:
        if skip or word.startswith("-"):
            skip = word in _APT_WITH_VALUE
            continue
        name = re.split(r"[=/:]", word)[0]
        name = _APT_RENAMED.get(name, name)
        if not _APT_NAME.fullmatch(name):
            found.omit(f"apt package {word}", "it is not a plain name")
        elif re.match(r"python3?(?:\.\d+)?(?:-|$)", name):
            found.omit(f"apt package {name}", f"{_NEW_IMAGE} brings Python")
        elif name not in found.system:
            found.system.append(name)
