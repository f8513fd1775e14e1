"""How busy the machine is with other things: a number that says how far to trust."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

_LOOK_S = 0.3


def _ticks() -> tuple[int, int]:
    """Busy and all clock ticks of all cores, the hypervisor's steal among the busy."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields)
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def busy_share() -> float:
    """The share of all cores that was busy just now, while the caller slept."""
    busy, total = _ticks()
    time.sleep(_LOOK_S)
    busy_now, total_now = _ticks()
    return (busy_now - busy) / max(1, total_now - total)


def describe(shares: list[float]) -> str:
    """Those shares in words."""
    if not shares:
        return "not measured"
    middle, most = statistics.median(shares), max(shares)
    verdict = "quiet" if most < 0.1 else "NOT quiet, compare ratios only"
    return (
        f"{100 * middle:.0f} % of the cores in the median, {100 * most:.0f} % at most, "
        f"between the turns: {verdict}"
    )
