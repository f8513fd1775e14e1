"""What an image installs, as ``constraints.txt`` pins it, besides BentoML.

A bento installs the BentoML that builds it, and what that version needs: pins of these
would contradict another version.

``python -m tests.e2e.pins torch > bentos/pytorch_ner/requirements.txt``
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.e2e.processes import ROOT

HEADER = """\
# What lsml-bento[{extras}] needs besides BentoML, at the versions of constraints.txt;
# made with: .venv/bin/python -m tests.e2e.pins {extras}
# BentoML adds itself, and what it needs comes with it.
"""

_FREE = re.compile(r"nvidia-|cuda-|triton|setuptools$")
"""What torch for GPUs needs, which it pins itself, and what pip never freezes."""


def requirements(extras: Iterable[str]) -> str:
    """The text of a ``requirements.txt``."""
    pinned: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, found, _ = line.partition("==")
        if found:
            pinned[canonicalize_name(name)] = line
    names = needed("lsml-bento", frozenset(extras)) & {*pinned}
    names -= {"bentoml", *needed("bentoml", frozenset())}
    lines = [pinned[name] for name in sorted(names)]
    return HEADER.format(extras=",".join(extras)) + "".join(f"{x}\n" for x in lines)


def missing(extras: Iterable[str]) -> set[str]:
    """What is needed and not pinned."""
    known = {
        canonicalize_name(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    found = needed("lsml-bento", frozenset(extras)) - known
    return {name for name in found if _FREE.match(name) is None}


def needed(
    name: str, extras: frozenset[str], seen: set[tuple[str, str]] | None = None
) -> set[str]:
    """The names of all packages that an installed one needs on this machine."""
    seen = set() if seen is None else seen
    found: set[str] = set()
    for requirement in _direct(name, extras):
        other = canonicalize_name(requirement.name)
        found.add(other)
        key = (other, ",".join(sorted(requirement.extras)))
        if key not in seen:
            seen.add(key)
            found |= needed(other, frozenset(requirement.extras), seen)
    return found


def _direct(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return  # its own needs cannot be known; ``missing`` names it if it matters
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        wanted = ({"extra": extra} for extra in ("", *extras))
        if marker is None or any(marker.evaluate(one) for one in wanted):
            yield requirement


if __name__ == "__main__":
    sys.stdout.write(requirements(sys.argv[1].split(",")))
