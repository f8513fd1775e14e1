"""The machine that measured, in words."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from benchmarks.serving import setup


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _peer_version(package: str) -> str:
    pattern = f"lib/python*/site-packages/{package}-*.dist-info"
    found = [path.name for path in setup.ENVIRONMENT.glob(pattern)]
    if not found:
        return "not installed"
    return found[0].removeprefix(f"{package}-").removesuffix(".dist-info")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def describe(command: str, torch_threads: int) -> dict[str, str]:
    """What a reader needs to place the numbers, as rows of a table."""
    versions = ("bentoml", "torch", "uvloop", "httptools", "orjson", "lsml-bento")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{_memory_gib():.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in versions),
        "litserve": _peer_version("litserve"),
        "torch threads": f"{torch_threads}, in every arm and for the model alone",
    }
