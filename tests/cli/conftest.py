"""One new backend, made once and only read by the tests."""

from pathlib import Path

import pytest

from tests.cli.commands import Run, run


@pytest.fixture(scope="session")
def creation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """``lsml-bento create "My Backend"``: the directory and what it said."""
    parent = tmp_path_factory.mktemp("created")
    return parent / "My Backend", run("create", "My Backend", cwd=parent)


@pytest.fixture(scope="session")
def created(creation: tuple[Path, Run]) -> Path:
    """The directory of a new backend."""
    directory, done = creation
    assert done.returncode == 0, done.stderr
    return directory
