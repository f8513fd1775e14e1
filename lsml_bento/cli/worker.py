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
@log_level_option
@debug_option("Log at level DEBUG, and show errors with their tracebacks.")
def worker(
    directory: Path,
    root_dir: Path | None,
    health_port: int | None,
    log_level: str | None,
    debug: bool,
) -> None:
    """Train the backend in DIR until told to end.

    DIR is the current directory by default; that of a built bento will do.

    Start its servers with LSML_WORKER=external, so that they train nothing. One worker
    trains for a LSML_HOME, a second one stands by; with REDIS_URL, workers on several
    machines share the jobs. At Ctrl-C or SIGTERM the running job is put back.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)  # there is no job yet to put back
    from lsml_bento.adapters import process_title

    # It finds its place no more once a variable has been set.
    process_title.show("lsml-bento worker")
    if log_level or debug:
        os.environ["LOG_LEVEL"] = log_level or "DEBUG"
    spec = find_spec(resolve(directory, root_dir))
    from lsml_bento.processes.worker import run_worker
    from lsml_bento.settings import Settings

    run_worker(spec, Settings.from_env(os.environ), health_port=health_port)


def _end(*_: object) -> None:
    sys.exit(0)
