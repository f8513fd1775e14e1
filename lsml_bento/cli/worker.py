"""``lsml-bento worker``: train on this machine, in a process apart from the server."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import click

from lsml_bento.cli.options import (
    debug_option,
    log_level_option,
    resolve,
    root_dir_option,
)


@click.command()
@click.argument(
    "directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path)
)
@root_dir_option
@click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    default=None,
    metavar="PORT",
    help="Serve /livez, /readyz, /metrics.",
)
@click.option(
    "--fits",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="Run N fits at a time, of different projects. Overrides LSML_FITS.",
)
@log_level_option
@debug_option("Log at level DEBUG and show tracebacks.")
def worker(
    directory: Path,
    root_dir: Path | None,
    health_port: int | None,
    fits: int | None,
    log_level: str | None,
    debug: bool,
) -> None:
    """Train the backend in DIR until interrupted.

    DIR is the directory of a backend or of a built bento (default: the current one).

    Start its servers with LSML_WORKER=external, so that they do not train. One worker
    trains per LSML_HOME, and a second one stands by. With REDIS_URL, workers on several
    machines share the jobs. Ctrl-C or SIGTERM puts running jobs back on the queue.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)  # there is no job yet to put back
    from lsml_bento.adapters import process_title

    # Once a variable is set, setproctitle no longer finds where the title is stored.
    process_title.show("lsml-bento worker")
    if log_level or debug:
        os.environ["LOG_LEVEL"] = log_level or "DEBUG"
    if fits:
        os.environ["LSML_FITS"] = str(fits)
    from lsml_bento.processes.opening import find_backend

    spec = find_backend(resolve(directory, root_dir))
    from lsml_bento.processes.worker import run_worker
    from lsml_bento.settings import Settings

    run_worker(spec, Settings.from_env(os.environ), health_port=health_port)


def _exit(*_: object) -> None:
    sys.exit(0)
