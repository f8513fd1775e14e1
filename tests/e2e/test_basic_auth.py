"""A protected backend and the ways in which Label Studio can carry credentials."""

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.client import LabelStudioApi
from tests.e2e.processes import Server
from tests.e2e.recorder import Recorder
from tests.e2e.serving import EXAMPLE, start_command

USER, PASSWORD = "bob", "s3cret"
FIELDS = {"auth_method": "BASIC_AUTH", "basic_auth_user": USER}


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The keyword example behind a user name and a password."""
    options = ["--basic-auth-user", USER, "--basic-auth-pass", PASSWORD]
    home = tmp_path_factory.mktemp("protected")
    with start_command(EXAMPLE, home, *options) as server:
        yield server


@pytest.fixture
def recorder(protected: Server) -> Iterator[Recorder]:
    with Recorder(protected.url) as proxy:
        yield proxy


def test_only_the_health_probe_needs_no_credentials(protected: Server) -> None:
    assert httpx.get(f"{protected.url}/health").json()["status"] == "UP"
    refused = httpx.post(f"{protected.url}/setup", json={"project": "1.1"})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    assert set(refused.json()) == {"error"}


def test_credentials_in_label_studios_fields_open_the_backend(
    label_studio: LabelStudioApi, protected: Server, keyword_config: str
) -> None:
    project = label_studio.create_project("auth fields", keyword_config)
    project.add_tasks(["a dragon"])
    fields = {**FIELDS, "basic_auth_pass": PASSWORD}
    connection = project.connect(protected.url, **fields)
    assert connection.created["state"] == "CO"
    project.retrieve_predictions()
    assert len(project.predictions()) == 1


@pytest.mark.parametrize("fields", [{}, {**FIELDS, "basic_auth_pass": "wrong"}])
def test_label_studio_shows_why_wrong_credentials_do_not_connect(
    label_studio: LabelStudioApi,
    protected: Server,
    keyword_config: str,
    fields: dict[str, str],
) -> None:
    project = label_studio.create_project("auth wrong", keyword_config)
    answer = project.try_connect(protected.url, **fields)
    assert answer.status_code == 400
    assert "401" in answer.text
    assert "Unauthorized" in answer.text
    assert project.backends() == []


def test_a_connected_backend_shows_error_when_its_password_changes(
    label_studio: LabelStudioApi,
    protected: Server,
    recorder: Recorder,
    keyword_config: str,
) -> None:
    project = label_studio.create_project("auth changes", keyword_config)
    fields = {**FIELDS, "basic_auth_pass": PASSWORD}
    connection = project.connect(recorder.url, **fields)
    recorder.replace_authorization = "Basic bm9ib2R5Om5vdGhpbmc="
    record = connection.check()
    assert record["state"] == "ER"
    assert "401" in record["error_message"]
    recorder.replace_authorization = None
    assert connection.check()["state"] == "CO"


def test_events_reach_a_backend_whose_url_holds_the_credentials(
    label_studio: LabelStudioApi, recorder: Recorder, keyword_config: str
) -> None:
    project = label_studio.create_project("auth url", keyword_config)
    url = f"http://{USER}:{PASSWORD}@127.0.0.1:{recorder.port}"
    connection = project.connect(url)
    assert connection.created["state"] == "CO"
    [task] = project.add_tasks(["a dragon"])
    project.annotate(task, [])
    project.retrieve_predictions()
    assert recorder.events() == [("TASKS_CREATED", 200), ("ANNOTATION_CREATED", 200)]
    assert [call.status for call in recorder.calls("/predict")] == [200]


def test_events_without_credentials_are_refused_until_the_webhook_has_a_header(
    label_studio: LabelStudioApi, recorder: Recorder, keyword_config: str
) -> None:
    project = label_studio.create_project("auth webhook", keyword_config)
    project.connect(recorder.url, **FIELDS, basic_auth_pass=PASSWORD)
    project.add_tasks(["a dragon"])
    project.protect_webhooks(USER, PASSWORD)
    project.add_tasks(["a dragon"])
    assert recorder.events() == [("TASKS_CREATED", 401), ("TASKS_CREATED", 200)]


def test_the_password_is_not_in_the_log(protected: Server) -> None:
    assert PASSWORD not in protected.log()
