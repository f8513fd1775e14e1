"""The worker beside a server: one per home, restarted when it dies.

Each serving process competes for a file lock. The one that holds the lock keeps a
worker as its child. The worker exits when its stdin closes with the server.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 1.0
_RESTART_S = (0.5, 10.0)
"""The first pause before a restart, and the longest, in seconds."""

_STEADY_S = 5.0
"""After a worker that lived longer, the pause is the first one again."""

_LEAVE_S = 8.0


class EmbeddedWorker:
    """Keeps a worker running, unless another process of this home does.

    Args:
        command: starts a worker that exits when its stdin closes.
        environ: of the worker.
        home: where the lock is.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], home: Path
    ) -> None:
        self._command = list(command)
        self._environ = dict(environ)
        self._lock = FileLock(home / "embedding.lock", thread_local=False)
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="worker", daemon=True)

    def start(self) -> None:
        """Start; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the worker, which puts its jobs back, and wait for its end."""
        self._stopping.set()
        self._leave()
        if self._thread.is_alive():
            self._thread.join(timeout=_LEAVE_S + 2)

    def _keep(self) -> None:
        pause_s = _RESTART_S[0]
        while not self._stopping.is_set() and self._got_lock():
            started = time.monotonic()
            try:
                self._process = subprocess.Popen(
                    self._command, env=self._environ, stdin=subprocess.PIPE
                )
            except OSError as error:
                log.error("Worker not started: %s", error)
            else:
                if self._stopping.is_set():
                    self._leave()
                code = self._process.wait()
                _close(self._process)
                if self._stopping.is_set():
                    break
                log.error("Worker exited, restarting: code=%s", code)
            if time.monotonic() - started > _STEADY_S:
                pause_s = _RESTART_S[0]
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _RESTART_S[1])
        with suppress(OSError):
            self._lock.release()

    def _got_lock(self) -> bool:
        """Wait for the lock; False if the server stops first."""
        while not self._stopping.is_set():
            try:
                self._lock.acquire(timeout=0)
            except (Timeout, OSError):
                self._stopping.wait(_ASK_AGAIN_S)
            else:
                return True
        return False

    def _leave(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        _close(process)
        try:
            process.wait(timeout=_LEAVE_S)
        except subprocess.TimeoutExpired:
            log.warning("Worker killed: it did not exit in time")
            process.kill()
            process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close its stdin, so that it exits."""
    with suppress(OSError, ValueError):
        if process.stdin is not None:
            process.stdin.close()
