"""A real Label Studio, from its package, in an environment of its own.

``python -m tests.e2e.label_studio install`` makes the environment (``make setup`` calls
it); ``python -m tests.e2e.label_studio template`` prepares the migrated database that
every later boot copies: migrations take half a minute, a copy takes none.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.processes import ROOT, Server, free_port

VERSION = "1.23.2"
ENVIRONMENT = ROOT / ".venvs" / "label-studio"
EXECUTABLE = ENVIRONMENT / "bin" / "label-studio"
CONSTRAINTS = Path(__file__).with_name("constraints-label-studio.txt")
CACHE = ROOT / ".cache"

USER = "admin@example.com"
PASSWORD = "adminpass123"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
SETTINGS = {
    "LABEL_STUDIO_USERNAME": USER,
    "LABEL_STUDIO_PASSWORD": PASSWORD,
    "LABEL_STUDIO_USER_TOKEN": TOKEN,
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "NO_PROXY": "*",
    "no_proxy": "*",
}
FOREIGN = ("LABEL_STUDIO_", "HEARTEX_", "ML_", "DJANGO_", "POSTGRE", "REDIS_", "LSML_")


class LabelStudioMissingError(AssertionError):
    """The environment of Label Studio was not made, or is out of date."""

    def __init__(self) -> None:
        super().__init__(
            f"Label Studio {VERSION} is not installed in {ENVIRONMENT}: run "
            "`make setup` (or only `python -m tests.e2e.label_studio install`)"
        )


def _wanted() -> str:
    return f"{VERSION} {hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()}"


def is_installed() -> bool:
    """True if the environment holds what the constraints name."""
    stamp = ENVIRONMENT / "installed.txt"
    return EXECUTABLE.exists() and stamp.exists() and stamp.read_text() == _wanted()


def install() -> None:
    """Make the environment with pip, unless it is there already."""
    with _locked("label-studio-install"):
        if is_installed():
            return
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install"]
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        package = f"label-studio=={VERSION}"
        subprocess.run([*pip, "--quiet", package, "-c", str(CONSTRAINTS)], check=True)
        (ENVIRONMENT / "installed.txt").write_text(_wanted())


def template() -> Path:
    """A data directory with a migrated database and one user, made once a version."""
    if not is_installed():
        raise LabelStudioMissingError
    key = hashlib.sha256(repr(sorted(SETTINGS.items())).encode()).hexdigest()[:8]
    directory = CACHE / f"label-studio-template-{VERSION}-{key}"
    with _locked("label-studio-template"):
        if not directory.exists():
            _migrate_into(directory)
    return directory


def _migrate_into(directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        data = Path(made) / "data"
        data.mkdir()
        server = server_on(data, Path(made) / "migrate.log")
        server.start(timeout_s=180)
        server.stop()
        data.rename(directory)


@contextmanager
def running(directory: Path) -> Iterator[Server]:
    """Label Studio on a copy of the template; its log stays in ``directory``."""
    prepared = template()
    with tempfile.TemporaryDirectory(dir=_fast_disk(), prefix="label-studio-") as made:
        data = Path(made) / "data"
        shutil.copytree(prepared, data)
        with server_on(data, directory / "label-studio.log") as server:
            yield server


def _fast_disk() -> Path | None:
    """Memory, where there is some to write to: 250 predictions take 6 s, not 20.

    Label Studio commits each prediction by itself, and each waits for the disk.
    """
    memory = Path("/dev/shm")
    with suppress(OSError):
        if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 64 << 20:
            return memory
    return None


def server_on(data: Path, log: Path, port: int | None = None) -> Server:
    """Label Studio on a data directory, a free port by default; not started yet."""
    port = port or free_port()
    arguments = ["--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    return Server(
        name=f"Label Studio {VERSION}",
        command=[str(EXECUTABLE), "start", *arguments, "--log-level", "INFO"],
        port=port,
        log_file=log,
        environ=_environ(data),
        cwd=data,
        stop_signal=signal.SIGINT,
    )


def _environ(data: Path) -> dict[str, str]:
    mine = {k: v for k, v in os.environ.items() if not k.upper().startswith(FOREIGN)}
    proxies = {"http_proxy", "https_proxy", "all_proxy"}
    mine = {k: v for k, v in mine.items() if k.lower() not in proxies}
    return {**mine, **SETTINGS, "LABEL_STUDIO_BASE_DATA_DIR": str(data)}


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """One process at a time; a second test run waits for the first one's work."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """Run one command: install or template."""
    commands = {"install": install, "template": template}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python -m tests.e2e.label_studio {'|'.join(commands)}")  # noqa: T201
        return 2
    started = time.monotonic()
    commands[arguments[0]]()
    print(f"{arguments[0]}: done in {time.monotonic() - started:.1f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
