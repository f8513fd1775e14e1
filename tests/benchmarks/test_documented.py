"""The commands and pages of the benchmarks that documents name exist."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_TEXT = "\n".join(
    path.read_text()
    for path in (
        *(_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")),
        *sorted((_ROOT / "docs").glob("*.md")),
        *sorted((_ROOT / "benchmarks").rglob("*.md")),
    )
)


def test_documented_commands_can_be_run() -> None:
    modules = set(re.findall(r"python -m\s+(benchmarks[.\w]*\w)", _TEXT))
    assert {"benchmarks.serving", "benchmarks.learning"} <= modules
    for module in modules:
        spec = find_spec(module)
        assert spec is not None, module
        if spec.submodule_search_locations is not None:
            assert find_spec(f"{module}.__main__"), module


def test_documented_pages_exist() -> None:
    pages = set(re.findall(r"\bbenchmarks/[\w/]+\.md", _TEXT))
    assert pages
    for page in pages:
        assert (_ROOT / page).is_file(), page
