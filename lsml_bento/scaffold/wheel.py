"""Builds a wheel of the running version from the installed package.

lsml-bento is not on a package index yet, so a new backend contains its wheel.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from lsml_bento.errors import LsmlError

_DISTRIBUTION = "lsml-bento"
_PACKAGE = "lsml_bento"
_LEFT_OUT = frozenset(
    {"__pycache__", ".lsml", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
)
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

_WHEEL = """\
Wheel-Version: 1.0
Generator: lsml-bento
Root-Is-Purelib: true
Tag: py3-none-any
"""


class WheelError(LsmlError):
    """The installed package cannot be packed into a wheel."""


def wheel_name() -> str:
    """The file name of the running version's wheel.

    Raises:
        WheelError: if lsml-bento is not installed.
    """
    return f"{_PACKAGE}-{_installed().version}-py3-none-any.whl"


def write_wheel(directory: Path) -> Path:
    """Pack the installed package into a wheel, also from an editable installation.

    The result is reproducible: equal packages give equal bytes.

    Args:
        directory: created if missing.

    Returns:
        The wheel's path.

    Raises:
        WheelError: if lsml-bento is not installed as files.
    """
    installed = _installed()
    info = f"{_PACKAGE}-{installed.version}.dist-info"
    members = dict(_package_files())
    members |= {f"{info}/{name}": data for name, data in _metadata(installed)}
    record = f"{info}/RECORD"
    members[record] = _record(members, record)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / wheel_name()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return path


def _installed() -> Distribution:
    try:
        return distribution(_DISTRIBUTION)
    except PackageNotFoundError as error:
        raise WheelError(
            "lsml-bento is running without being installed, so no wheel of it can be "
            "built: run `pip install -e .` in its checkout"
        ) from error


def _package_files() -> Iterator[tuple[str, bytes]]:
    root = Path(__file__).parents[1]
    if not root.is_dir():
        raise WheelError(
            f"lsml-bento is running from {root}, which is not a directory, so no wheel "
            "of it can be built: install it with pip"
        )
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and not _LEFT_OUT & set(parts) and path.suffix != ".pyc":
            yield "/".join([_PACKAGE, *parts]), path.read_bytes()


def _metadata(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    for name in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
        if text := installed.read_text(name):
            yield name, text.encode()
    yield "WHEEL", _WHEEL.encode()


def _record(members: dict[str, bytes], record: str) -> bytes:
    lines = []
    for name, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
        lines.append(f"{name},sha256={digest.rstrip(b'=').decode()},{len(data)}")
    return "\n".join([*lines, f"{record},,", ""]).encode()
