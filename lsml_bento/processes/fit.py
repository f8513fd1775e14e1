"""The wiring of a fit's process: ``python -m lsml_bento.processes.fit``.

Jobs come as lines on the standard input, answers go as lines to what was the standard
output; whatever user code prints goes to the log. The end of the input means that the
worker is gone, and ends this process and all that it started.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Any

from lsml_bento.adapters import label_studio_ml, process_title
from lsml_bento.backend_spec import BackendSpec
from lsml_bento.error_text import locate
from lsml_bento.errors import LsmlError, StateError
from lsml_bento.jobs.job import Job
from lsml_bento.model.loader import ModelSource
from lsml_bento.processes.wiring import (
    log_to_stderr,
    open_media,
    open_state,
    open_tasks,
    open_weights,
)
from lsml_bento.settings import Settings
from lsml_bento.training.child_process import END_OF_LOG
from lsml_bento.training.job_run import Workbench
from lsml_bento.training.trainer import Trainer

log = logging.getLogger(__name__)

_TRACEBACK = 20_000


class _Answers:
    """Writes lines of JSON, from whichever thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        with self._lock, suppress(OSError):
            self._stream.write(json.dumps(message).encode() + b"\n")
            self._stream.flush()

    def report(self, news: dict[str, Any]) -> None:
        self.send({"report": news})


def main(spec: BackendSpec) -> None:
    """Carry out the jobs that come, until no more do."""
    answers = _Answers(_take_stdout())
    orders = _take_stdin()
    _show(spec)
    settings = Settings.from_env(os.environ)
    log_to_stderr(settings.log_level)
    jobs: SimpleQueue[Job] = SimpleQueue()
    threading.Thread(
        target=_read, args=(orders, jobs), name="worker", daemon=True
    ).start()
    fits = _Fits(spec, settings, answers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        job = jobs.get()
        _show(spec, job)
        try:
            answer: dict[str, Any] = {"done": fits.carry_out(job)}
        except BaseException as error:  # noqa: BLE001 - user code raises anything
            answer = _failure(error)
        _end_log()
        answers.send(answer)
        _show(spec)


class _Fits:
    """Carries out jobs one after the other, in what this process has imported."""

    def __init__(
        self, spec: BackendSpec, settings: Settings, answers: _Answers
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._answers = answers
        self._pid = os.getpid()
        self._bench: Workbench | None = None
        self._trainer: Trainer | None = None

    def carry_out(self, job: Job) -> dict[str, Any] | None:
        if self._bench is None or self._trainer is None:
            self._bench = self._open()
            signal.signal(signal.SIGTERM, self._stop)  # before, it just ends
            self._trainer = self._train_with(self._bench)
        self._bench.should_stop = False
        version = self._trainer.carry_out(job)
        return None if version is None else version.model_dump(mode="json")

    def _stop(self, *_: object) -> None:
        """Ask the running ``fit`` to end."""
        if os.getpid() != self._pid:
            # A process that user code forked: what ends others must end it too.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        if self._bench is not None:
            self._bench.should_stop = True

    def _open(self) -> Workbench:
        spec, settings = self._spec, self._settings
        return Workbench(
            spec.name,
            open_state(settings, spec.home_path, spec.name),
            open_weights(settings),
            open_tasks(settings),
            self._answers.report,
        )

    def _train_with(self, bench: Workbench) -> Trainer:
        source = ModelSource(self._spec.target, self._spec.directory_path)
        if source.is_drop_in:
            label_studio_ml.install()
        media = open_media(self._settings, self._spec.home_path)
        return Trainer(source, media, bench)


def _show(spec: BackendSpec, job: Job | None = None) -> None:
    doing = "idle" if job is None else f"job={job.id} project={job.project}"
    process_title.show(f"lsml-bento fit {doing} {spec.name}")


def _failure(error: BaseException) -> dict[str, Any]:
    cause = error
    if isinstance(error, LsmlError):
        cause = error.__cause__ or error
        sentence = str(error)
    else:
        sentence = f"the run failed: {locate(error)}"
    told = "".join(traceback.format_exception(cause))
    return {
        "failed": sentence,
        "traceback": told[-_TRACEBACK:],
        "again": isinstance(error, StateError),  # Redis may be back by then
    }


def _read(orders: IO[bytes], jobs: SimpleQueue[Job]) -> None:
    """Pass jobs on; when the worker is gone, end this process and its children."""
    for line in orders:
        jobs.put(Job.model_validate_json(line))
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _take_stdout() -> IO[bytes]:
    """The standard output for answers; what is printed goes to the standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # seen while the run goes on
    return answers


def _take_stdin() -> IO[bytes]:
    """The standard input for jobs; user code and what it starts finds an empty one."""
    orders = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return orders


def _end_log() -> None:
    """Tell the worker that what this run wrote is all there."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    with suppress(OSError):
        os.write(2, END_OF_LOG)


if __name__ == "__main__":
    main(BackendSpec.from_json(sys.argv[1]))
