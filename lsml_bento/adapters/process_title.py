"""The title of a process in ``ps``."""

from __future__ import annotations

import os
import threading


def show(title: str) -> None:
    """Set this process's title, which ``ps`` and ``pgrep -f`` show."""
    # Keeps setproctitle from overwriting the environment that other processes see.
    os.environ["SPT_NOENV"] = "1"
    import setproctitle  # noqa: PLC0415 - it reads the variable at import

    setproctitle.setproctitle(title)
    if threading.current_thread() is threading.main_thread():
        setproctitle.setthreadtitle(title[:15])
