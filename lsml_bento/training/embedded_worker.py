"""The worker beside a server: one a home, restarted when it dies, gone with the server.

Each serving process runs for the office by a lock; the one that holds it keeps a worker
as its child. The worker notices by its input that the server is gone.
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
"""The first pause before a restart, and the longest: a worker that can not start."""

_STEADY_S = 5.0
"""A worker that lived longer could start: the next one gets the first pause again."""

_LEAVE_S = 8.0


class EmbeddedWorker:
    """Keeps a worker running, if no other process of this home does.

    Args:
        command: starts it; it ends when its standard input does.
        environ: its environment.
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
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Let the worker put its job back and end; returns when it is gone."""
        self._stopping.set()
        self._leave()
        if self._thread.is_alive():
            self._thread.join(timeout=_LEAVE_S + 2)

    def _keep(self) -> None:
        pause_s = _RESTART_S[0]
        while not self._stopping.is_set() and self._is_elected():
            started = time.monotonic()
            try:
                self._process = subprocess.Popen(
                    self._command, env=self._environ, stdin=subprocess.PIPE
                )
            except OSError as error:
                log.error("the worker can not be started: %s", error)
            else:
                if self._stopping.is_set():
                    self._leave()
                code = self._process.wait()
                _close(self._process)
                if self._stopping.is_set():
                    break
                log.error("the worker ended with %s and is started again", code)
            if time.monotonic() - started > _STEADY_S:
                pause_s = _RESTART_S[0]
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _RESTART_S[1])
        with suppress(OSError):
            self._lock.release()

    def _is_elected(self) -> bool:
        """Wait for the lock; False if the server ends first."""
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
            log.warning("the worker does not end and is killed")
            process.kill()
            process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close its input, which tells it to end."""
    with suppress(OSError, ValueError):
        if process.stdin is not None:
            process.stdin.close()
