"""The name that a process has in ``ps``."""

from __future__ import annotations

import os
import threading


def show(title: str) -> None:
    """Name this process.

    Args:
        title: for people; other processes find it by it in ``ps`` and ``pgrep -f``.
    """
    # Without it the environment that others see of this process is overwritten.
    os.environ["SPT_NOENV"] = "1"
    import setproctitle  # noqa: PLC0415 - it reads the variable when it is imported

    setproctitle.setproctitle(title)
    if threading.current_thread() is threading.main_thread():
        setproctitle.setthreadtitle(title[:15])
