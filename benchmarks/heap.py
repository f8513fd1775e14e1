"""What holds a serving process's memory, told by that process itself on SIGUSR1."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

_TOP = 12
_WAIT_S = 60


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def describe() -> dict[str, Any]:
    """Counts of live objects by type, and what a collection and a trim give back.

    Frozen objects (`gc.freeze`) are left out by the interpreter: what is counted came
    after start-up.
    """
    before = _rss_mib()
    counts = Counter(
        f"{type(obj).__module__}.{type(obj).__qualname__}" for obj in gc.get_objects()
    )
    gc.collect()
    collected = _rss_mib()
    ctypes.CDLL(None).malloc_trim(0)
    return {
        "rss": before,
        "rss after gc.collect": collected,
        "rss after malloc_trim": _rss_mib(),
        "objects": dict(counts.most_common(_TOP)),
    }


def dump_on_signal() -> None:
    """On SIGUSR1 write `describe()` to BENCH_HEAP_FILE, if that is set."""
    target = os.environ.get("BENCH_HEAP_FILE")
    if not target:
        return

    def write(number: int, frame: FrameType | None) -> None:
        partial = Path(f"{target}.partial")
        partial.write_text(json.dumps(describe()))
        partial.replace(target)

    signal.signal(signal.SIGUSR1, write)


def ask(pid: int, target: Path) -> dict[str, Any]:
    """Have the process write its description and read it.

    Raises:
        TimeoutError: if it does not within a minute.
    """
    os.kill(pid, signal.SIGUSR1)
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end:
        if target.exists():
            found: dict[str, Any] = json.loads(target.read_text())
            return found
        time.sleep(0.1)
    raise TimeoutError(f"process {pid} wrote no {target}")
