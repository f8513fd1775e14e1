"""``lsml-bento start``: hand a directory to BentoML.

This process imports no model, no torch and no BentoML: on POSIX it turns into the
server, so that signals and exit codes are the server's own.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from lsml_bento.backend_dir import is_drop_in, serves
from lsml_bento.cli.options import (
    debug_option,
    log_level_option,
    pipeline_options,
    resolve,
    root_dir_option,
    with_absolute_paths,
)
from lsml_bento.errors import LsmlError
from lsml_bento.pipelines import pipeline_name

_SERVED = "lsml_bento.processes.bentoml_target:svc"
_EVERY_NETWORK = "0.0.0.0"  # noqa: S104 - Label Studio is often on another machine

_VARIABLES = {
    "workers": "WORKERS",
    "threads": "THREADS",
    "max_batch_size": "LSML_MAX_BATCH_SIZE",
    "model_dir": "MODEL_DIR",
    "log_level": "LOG_LEVEL",
    "basic_auth_user": "BASIC_AUTH_USER",
    "basic_auth_pass": "BASIC_AUTH_PASS",
    "pipeline": "LSML_PIPELINE",
    "model": "LSML_PIPELINE_MODEL",
    "device": "LSML_PIPELINE_DEVICE",
    "name": "LSML_PIPELINE_NAME",
}
"""The variable through which the server learns of an option; argv is public."""


class StartError(LsmlError):
    """A backend that can not be started."""


@click.command()
@click.argument(
    "directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path)
)
@root_dir_option
@pipeline_options
@click.option(
    "--device",
    help="Where the pipeline computes, such as cuda:1 (LSML_PIPELINE_DEVICE; a GPU if "
    "there is one).",
)
@click.option(
    "--name",
    help="What the backend of a pipeline is called (LSML_PIPELINE_NAME; made of "
    "pipeline and model). Its state is in ~/.lsml/NAME.",
)
@click.option(
    "-p",
    "--port",
    type=click.IntRange(1, 65535),
    envvar="PORT",
    default=9090,
    show_default=True,
    show_envvar=True,
    help="The port to listen on.",
)
@click.option(
    "--host",
    default=_EVERY_NETWORK,
    show_default=True,
    help="The address to listen on.",
)
@click.option(
    "--basic-auth-user",
    help="Ask for this user name on every route but health probes (BASIC_AUTH_USER).",
)
@click.option(
    "--basic-auth-pass",
    help="The password that goes with it; BASIC_AUTH_PASS keeps it out of the shell's "
    "history.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Serving processes (WORKERS; 1)."
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Calls of predict at a time in a process, for models that wait on the network "
    "(THREADS; 1).",
)
@click.option(
    "--max-batch-size",
    type=click.IntRange(1),
    help="Tasks in one call of predict at most (LSML_MAX_BATCH_SIZE; 32).",
)
@click.option(
    "--model-dir",
    type=click.Path(path_type=Path),
    help="Where a model written for label_studio_ml keeps its files (MODEL_DIR).",
)
@log_level_option
@debug_option("Log at level DEBUG, and show errors with their tracebacks.")
def start(
    directory: Path | None,
    root_dir: Path | None,
    port: int,
    host: str,
    debug: bool,
    **options: Any,
) -> None:
    """Serve the backend in DIR, or a pipeline of transformers without any code.

    DIR holds a model.py with one subclass of LabelStudioMLBase, or a service.py with
    svc = create_service(..). A directory that was written for label_studio_ml runs as
    it is.
    """
    if debug and options["log_level"] is None:
        options["log_level"] = "DEBUG"
    environ = _environ(options)
    if directory is None:
        title, directory = _pipeline(environ), Path.cwd()
    else:
        directory = resolve(directory, root_dir)
        _check_directory(directory, options)
        title = directory.name
        environ.pop("LSML_PIPELINE", None)
    address = _address(host, port)
    if "LSML_PIPELINE" not in environ and is_drop_in(directory):
        click.echo(
            "The names of label_studio_ml resolve to lsml-bento here: predictions are "
            "batched and state is shared between processes.",
            err=True,
        )
    click.echo(f"Starting {title} on {_url(host, port)}", err=True)
    command = [sys.executable, "-m", "bentoml", "serve", _SERVED]
    command += ["--working-dir", str(directory), "--host", address, "-p", str(port)]
    _become(command, environ)


def _check_directory(directory: Path, options: dict[str, Any]) -> None:
    for option in ("pipeline", "model", "device", "name"):
        if options[option] is not None:
            raise click.UsageError(
                f"--{option} is for a pipeline, which takes the place of {directory}: "
                "name one of the two"
            )
    if not directory.is_dir():
        raise StartError(
            f"there is no directory {directory}: make a backend there with "
            f"`lsml-bento create {directory.name}`"
        )
    if not serves(directory):
        raise StartError(
            f"{directory} has neither a model.py nor a service.py with svc: make a "
            "backend with `lsml-bento create DIR`, or name the directory that has one"
        )


def _pipeline(environ: dict[str, str]) -> str:
    """The name of the pipeline's backend, whose settings are made complete.

    Raises:
        click.UsageError: if the environment names no pipeline, or no model for it.
        StartError: if what it needs is not there.
    """
    pipeline = environ.get("LSML_PIPELINE", "").strip()
    model = environ.get("LSML_PIPELINE_MODEL", "").strip()
    if not pipeline:
        raise click.UsageError(
            "name the directory of a backend, or a pipeline of transformers: "
            "--pipeline PIPELINE --model MODEL"
        )
    if not model:
        raise click.UsageError(f"name the model of the pipeline {pipeline}: --model")
    missing = [n for n in ("transformers", "torch") if not importlib.util.find_spec(n)]
    if missing:
        raise StartError(
            f"{' and '.join(missing)} not installed, which a pipeline needs: "
            "pip install 'lsml-bento[transformers]'"
        )
    place = Path(model).expanduser()
    if place.exists() or model.startswith(("/", ".", "~")):
        if not (place / "config.json").is_file():
            raise StartError(
                f"{place} is no directory with a config.json: name one that "
                "save_pretrained() wrote, or a model of the hub"
            )
        environ["LSML_PIPELINE_MODEL"] = str(place.absolute())
    # Nothing of a pipeline is trained here.
    environ["LSML_WORKER"] = environ.get("LSML_WORKER", "").strip() or "external"
    return environ.get("LSML_PIPELINE_NAME") or pipeline_name(pipeline, model)


def _address(host: str, port: int) -> str:
    """The IP address that a host stands for, found free."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise StartError(
            f"the host {host!r} has no address: use 0.0.0.0 for every network, or "
            "127.0.0.1 for this machine only"
        ) from error
    with socket.socket(family, kind) as listener:
        if os.name == "posix":  # elsewhere it would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise StartError(listen_problem(error, host, port)) from error
    return str(address[0])


def listen_problem(error: OSError, host: str, port: int) -> str:
    """Why an address can not be listened on, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is in use: stop what listens there, or take another one with "
            "`-p PORT`"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs an administrator's rights: take one over 1023"
    return (
        f"{host} port {port} can not be listened on: {error.strerror}; use --host "
        "0.0.0.0 for every network, or 127.0.0.1 for this machine only"
    )


def _environ(options: dict[str, Any]) -> dict[str, str]:
    """The server's environment; an option wins over a variable."""
    # BentoML's usage report is sent before it starts, and waited for.
    environ = {"BENTOML_DO_NOT_TRACK": "true", **os.environ}
    for option, variable in _VARIABLES.items():
        if options[option] is not None:
            environ[variable] = str(options[option])
    return with_absolute_paths(environ)


def _url(host: str, port: int) -> str:
    name = "localhost" if host in {_EVERY_NETWORK, "::"} else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _become(command: list[str], environ: dict[str, str]) -> None:
    """Turn into the server; Windows has no such thing and waits for it instead."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":
        os.execve(command[0], command, environ)  # noqa: S606 - no shell
    sys.exit(subprocess.call(command, env=environ))
