"""``lsml-bento start``: serve a directory with BentoML.

This process imports no model, no torch and no BentoML. On POSIX it is replaced by the
server, so that signals and exit codes are the server's own.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lsml_bento.backend_dir import added_to_app, is_drop_in, serves
from lsml_bento.cli.options import (
    debug_option,
    log_level_option,
    resolve,
    root_dir_option,
)
from lsml_bento.errors import LsmlError
from lsml_bento.pipelines import PIPELINES, pipeline_name
from lsml_bento.processes.opening import absolute_paths, env_file

_SERVED = "lsml_bento.processes.bentoml_target:svc"
_ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - Label Studio is often on another machine


_SETTINGS = {
    "pipeline": ("LSML_PIPELINE", "PIPELINE", "Serve a transformers pipeline"),
    "model": ("LSML_PIPELINE_MODEL", "MODEL", "Model of the pipeline"),
    "device": ("LSML_PIPELINE_DEVICE", "DEVICE", "Device of the pipeline"),
    "name": ("LSML_PIPELINE_NAME", "NAME", "Name of the backend"),
    "basic-auth-user": ("BASIC_AUTH_USER", "USER", "Require Basic auth"),
    "basic-auth-pass": ("BASIC_AUTH_PASS", "PASSWORD", "Password of Basic auth"),
    "workers": ("WORKERS", "N", "Serving processes, default 1"),
    "threads": ("THREADS", "N", "Parallel predict calls, default 1"),
    "max-batch-size": ("LSML_MAX_BATCH_SIZE", "N", "Batch size, default 32"),
    "model-dir": ("MODEL_DIR", "DIR", "Files of a label_studio_ml model"),
}
"""Options by name, with the variable that passes each to the server: argv is public."""

_TYPES = {"N": click.IntRange(1), "PIPELINE": click.Choice(PIPELINES)}


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, (variable, metavar, text) in reversed(_SETTINGS.items()):
        command = click.option(
            f"--{name}",
            type=_TYPES.get(metavar),
            metavar=metavar,
            help=f"{text} ({variable}).",
        )(command)
    return command


class StartError(LsmlError):
    """A backend that cannot be started."""


@click.command(epilog=f"Pipelines: {', '.join(PIPELINES)}.")
@click.argument(
    "directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path)
)
@root_dir_option
@click.option(
    "-p",
    "--port",
    type=click.IntRange(1, 65535),
    envvar="PORT",
    metavar="PORT",
    help="Port to listen on (PORT; default: 9090).",
)
@click.option(
    "--host",
    metavar="HOST",
    default=_ALL_INTERFACES,
    show_default=True,
    help="Address to listen on.",
)
@_setting_options
@log_level_option
@debug_option("Log at level DEBUG and show tracebacks.")
def start(
    directory: Path | None,
    root_dir: Path | None,
    port: int | None,
    host: str,
    debug: bool,
    **options: Any,
) -> None:
    """Serve the backend in DIR, or a transformers pipeline.

    DIR has a model.py with one subclass of LabelStudioMLBase, or a service.py with
    svc = create_service(..). A directory written for label_studio_ml works unchanged.
    Variables in a file .env in DIR are set unless the environment has them.

    Without DIR, --pipeline and --model serve a pipeline. MODEL is a directory, or a
    name on the Hugging Face Hub, with @REVISION to pin a revision. It runs on a GPU if
    there is one, or on --device, e.g. cuda:1. Its state is stored in ~/.lsml/NAME.

    Health checks need no user and password. BASIC_AUTH_PASS keeps the password out of
    the shell's history. --threads counts per process, and helps models that wait for
    the network.
    """
    if debug and options["log_level"] is None:
        options["log_level"] = "DEBUG"
    if directory is None:
        environ = _environ(options, {})
        title, directory = _pipeline(environ), Path.cwd()
    else:
        directory = resolve(directory, root_dir)
        _check_directory(directory, options)
        environ = _environ(options, env_file(directory))
        title = directory.name
        environ.pop("LSML_PIPELINE", None)
    port = port or click.IntRange(1, 65535)(environ.get("PORT") or 9090)
    address = _address(host, port)
    if "LSML_PIPELINE" not in environ and is_drop_in(directory):
        click.echo(
            "This backend imports label_studio_ml, which lsml-bento replaces: "
            "predictions are batched and state is shared between processes.",
            err=True,
        )
    if "LSML_PIPELINE" not in environ and (added := added_to_app(directory)):
        click.echo(
            f"_wsgi.py is not run, so what it adds to its app is not served: "
            f"{', '.join(added)}.",
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
                f"--{option} is for a pipeline and cannot be combined with {directory}"
            )
    if not directory.is_dir():
        raise StartError(
            f"the directory {directory} does not exist: create a backend with "
            f"`lsml-bento create {directory.name}`"
        )
    if not serves(directory):
        raise StartError(
            f"{directory} has neither a model.py nor a service.py with svc: create a "
            "backend with `lsml-bento create DIR`, or name the directory that has one"
        )


def _pipeline(environ: dict[str, str]) -> str:
    """The name of the pipeline's backend. Completes its settings in the environment.

    Raises:
        click.UsageError: if the environment names no pipeline, or no model for it.
        StartError: if its model or a library is missing.
    """
    pipeline = environ.get("LSML_PIPELINE", "").strip()
    model = environ.get("LSML_PIPELINE_MODEL", "").strip()
    if not pipeline:
        raise click.UsageError(
            "name the directory of a backend, or a transformers pipeline: "
            "--pipeline PIPELINE --model MODEL"
        )
    if not model:
        raise click.UsageError(f"name the model of the pipeline {pipeline}: --model")
    missing = [n for n in ("transformers", "torch") if not importlib.util.find_spec(n)]
    if missing:
        raise StartError(
            f"a pipeline needs {' and '.join(missing)}: "
            "pip install 'lsml-bento[transformers]'"
        )
    place = Path(model).expanduser()
    if place.exists() or model.startswith(("/", ".", "~")):
        if not (place / "config.json").is_file():
            raise StartError(
                f"{place} is not a directory with a config.json: name one that "
                "save_pretrained() wrote, or a model on the Hugging Face Hub"
            )
        environ["LSML_PIPELINE_MODEL"] = str(place.absolute())
    # A pipeline is never trained.
    environ["LSML_WORKER"] = environ.get("LSML_WORKER", "").strip() or "external"
    return environ.get("LSML_PIPELINE_NAME") or pipeline_name(pipeline, model)


def _address(host: str, port: int) -> str:
    """The IP address of a host, after checking that the port is free."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise StartError(
            f"the host {host!r} has no address: use 0.0.0.0 for all interfaces, or "
            "127.0.0.1 for this machine only"
        ) from error
    with socket.socket(family, kind) as listener:
        if os.name == "posix":  # on Windows it would share a used port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise StartError(listen_problem(error, host, port)) from error
    return str(address[0])


def listen_problem(error: OSError, host: str, port: int) -> str:
    """Why an address cannot be listened on, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is in use: stop the process that listens on it, or choose "
            "another port with `-p PORT`"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs root privileges: choose one above 1023"
    return (
        f"cannot listen on {host} port {port}: {error.strerror}; use --host 0.0.0.0 "
        "for all interfaces, or 127.0.0.1 for this machine only"
    )


def _environ(options: dict[str, Any], from_file: dict[str, str]) -> dict[str, str]:
    """The server's environment. Options override variables, and those a file's."""
    # BentoML waits for its usage report to be sent before it starts.
    environ = {"BENTOML_DO_NOT_TRACK": "true", **from_file, **os.environ}
    variables = {name: variable for name, (variable, *_) in _SETTINGS.items()}
    for name, variable in {**variables, "log-level": "LOG_LEVEL"}.items():
        value = options[name.replace("-", "_")]
        if value is not None:
            environ[variable] = str(value)
    return absolute_paths(environ)


def _url(host: str, port: int) -> str:
    name = "localhost" if host in {_ALL_INTERFACES, "::"} else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _become(command: list[str], environ: dict[str, str]) -> None:
    """Replace this process by the server. On Windows, wait for the server instead."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":
        os.execve(command[0], command, environ)  # noqa: S606 - no shell
    sys.exit(subprocess.call(command, env=environ))
