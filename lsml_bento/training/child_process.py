"""The child process that runs ``fit``, as its worker sees it.

Jobs and answers go through pipes as lines of JSON. The process exits, with all that it
started, when its stdin closes because the worker is gone.
"""

from __future__ import annotations

import json
import logging
import os
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
