"""Servers shared by the end-to-end tests, and their logs beside a failure."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e import label_studio as label_studio_package
from tests.e2e.bentos import Built, build
from tests.e2e.client import LabelStudioApi
from tests.e2e.processes import STARTED, Server
from tests.e2e.serving import ECHO, EXAMPLE, serve_command, start_command

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here as e2e, and a file that needs a Label Studio as studio.

    The mark is the whole file's: its tests share a server, which is started once.
    """
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    studio = {item.path for item in ours if _needs_label_studio(item)}
    for item in ours:
        item.add_marker(pytest.mark.e2e)
        if item.path in studio:
            item.add_marker(pytest.mark.studio)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


def _needs_label_studio(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    return "label_studio_server" in fixtures or item.path.stem == "test_demo"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of the servers' logs when a test fails."""
    report = yield
    if report.failed:
        for server in STARTED:
            if server.log_file.exists():
                report.sections.append((f"log of {server.name}", server.tail()))
    if report.when == "teardown":
        # Only of one that ended may something be left: to look takes 8 ms a server.
        STARTED[:] = [s for s in STARTED if s.is_running() or s.tree()]
    return report


@pytest.fixture(scope="session")
def label_studio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real Label Studio 1.23.2 with an empty, migrated database."""
    with label_studio_package.running(tmp_path_factory.mktemp("logs")) as server:
        yield server


@pytest.fixture(scope="session")
def label_studio(label_studio_server: Server) -> Iterator[LabelStudioApi]:
    """That Label Studio's API."""
    api = LabelStudioApi(label_studio_server.url, label_studio_package.TOKEN)
    yield api
    api.close()


@pytest.fixture(scope="session")
def personal_token(label_studio: LabelStudioApi) -> str:
    """Its user's personal access token; a user has one, legacy tokens stay allowed."""
    both = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    label_studio.call("POST", "/api/jwt/settings", json=both)
    made: str = label_studio.call("POST", "/api/token/")["token"]
    return made


@pytest.fixture(scope="session")
def keyword_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The keyword example, served by ``lsml-bento start``."""
    with start_command(EXAMPLE, tmp_path_factory.mktemp("keyword")) as server:
        yield server


@pytest.fixture(scope="session")
def echo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that answers each task with its text, served by ``bentoml serve``."""
    with serve_command(ECHO, tmp_path_factory.mktemp("echo")) as server:
        yield server


@pytest.fixture(scope="session")
def ner_bento(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The repository's default bento."""
    return build(tmp_path_factory.mktemp("ner-bento"))


@pytest.fixture(scope="session")
def gpt2_bento(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The other one."""
    home = tmp_path_factory.mktemp("gpt2-bento")
    return build(home, "-f", "bentos/gpt2/bentofile.yaml", ".")


@pytest.fixture(scope="session")
def keyword_config() -> str:
    """The label config that ships with the keyword example."""
    return (EXAMPLE / "label_config.xml").read_text()
