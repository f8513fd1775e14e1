"""What a ``fit`` started and left running: threads, and processes of its session."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_HELPERS = re.compile(r"resource_tracker|forkserver|loky|compile_worker|wandb")
"""In the command of a process that a library keeps for later."""


class Background:
    """Threads and processes that started after it was created.

    Daemon threads and processes end with their parent and are not waited for. Nor are
    idle executors, and processes that libraries keep.
    """

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._pids = set(_session())

    def running(self) -> list[str]:
        """What is still running, as text for people."""
        threads = set(threading.enumerate()) - self._threads
        busy, idle_pids = [], set()
        for thread in threads:
            if thread.daemon:
                continue
            if _is_idle(thread):
                idle_pids |= set(getattr(thread, "processes", None) or ())
            else:
                busy.append(f"thread {thread.name!r}")
        kept = {c.pid for c in multiprocessing.active_children() if c.daemon}
        pids = set(_session()) - self._pids - idle_pids - kept
        commands = {pid: _command(pid) for pid in sorted(pids)}
        return busy + [
            f"process {pid} ({command[:80]})"
            for pid, command in commands.items()
            if command and not _HELPERS.search(command)
        ]

    def daemons_of(self, directory: Path) -> list[str]:
        """The running daemon threads whose function is in a directory's modules."""
        found = []
        for thread in set(threading.enumerate()) - self._threads:
            code = getattr(getattr(thread, "_target", None), "__code__", None)
            if thread.daemon and code is not None:
                file = Path(code.co_filename).resolve()
                if file.is_relative_to(directory.resolve()):
                    found.append(f"daemon thread {thread.name!r}")
        return found


def _is_idle(thread: threading.Thread) -> bool:
    """Whether a thread belongs to an executor of the library and has no work."""
    pending = getattr(thread, "pending_work_items", None)  # of a ProcessPoolExecutor
    if pending is not None:
        return not pending
    frame = sys._current_frames().get(thread.ident or 0)
    code: Any = None if frame is None else frame.f_code
    return (
        code is not None
        and code.co_name == "_worker"
        and Path(code.co_filename).parts[-2:] == ("futures", "thread.py")
    )


def _session() -> Iterator[int]:
    """The other processes of this one's session, if it leads it and this is Linux."""
    if not hasattr(os, "getsid") or os.getsid(0) != os.getpid():
        return
    with suppress(FileNotFoundError):
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):  # it has ended, or is no process
                pid = int(entry.name)
                if pid != os.getpid() and os.getsid(pid) == os.getpid():
                    yield pid


def _command(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for a zombie
    except OSError:
        return ""
    return line.replace(b"\0", b" ").decode(errors="replace").strip()
