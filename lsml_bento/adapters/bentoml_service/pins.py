"""Finds requirements of a bento that no installer can fulfil, without an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

_ALWAYS = ("bentoml", "lsml-bento")
"""A bento installs the version of these that builds it."""


def contradiction(requirements: str) -> str | None:
    """What in a requirements file contradicts what else is installed; None if nothing.

    Compares the lines with the versions of BentoML and lsml-bento that run, and with
    what these and the pinned packages require themselves. The latter is known for
    packages that are installed here in the pinned version.
    """
    lines = list(_parsed(requirements))
    for line in lines:
        name = canonicalize_name(line.name)
        if name in _ALWAYS and not _allows(line, running := distribution(name).version):
            return f"{line} excludes {name} {running}, which builds this bento"
    pins = {canonicalize_name(line.name): pin for line in lines if (pin := _pin(line))}
    for package in (*_ALWAYS, *pins):
        for needed in _needs(package, pins.get(canonicalize_name(package))):
            pinned = pins.get(canonicalize_name(needed.name))
            if pinned is not None and not _allows(needed, pinned):
                found = f"{needed.name}{needed.specifier}"
                return (
                    f"{needed.name}=={pinned} contradicts {package} "
                    f"{distribution(package).version}, which needs {found}"
                )
    return None


def _parsed(requirements: str) -> Iterator[Requirement]:
    """The lines that name a package, for this platform."""
    for line in requirements.splitlines():
        try:
            found = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:
            continue  # a comment, an option, or a file
        if found.marker is None or found.marker.evaluate():
            yield found


def _pin(line: Requirement) -> str | None:
    pins = [one.version for one in line.specifier if one.operator in {"==", "==="}]
    return next((pin for pin in pins if not pin.endswith(".*")), None)


def _allows(requirement: Requirement, version: str) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def _needs(name: str, pinned: str | None) -> Iterable[Requirement]:
    """What the installed package needs, if it is the pinned version."""
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return ()
    if pinned is not None and installed.version != pinned:
        return ()
    return _parsed("\n".join(installed.requires or ()))
