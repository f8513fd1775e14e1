"""``lsml-bento start``: what it serves, what it hands on, and what it refuses."""

import errno
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.cli.start import listen_problem
from tests.cli.commands import (
    LABEL_CONFIG,
    MODEL,
    TOOL,
    call,
    environ,
    refused,
    run,
    write,
)
from tests.e2e.processes import ROOT, Server, eventually, free_port

ECHO = ROOT / "tests" / "e2e" / "backends" / "echo"
SETUP = {"project": "1.1700000000", "schema": LABEL_CONFIG}


def server(
    directory: Path, log: Path, *options: str, cwd: Path = ROOT, **more: str
) -> Server:
    """``lsml-bento start`` of a directory, not started yet; its state is its own."""
    port = free_port()
    env = environ(BENTOML_HOME=str(log.parent / "bentoml"), **more)
    command = [str(TOOL), "start", str(directory), *options]
    if "PORT" in more:
        port = int(more["PORT"])
    else:
        command += ["-p", str(port)]
    return Server("lsml-bento start", command, port, log, env, cwd=cwd)


# A backend that works


@pytest.fixture(scope="module")
def model_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model only"), model=MODEL)


@pytest.fixture(scope="module")
def tuned(
    model_only: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A directory with every option."""
    options = ["--workers", "2", "--threads", "3", "--max-batch-size", "5"]
    options += ["--basic-auth-user", "ann", "--basic-auth-pass", "s3cret-word"]
    options += ["--host", "localhost", "--log-level", "warning"]
    log = tmp_path_factory.mktemp("tuned") / "log"
    with server(model_only, log, *options) as started:
        yield started


def test_a_directory_with_a_model_alone_is_served(
    tuned: Server, model_only: Path
) -> None:
    health = httpx.get(f"{tuned.url}/health").json()
    assert health == {"status": "UP", "model_class": "Chooser"}
    answer = httpx.post(f"{tuned.url}/setup", json=SETUP, auth=("ann", "s3cret-word"))
    assert answer.json() == {"model_version": "chooser-1"}
    assert (model_only / ".lsml" / "state.db").exists()


def test_options_reach_the_server(tuned: Server) -> None:
    status = httpx.get(f"{tuned.url}/api/status", auth=("ann", "s3cret-word"))
    assert status.json()["max_batch_size"] == 5
    assert len(tuned.tree()) == 3
    [worker, *_] = [p for p in tuned.tree() if p.pid != tuned.pid]
    assert worker.environ()["THREADS"] == "3"
    assert worker.environ()["LOG_LEVEL"] == "WARNING"


def test_the_process_becomes_the_server_and_its_argv_holds_no_password(
    tuned: Server,
) -> None:
    assert httpx.get(f"{tuned.url}/api/status").status_code == 401
    commands = [" ".join(process.cmdline()) for process in tuned.tree()]
    served = "-m bentoml serve lsml_bento.processes.bentoml_target:svc"
    assert any(served in command for command in commands)
    assert not any("s3cret-word" in command for command in commands)
    own = " ".join(psutil.Process(tuned.pid).cmdline())
    assert "-m bentoml serve" in own


def test_no_process_of_a_light_model_loads_a_heavy_library(tuned: Server) -> None:
    mapped = [Path(m.path) for p in tuned.tree() for m in p.memory_maps()]
    inside = [path.parts for path in mapped if "site-packages" in path.parts]
    packages = {parts[parts.index("site-packages") + 1] for parts in inside}
    assert "pydantic_core" in packages
    assert not packages & {"torch", "tokenizers", "pandas", "scipy", "PIL"}


def test_a_directorys_own_service_is_served_with_settings_of_the_environment(
    tmp_path: Path,
) -> None:
    backend = tmp_path / "echo"
    shutil.copytree(
        ECHO, backend, ignore=shutil.ignore_patterns("__pycache__", ".lsml")
    )
    write(backend, _wsgi="@app.route('/data')\ndef data(): ...\n")
    more = {"LSML_HOME": "state", "PORT": str(free_port()), "LOG_LEVEL": "INFO"}
    started = server(Path("echo"), tmp_path / "log", cwd=tmp_path, **more)
    started.start()
    try:
        status = httpx.get(f"{started.url}/api/status").json()
        assert status["max_batch_size"] == 8
        httpx.post(f"{started.url}/setup", json=SETUP).raise_for_status()
        assert (tmp_path / "state" / "state.db").exists()
        assert not (backend / ".lsml").exists()
    finally:
        started.signal()
        assert started.wait() == 0
    assert f"Starting echo on http://localhost:{started.port}\n" in started.log()
    assert "what it adds to its app is not served: /data.\n" in started.log()
    assert "label_studio_ml" not in started.log()


# A model that does not work: the server stays up and says why


def test_a_file_env_in_the_directory_adds_variables_and_a_port(tmp_path: Path) -> None:
    backend = write(tmp_path / "backend", model=MODEL)
    port = free_port()
    (backend / ".env").write_text(
        f"PORT={port}\nLSML_MAX_BATCH_SIZE=7\nLSML_HOME=state\nLOG_LEVEL=ERROR\n"
    )
    env = environ(BENTOML_HOME=str(tmp_path / "bentoml"), LOG_LEVEL="WARNING")
    command = [str(TOOL), "start", "backend"]
    log = tmp_path / "log"
    with Server("lsml-bento start", command, port, log, env, cwd=tmp_path) as started:
        status = httpx.get(f"{started.url}/api/status").json()
        assert status["max_batch_size"] == 7
        [worker, *_] = [p for p in started.tree() if p.pid != started.pid]
        assert worker.environ()["LOG_LEVEL"] == "WARNING"
        assert (backend / "state" / "state.db").exists()


def test_a_failing_model_is_reported_with_file_and_line_and_loaded_again(
    tmp_path: Path,
) -> None:
    backend = write(tmp_path / "backend", model="x = 1\nclass A(\n")
    with server(backend, tmp_path / "log") as started:

        def answers_and_logs(sentence: str) -> None:
            def is_so() -> bool:
                answer = httpx.post(f"{started.url}/setup", json=SETUP)
                assert answer.status_code == 500
                text: str = answer.json()["error"]
                return text.startswith(sentence) and sentence in started.log()

            eventually(is_so, started.tail)
            assert httpx.get(f"{started.url}/health").json()["status"] == "UP"

        answers_and_logs(
            "the module 'model' cannot be imported: SyntaxError: '(' was never closed "
            "(model.py, line 2)"
        )
        write(backend, model=MODEL.replace("self.set(", "1 / 0\n        self.set("))
        answers_and_logs(
            "model could not be set up: ZeroDivisionError: division by zero "
            "(model.py, line 6)"
        )


# What ends it at once


def ended(directory: Path, tmp_path: Path, **more: str) -> str:
    """The last line of a server that could not start."""
    env = environ(BENTOML_HOME=str(tmp_path / "bentoml"), **more)
    done = run("start", directory, "-p", free_port(), env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lsml-bento: ")
    return last.removeprefix("lsml-bento: ")


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        (
            "x = 1\nsvc = 1 / 0\n",
            "does not import: ZeroDivisionError: division by zero (service.py, line 2)",
        ),
        (
            "svc = (\n",
            "does not import: SyntaxError: '(' was never closed (service.py, line 1)",
        ),
        ("svc = 1\n", "is a int: make it with `svc = create_service(..)`"),
        (
            "from lsml_bento import create_service\nsvc = create_service('model:A_')\n",
            "'A_' cannot name a BentoML service: use up to 63 lowercase letters",
        ),
    ],
)
def test_a_service_that_fails_ends_it_with_file_and_line(
    tmp_path: Path, service: str, reason: str
) -> None:
    backend = write(tmp_path / "backend", service=service)
    assert reason in ended(backend, tmp_path)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"THREADS": "none"}, "the environment variable THREADS cannot be used: "),
        ({"BASIC_AUTH_USER": "ann"}, "set both BASIC_AUTH_USER and BASIC_AUTH_PASS"),
    ],
)
def test_a_setting_that_means_nothing_ends_it(
    tmp_path: Path, more: dict[str, str], reason: str
) -> None:
    backend = write(tmp_path / "backend", model=MODEL)
    assert reason in ended(backend, tmp_path, **more)


def test_the_state_of_another_backend_ends_it(tmp_path: Path) -> None:
    backend = write(tmp_path / "backend", model=MODEL)
    SqliteState(backend / ".lsml" / "state.db", "other").close()

    assert ended(backend, tmp_path).startswith(
        f"{backend / '.lsml'} holds the state of the backend 'other', and this one is "
    )


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    assert refused(run("start", "gone", cwd=tmp_path)) == (
        f"the directory {tmp_path / 'gone'} does not exist: create a backend with "
        "`lsml-bento create gone`"
    )


def test_a_directory_without_a_model_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, service="x = 1\n", other="")
    assert refused(run("start", ".", cwd=tmp_path)).startswith(
        f"{tmp_path} has neither a model.py nor a service.py with svc: create a "
    )


def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, model=MODEL)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(run("start", tmp_path, "-p", port)) == (
            f"port {port} is in use: stop the process that listens on it, or choose "
            "another port with `-p PORT`"
        )


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("no.such.invalid", "the host 'no.such.invalid' has no address: use 0.0.0.0"),
        ("192.0.2.1", ": Cannot assign requested address; use --host 0.0.0.0"),
    ],
)
def test_a_host_of_another_machine_is_an_error(
    tmp_path: Path, host: str, sentence: str
) -> None:
    write(tmp_path, model=MODEL)
    options = ["--host", host, "-p", str(free_port())]
    assert sentence in refused(run("start", tmp_path, *options))


def test_a_privileged_port_is_an_error() -> None:
    error = OSError(errno.EACCES, "Permission denied")
    assert listen_problem(error, "0.0.0.0", 80) == (
        "port 80 needs root privileges: choose one above 1023"
    )


def test_a_port_that_is_not_a_number_is_a_usage_error(tmp_path: Path) -> None:
    done = run("start", tmp_path, env=environ(PORT="tcp://10.0.0.1:9090"))
    assert done.returncode == 2
    assert "Invalid value for '-p' / '--port'" in done.stderr


def test_start_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom lsml_bento.cli import main\n"
        "try:\n    main(['start', 'gone'])\n"
        "except SystemExit as end:\n    assert end.code == 1\n"
        "heavy = {'bentoml', 'torch', 'label_studio_sdk', 'pydantic', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = call([psutil.Process().exe(), "-c", code])
    assert done.stdout == "[]\n", done.stderr
