"""The slowest tests of all parts: ``python -m tests.slowest DIRECTORY``."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

SHOWN = 15


def main(directory: Path) -> None:
    """Print how long each part took, then the slowest tests.

    Args:
        directory: where each part left what ``pytest --junitxml`` writes.
    """
    parts: list[tuple[float, str]] = []
    tests: list[tuple[float, str]] = []
    for report in directory.glob("*.xml"):
        root = ElementTree.parse(report).getroot()  # noqa: S314 - pytest wrote it
        cases = list(root.iter("testcase"))
        took = sum(float(suite.attrib["time"]) for suite in root.iter("testsuite"))
        parts.append((took, f"{report.stem}: {len(cases)} tests"))
        for case in cases:
            name = f"{case.attrib['classname']}::{case.attrib['name']}"
            tests.append((float(case.attrib["time"]), name))
    for found in (sorted(parts)[::-1], sorted(tests)[: -SHOWN - 1 : -1]):
        for seconds, name in found:
            print(f"{seconds:7.1f} s  {name}")  # noqa: T201 - its output
        print()  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
