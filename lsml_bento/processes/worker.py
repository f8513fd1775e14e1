"""The wiring of the training process: ``lsml-bento worker``, or beside a server.

Each home has one worker. A second one stands by until the first is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lsml_bento.adapters import process_title
from lsml_bento.backend_dir import is_drop_in
from lsml_bento.backend_spec import BackendSpec, class_name
from lsml_bento.errors import LsmlError, SettingsError, WeightsError
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.processes.wiring import (
    log_to_stderr,
    open_queue,
    open_state,
    open_weights,
)
from lsml_bento.settings import Settings
from lsml_bento.state.heartbeat import Heartbeat
from lsml_bento.state.store import State
from lsml_bento.training.child_process import FitProcess
from lsml_bento.training.fit_worker import FitWorker, fit_gpus
from lsml_bento.training.job_supervisor import Publisher
from lsml_bento.versions.weights import Weights

if TYPE_CHECKING:
    from lsml_bento.processes.worker_probes import Health

log = logging.getLogger("lsml_bento.processes.worker")  # it runs as __main__

_STAND_BY_S = 1.0
_NOT_INHERITED = frozenset({"PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"})
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_worker(
    spec: BackendSpec,
    settings: Settings,
    *,
    is_embedded: bool = False,
    health_port: int | None = None,
) -> None:
    """Train until the process is stopped.

    Args:
        spec: the backend.
        settings: what the environment decides.
        is_embedded: whether the end of the standard input means that the server is
            gone.
        health_port: where probes and Prometheus are answered, if anywhere.

    Raises:
        LsmlError: if the worker cannot be put together, or the port is taken.
    """
    process_title.show(f"lsml-bento worker {spec.name}")
    log_to_stderr(settings)
    if os.environ.get("LSML_SECRET_KEY"):
        log.warning("LSML_SECRET_KEY has no effect any more: remove it")
    with ExitStack() as stack:
        state = open_state(settings, spec.home_path, spec.name)
        stack.callback(state.close)
        heartbeat = Heartbeat(state, class_name(spec.target))
        heartbeat.announce()
        stack.callback(heartbeat.leave)
        queue = open_queue(settings, spec)
        stack.callback(queue.close)
        weights = open_weights(settings)
        directory = spec.directory_path
        drop_in = directory is not None and is_drop_in(directory)
        worker = FitWorker(
            f"{socket.gethostname()}/{os.getpid()}",
            state,
            queue,
            Publisher(spec.name, state, weights, settings),
            settings,
            lambda slot: FitProcess(
                fit_command(spec),
                fit_environ(settings, slot),
                writes_json=settings.log_format == "json",
            ),
            keeps_process=drop_in,
        )
        health = _open_health(health_port, worker, state)
        if health is not None:
            stack.callback(health.close)

        def stop(*_: object) -> None:
            worker.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        if is_embedded:
            _when_parent_goes(stop)
        lock = _lock_of(spec.home_path)
        if not _got_lock(lock, worker):
            return
        stack.callback(lock.release)
        # What was written for label_studio_ml keeps its files elsewhere.
        if not drop_in:
            _try_to_write(weights)
        if health is not None:
            health.show_training()
        log.info("Worker started: pid=%d backend=%s", os.getpid(), spec.name)
        worker.work()


def _open_health(port: int | None, worker: FitWorker, state: State) -> Health | None:
    if port is None:
        return None
    # With prometheus_client, which most workers do not need.
    from lsml_bento.processes.worker_probes import Health  # noqa: PLC0415

    return Health(port, worker, JobStore(state))


def _got_lock(lock: FileLock, worker: FitWorker) -> bool:
    """Wait for the lock of the home; False if the worker is stopped first."""
    said = False
    while not worker.is_stopping:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not said:
                log.warning(
                    "Worker standing by until another one is gone: home=%s",
                    os.path.dirname(lock.lock_file),  # noqa: PTH120 - a text
                )
            said = True
            worker.pause(_STAND_BY_S)
        except OSError as error:
            raise SettingsError(
                f"{lock.lock_file} cannot be created ({error}): set LSML_HOME to a "
                "directory that this user may write to"
            ) from error
        else:
            return True
    return False


def _try_to_write(weights: Weights) -> None:
    """Log now if versions cannot be written, which a fit finds out at its end."""
    try:
        with weights.writing():
            pass
    except WeightsError as error:
        log.error(
            "Model store not writable, so that a fit cannot save weights: %s", error
        )


def has_no_worker(home: Path) -> bool:
    """Whether no worker on this machine trains for a home."""
    try:
        with _lock_of(home).acquire(timeout=0):
            return True
    except (Timeout, OSError):
        return False


def _lock_of(home: Path) -> FileLock:
    return FileLock(home / "worker.lock", thread_local=False)


def fit_command(spec: BackendSpec) -> list[str]:
    """The command that starts the process of a ``fit``."""
    return [sys.executable, "-m", "lsml_bento.processes.fit", spec.to_json()]


def fit_environ(settings: Settings, slot: int = 0) -> dict[str, str]:
    """The environment of a fit's process: its GPUs, and its share of the cores.

    One core is left to the servers.

    Args:
        settings: what the environment decides.
        slot: number of the fit among those that run at a time, from 0.
    """
    environ = child_environ()
    gpus = fit_gpus(settings)
    if gpus:
        environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    elif settings.train_gpus is not None:
        environ["CUDA_VISIBLE_DEVICES"] = settings.train_gpus
    threads = str(max(1, (_cores() - 1) // settings.fits))
    for name in _THREADS:
        environ.setdefault(name, threads)
    return environ


def child_environ() -> dict[str, str]:
    """The environment of a child process that can import what this one can."""
    environ = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environ


def worker_command(spec: BackendSpec) -> list[str]:
    """The command that starts a worker beside a server."""
    return [sys.executable, "-m", "lsml_bento.processes.worker", spec.to_json()]


def _cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _when_parent_goes(then: Callable[[], None]) -> None:
    """Call a function when stdin closes, because the server is gone."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        then()
        time.sleep(20)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main(text: str) -> None:
    """Train beside a server until it is gone."""
    try:
        settings = Settings.from_env(os.environ)
        run_worker(BackendSpec.from_json(text), settings, is_embedded=True)
    except LsmlError as error:
        raise SystemExit(f"lsml-bento worker: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1])
