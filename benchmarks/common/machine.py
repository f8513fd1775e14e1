"""The machine that measured: what it is, and how busy it was with other work."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

_LOOK_S = 0.3


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def describe(command: str) -> dict[str, str]:
    """What a reader needs to compare the numbers, by title; adds our arguments."""
    versions = ("bentoml", "torch", "uvloop", "httptools", "orjson", "lsml-bento")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join([command, *sys.argv[1:]]),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{_memory_gib():.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in versions),
    }


def _ticks() -> tuple[int, int]:
    """Busy and total clock ticks of all cores; stolen time counts as busy."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields)
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def busy_share() -> float:
    """The share of all cores that was busy while the caller slept for 0.3 s."""
    busy, total = _ticks()
    time.sleep(_LOOK_S)
    busy_now, total_now = _ticks()
    return (busy_now - busy) / max(1, total_now - total)


def describe_load(shares: list[float]) -> str:
    """Those busy shares in words."""
    if not shares:
        return "not measured"
    middle, most = statistics.median(shares), max(shares)
    verdict = "quiet" if most < 0.1 else "NOT quiet, compare ratios only"
    return (
        f"median {100 * middle:.0f} %, maximum {100 * most:.0f} % of the cores between "
        f"measurements: {verdict}"
    )
