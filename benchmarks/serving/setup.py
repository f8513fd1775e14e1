"""Install LitServe: `python -m benchmarks.serving.setup`; quick if it is up to date."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys

from benchmarks import REPOSITORY

# LitServe has its own environment, because its pins may clash with the project's.
ENVIRONMENT = REPOSITORY / ".venvs/bench"
PYTHON = ENVIRONMENT / "bin/python"

_REQUIREMENTS = (
    "litserve==0.2.19",
    "torch==2.13.0",
    # Imported by examples/pytorch_ner and the base class of lsml_bento.
    "label-studio-sdk>=2.1,<3",
    "numpy>=1.26",
    "orjson>=3.10",
    "pydantic>=2.8,<3",
    "safetensors>=0.4",
    "semver>=3",
)
_STAMP = ENVIRONMENT / "requirements.sha256"


def main() -> None:
    """Make the environment, unless it holds these requirements already."""
    wanted = hashlib.sha256("\n".join(_REQUIREMENTS).encode()).hexdigest()
    if PYTHON.exists() and _STAMP.exists() and _STAMP.read_text() == wanted:
        return
    if ENVIRONMENT.exists():
        shutil.rmtree(ENVIRONMENT)
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    install = [str(PYTHON), "-m", "pip", "install", "--quiet", *_REQUIREMENTS]
    subprocess.run(install, check=True)
    _STAMP.write_text(wanted)


def version() -> str:
    """The installed version of LitServe."""
    found = ENVIRONMENT.glob("lib/python*/site-packages/litserve-*.dist-info")
    names = [path.name for path in found]
    if not names:
        return "not installed"
    return names[0].removeprefix("litserve-").removesuffix(".dist-info")


if __name__ == "__main__":
    main()
