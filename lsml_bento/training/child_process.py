"""The child process of a job: how its worker runs it, and what a ``fit`` leaves in it.

Jobs and answers go through pipes as lines of JSON. The process exits, with all that it
started, when its stdin closes because the worker is gone.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from lsml_bento.jobs.job import Job
from lsml_bento.log_format import JsonFormatter

LOG_LINES = 200
"""Number of lines of a run's output that are stored with its job."""

END_OF_LOG = b"\0end of log\n"
"""Written by the process at the end of a run, after all of its output."""

_LINE = 2_000

_NICE = 10
"""Servers on the same machine go first, as their clients wait."""

_HELPERS = re.compile(r"resource_tracker|forkserver|loky|compile_worker|wandb")
"""In the command of a process that a library keeps for later."""

Message = dict[str, Any]


class FitProcess:
    """A child process that runs jobs.

    Args:
        command: starts the process.
        environ: of the process.
        writes_json: whether its output is written to this process's standard error as
            JSON; lines that are JSON already are not changed.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        writes_json: bool = False,
    ) -> None:
        self._writes_json = writes_json
        self._job: Job | None = None
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._log_ended = threading.Event()
        self._process = subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that what user code starts can be killed too
        )
        _lower_priority(self._process.pid)
        self._readers = [
            threading.Thread(target=target, args=(stream,), daemon=True)
            for target, stream in (
                (self._read_messages, self._process.stdout),
                (self._read_log, self._process.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log_tail(self) -> list[str]:
        """The last lines of its output."""
        return list(self._log)

    def await_log(self, timeout_s: float) -> None:
        """Wait for the last lines of output of a run that has answered."""
        self._log_ended.wait(timeout_s)

    def send(self, job: Job) -> None:
        """Send a job; if the process has died, ``receive`` shows it."""
        self._job = job
        self._log.clear()
        self._log_ended.clear()
        with suppress(OSError, ValueError):
            stdin = self._process.stdin
            assert stdin is not None  # noqa: S101 - for mypy: it is a pipe
            stdin.write(job.model_dump_json().encode() + b"\n")
            stdin.flush()

    def receive(self, timeout_s: float) -> Message | None:
        """Its next message; None if there is none in time, or if it died."""
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(Empty):
                return self._messages.get(timeout=0.05)
            if not self.is_alive:
                # Its last message may still be in the pipe.
                self._readers[0].join(timeout=1)
                with suppress(Empty):
                    return self._messages.get_nowait()
                return None
            if time.monotonic() >= deadline:
                return None

    def ask_to_stop(self) -> None:
        """Set ``should_stop`` there."""
        with suppress(OSError):
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process and all that it started."""
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(timeout=1)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()

    def cause_of_death(self) -> str:
        """How the process ended, as a phrase."""
        code = self._process.wait()
        if code >= 0:
            return f"the process of fit ended by itself with exit code {code}"
        with suppress(ValueError):
            name = signal.Signals(-code).name
            hint = ", probably out of memory" if name == "SIGKILL" else ""
            return f"the process of fit was ended by {name}{hint}"
        return f"the process of fit was ended by signal {-code}"

    def _read_messages(self, stream: IO[bytes]) -> None:
        for line in _lines(stream):
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    self._messages.put(message)

    def _read_log(self, stream: IO[bytes]) -> None:
        for line in _lines(stream):
            is_end = line.endswith(END_OF_LOG)
            line = line.removesuffix(END_OF_LOG)
            if line:
                text = line.decode(errors="replace").rstrip()
                self._log.extend(one[:_LINE] for one in text_lines(text))
                if self._writes_json and not _is_json(text):
                    text = self._as_json(text)
                with suppress(OSError, ValueError):
                    sys.stderr.write(text + "\n")
            if is_end:
                self._log_ended.set()
        self._log_ended.set()

    def _as_json(self, text: str) -> str:
        entry = {"name": "fit", "levelno": logging.INFO, "levelname": "INFO"}
        entry |= {"msg": "%s", "args": (text,)}
        if self._job is not None:
            entry |= {"job": self._job.id, "project": self._job.project}
        return JsonFormatter().format(logging.makeLogRecord(entry))


def _is_json(line: str) -> bool:
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(line), dict)
    return False


def _lines(stream: IO[bytes]) -> Any:
    """Lines until the pipe is closed, by either side."""
    with suppress(OSError, ValueError):
        yield from stream


def text_lines(line: str) -> Iterator[str]:
    """A line of a log in either format, as lines of text."""
    try:
        entry = json.loads(line) if line.startswith('{"time": ') else None
        text = "{time} {level} {logger}: {event}".format_map(entry or {})
    except (ValueError, KeyError):
        yield line
    else:
        yield from text.splitlines()
        yield from (entry or {}).get("traceback", "").splitlines()


def _lower_priority(pid: int) -> None:
    """Lower the priority of the process, from its first import on."""
    with suppress(OSError, AttributeError):  # not available on Windows
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, pid, own + _NICE)
    # Linux compares niceness only inside a session, and weighs sessions by this.
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICE))


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
