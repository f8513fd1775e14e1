"""The repository's bentos: built from its root, served by their tags from elsewhere."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.processes import ROOT, Server, free_port
from tests.e2e.serving import BIN, backend_environ


@dataclass(frozen=True)
class Built:
    """A bento in a store of its own.

    Attributes:
        tag: ``name:version``.
        home: the ``BENTOML_HOME`` that it is in.
        seconds: how long the build took.
    """

    tag: str
    home: Path
    seconds: float

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.home / "bentos" / self.tag.replace(":", "/")

    @property
    def files(self) -> set[str]:
        """What is in ``src``."""
        source = self.path / "src"
        found = (path for path in source.rglob("*") if path.is_file())
        return {path.relative_to(source).as_posix() for path in found}

    @property
    def dockerfile(self) -> Path:
        """What ``bentoml containerize`` builds by."""
        return self.path / "env" / "docker" / "Dockerfile"

    def served(self, home: Path, environ: Mapping[str, str] | None = None) -> Server:
        """``bentoml serve TAG``, not started: in an empty directory, as a user has it.

        Args:
            home: the user's home directory, made where it is missing.
            environ: more variables.
        """
        elsewhere = home / "elsewhere"
        elsewhere.mkdir(parents=True, exist_ok=True)
        own = backend_environ(home, BENTOML_HOME=str(self.home), HOME=str(home))
        del own["LSML_HOME"]
        port = free_port()
        return Server(
            name=f"bentoml serve {self.tag}",
            command=[str(BIN / "bentoml"), "serve", self.tag, "-p", str(port)],
            port=port,
            log_file=home / "server.log",
            environ={**own, **(environ or {})},
            cwd=elsewhere,
        )


def build(home: Path, *arguments: str, cwd: Path = ROOT) -> Built:
    """``bentoml build ARGUMENTS``, into a new store.

    Args:
        home: a directory for the store.
        arguments: of the command.
        cwd: where it runs, the repository's root by default.
    """
    path = f"{BIN}:{backend_environ(home)['PATH']}"
    environ = backend_environ(home, PATH=path)
    start = time.monotonic()
    done = subprocess.run(
        [BIN / "bentoml", "build", *arguments],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = (home / "bentoml" / "bentos").glob("*/*/bento.yaml")
    tag = f"{found.parent.parent.name}:{found.parent.name}"
    return Built(tag, home / "bentoml", seconds)
