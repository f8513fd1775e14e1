"""Make the peer's environment: `python -m benchmarks.serving.setup`; quick if made."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.common.tasks import REPOSITORY

ENVIRONMENT = REPOSITORY / ".venvs/bench"
PYTHON = ENVIRONMENT / "bin/python"
_REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_STAMP = ENVIRONMENT / "requirements.sha256"


def _wanted() -> str:
    return hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()


def ready() -> bool:
    """Whether the environment holds what requirements.txt asks for."""
    return PYTHON.exists() and _STAMP.exists() and _STAMP.read_text() == _wanted()


def main() -> None:
    """Make the environment, or leave it where it is up to date."""
    if ready():
        return
    if ENVIRONMENT.exists():
        shutil.rmtree(ENVIRONMENT)
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    subprocess.run(
        [str(PYTHON), "-m", "pip", "install", "-q", "-r", str(_REQUIREMENTS)],
        check=True,
    )
    _STAMP.write_text(_wanted())


if __name__ == "__main__":
    main()
