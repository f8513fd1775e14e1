"""Every Python and shell block of the README and of docs/ runs as it stands.

The blocks of a document run in order, in one fresh directory. Only the port is another
one than 9090, so that documents can run beside a server of your own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.blocks import PAGES, Block, blocks
from tests.e2e.processes import Server, free_port
from tests.e2e.serving import BIN, LEGACY, LEGACY_CONFIG, backend_environ

NOT_RUN = {
    ("README.md", "installs packages from the network"): 2,
    ("deploying.md", "needs a package index"): 2,
    ("deploying.md", "needs Docker"): 1,
    ("pipelines.md", "downloads a model from the Hugging Face hub"): 1,
    ("preannotating.md", "needs Label Studio"): 2,
    ("quickstart.md", "installs packages from the network"): 1,
    ("quickstart.md", "needs Label Studio"): 2,
    ("troubleshooting.md", "needs Label Studio"): 1,
}
"""How many blocks of a document cannot run here, by their reason."""


def test_only_the_listed_blocks_are_not_run() -> None:
    found = Counter(
        (block.page.name, block.mark.removeprefix("not run: "))
        for page in PAGES
        for block in blocks(page, "sh", "python")
        if block.mark.startswith("not run: ")
    )

    assert found == NOT_RUN


def test_every_mark_is_a_known_one() -> None:
    for page in PAGES:
        for block in blocks(page, "sh", "python"):
            known = block.mark in {"", "server", "background"}
            assert known or block.mark.startswith("not run: "), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_shell_block_parses(page: Path) -> None:
    for block in blocks(page, "sh"):
        done = subprocess.run(
            ["bash", "-n"], input=block.code, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_xml_block_is_well_formed(page: Path) -> None:
    for block in blocks(page, "xml"):
        ElementTree.fromstring(f"<all>{block.code}</all>")  # noqa: S314


RUN = [
    page
    for page in PAGES
    if any(not b.mark.startswith("not run") for b in blocks(page, "sh", "python"))
]


@pytest.mark.e2e
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_blocks_of_a_document_run_as_they_stand(page: Path, tmp_path: Path) -> None:
    if page.name == "migrating.md":  # it is about a directory that a reader has already
        directory = shutil.copytree(LEGACY, tmp_path / "my_ml_backend")
        (directory / "label_config.xml").write_text(LEGACY_CONFIG)
    with terminal(tmp_path) as run:
        for block in blocks(page, "sh", "python"):
            if not block.mark.startswith("not run: "):
                run(block)


class Terminal:
    """Runs blocks in a directory, and the servers that they start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        home = directory / "home"
        home.mkdir()
        environ = backend_environ(home, HOME=str(home), PORT=str(self._port))
        del environ["LSML_HOME"]  # a newcomer's state is in the backend's directory
        environ["PATH"] = f"{BIN}{os.pathsep}{environ['PATH']}"
        self._environ = environ
        self._servers: list[Server] = []

    def __call__(self, block: Block) -> None:
        code = block.code.replace("9090", str(self._port))
        if block.mark in {"server", "background"}:
            self._start(block, code)
        elif block.language == "sh":
            self._finish(block, ["bash", "-e", "-o", "pipefail", "-c", code])
        else:
            path = self._directory / (block.title or "block.py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(code, encoding="utf-8")
            test = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
            runner = test if path.name.startswith("test_") else []
            self._finish(block, [sys.executable, *runner, str(path)])

    def _finish(self, block: Block, command: list[str]) -> None:
        process = subprocess.Popen(
            command,
            cwd=self._directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and all that the block started
            raise
        logs = "\n".join(server.tail() for server in self._servers)
        assert process.returncode == 0, f"{block}\n{output}\n{logs}"

    def _start(self, block: Block, code: str) -> None:
        if block.mark == "server":
            self.close()  # the port is the same
        server = Server(
            name=f"{block.page.name}:{block.line}",
            command=["bash", "-e", "-c", code],
            port=self._port,
            log_file=self._directory / f"{block.line}.log",
            environ=self._environ,
            cwd=self._directory,
        )
        self._servers.append(server)
        server.launch()
        if block.mark == "server":
            server.wait_until_healthy()

    def close(self) -> None:
        """End the processes that blocks started, and see that they ran until now."""
        running = [server.is_running() for server in self._servers]
        for server in self._servers:
            server.kill()
        assert all(running), "\n".join(server.tail() for server in self._servers)
        self._servers.clear()


@contextmanager
def terminal(directory: Path) -> Iterator[Terminal]:
    """A terminal in a directory; what it started is ended with it."""
    opened = Terminal(directory)
    try:
        yield opened
    finally:
        opened.close()
