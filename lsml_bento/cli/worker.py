"""``lsml-bento worker``: train, on this machine and apart from the server."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import click

from lsml_bento.cli.opening import find_spec
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
    help="Answer /livez, /readyz and /metrics on it.",
)
@click.option(
    "--fits",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="Run N fits at a time, of different projects. Overrides LSML_FITS.",
)
@log_level_option
@debug_option("Log at level DEBUG, and show errors with their tracebacks.")
def worker(
    directory: Path,
    root_dir: Path | None,
    health_port: int | None,
    fits: int | None,
    log_level: str | None,
    debug: bool,
) -> None:
    """Train the backend in DIR until stopped.

    DIR is the current directory by default. It may be that of a built bento.

    Start its servers with LSML_WORKER=external, so that they do not train. One worker
    trains for each LSML_HOME, and a second one stands by. With REDIS_URL, workers on
    several machines share the jobs. On Ctrl-C or SIGTERM, running jobs are put back.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)  # there is no job yet to put back
    from lsml_bento.adapters import process_title

    # It finds its place no more once a variable has been set.
    process_title.show("lsml-bento worker")
    if log_level or debug:
        os.environ["LOG_LEVEL"] = log_level or "DEBUG"
    if fits:
        os.environ["LSML_FITS"] = str(fits)
    spec = find_spec(resolve(directory, root_dir))
    from lsml_bento.processes.worker import run_worker
    from lsml_bento.settings import Settings

    run_worker(spec, Settings.from_env(os.environ), health_port=health_port)


def _end(*_: object) -> None:
    sys.exit(0)
