"""The child process that runs ``fit``: ``python -m lsml_bento.processes.fit``.

It reads jobs as lines from stdin, and writes answers as lines to the original stdout.
What user code prints goes to the log. When stdin closes, the worker is gone, and the
process exits with all that it started.
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
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from lsml_bento.adapters import label_studio_ml, process_title
from lsml_bento.backend_spec import BackendSpec
from lsml_bento.error_text import locate
from lsml_bento.errors import LsmlError, ModelImportError, StateError
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
from lsml_bento.training.trainer import FitContext, Trainer

log = logging.getLogger("lsml_bento.processes.fit")  # it runs as __main__

_TRACEBACK = 20_000


class _Answers:
    """Writes lines of JSON from any thread."""

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
    """Run jobs until stdin closes."""
    answers = _Answers(_take_stdout())
    orders = _take_stdin()
    _show(spec)
    settings = Settings.from_env(os.environ)
    log_to_stderr(settings)
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
    """Runs jobs one after the other, with what this process has imported."""

    def __init__(
        self, spec: BackendSpec, settings: Settings, answers: _Answers
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._answers = answers
        self._pid = os.getpid()
        self._context: FitContext | None = None
        self._trainer: Trainer | None = None

    def carry_out(self, job: Job) -> dict[str, Any] | None:
        if self._context is None or self._trainer is None:
            self._context = self._open()
            signal.signal(
                signal.SIGTERM, self._stop
            )  # before, SIGTERM ends the process
            self._trainer = self._train_with(self._context)
        self._context.should_stop = False
        version = self._trainer.carry_out(job)
        return None if version is None else version.model_dump(mode="json")

    def _stop(self, *_: object) -> None:
        """Ask the running ``fit`` to stop."""
        if os.getpid() != self._pid:
            # A process that user code forked: SIGTERM must end it as usual.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        if self._context is not None:
            self._context.should_stop = True

    def _open(self) -> FitContext:
        spec, settings = self._spec, self._settings
        bentoml_home = Path(os.environ.get("BENTOML_HOME") or "~/bentoml").expanduser()
        return FitContext(
            spec.name,
            open_state(settings, spec.home_path, spec.name),
            open_weights(settings),
            None,
            self._answers.report,
            model_dir=settings.model_dir,
            home=spec.home_path,
            stores=(settings.model_store or bentoml_home, bentoml_home),
        )

    def _train_with(self, context: FitContext) -> Trainer:
        source = ModelSource(self._spec.target, self._spec.directory_path)
        if source.is_drop_in:
            label_studio_ml.install()
        with suppress(ModelImportError):  # the job reports it
            source.load()  # it may set variables, which open_tasks reads
        context.tasks = open_tasks(self._settings)
        media = open_media(self._settings, self._spec.home_path)
        return Trainer(source, media, context)


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
    text = "".join(traceback.format_exception(cause))
    return {
        "failed": sentence,
        "traceback": text[-_TRACEBACK:],
        "again": isinstance(error, StateError),  # Redis may be available by then
    }


def _read(orders: IO[bytes], jobs: SimpleQueue[Job]) -> None:
    """Pass jobs on; when the worker is gone, kill this process and its children."""
    for line in orders:
        jobs.put(Job.model_validate_json(line))
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _take_stdout() -> IO[bytes]:
    """Stdout for answers; what is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # visible while the job runs
    return answers


def _take_stdin() -> IO[bytes]:
    """Stdin for jobs; user code and its child processes get an empty one."""
    orders = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return orders


def _end_log() -> None:
    """Mark the end of this run's output for the worker."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    with suppress(OSError):
        os.write(2, END_OF_LOG)


if __name__ == "__main__":
    main(BackendSpec.from_json(sys.argv[1]))
