"""The doctor and the media of a real Label Studio."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsml_bento.adapters.label_studio_media import LabelStudioMedia
from lsml_bento.diagnostics.connection import Check
from lsml_bento.diagnostics.doctor import diagnose
from lsml_bento.errors import MediaError
from tests.e2e import label_studio as label_studio_package
from tests.e2e.client import LabelStudioApi, Project
from tests.e2e.processes import Server

# label-studio-sdk 2.1.2 calls pydantic's parse_obj when it exchanges a token.
pytestmark = pytest.mark.filterwarnings("ignore:The `parse_obj` method")

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="dot"/></Choices></View>"""
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)
Keys = dict[str, str]


@pytest.fixture(scope="module")
def keys(personal_token: str) -> Keys:
    """A key of each kind."""
    return {"legacy": label_studio_package.TOKEN, "personal": personal_token}


@pytest.fixture(scope="module")
def images(label_studio: LabelStudioApi) -> Project:
    """A project with one uploaded file."""
    project = label_studio.create_project("doctor and media", CONFIG)
    path = f"/api/projects/{project.id}/import"
    files = {"file": ("dot.png", PIXEL, "image/png")}
    label_studio.call("POST", path, files=files)
    return project


@pytest.fixture
def upload(images: Project) -> str:
    """The address of the file as it stands in the task."""
    [task] = images.api.call("GET", f"/api/projects/{images.id}/tasks/")
    address: str = task["data"]["image"]
    assert address.startswith("/data/upload/")
    return address


@pytest.fixture(params=["legacy", "personal"])
def key(request: pytest.FixtureRequest, keys: Keys) -> str:
    return keys[str(request.param)]


@pytest.fixture
def media(
    label_studio_server: Server, key: str, tmp_path: Path
) -> Iterator[LabelStudioMedia]:
    one = LabelStudioMedia(label_studio_server.url, key, None, tmp_path / "cache")
    yield one
    one.close()


def test_an_uploaded_file_is_read(
    media: LabelStudioMedia, label_studio_server: Server, upload: str
) -> None:
    for url in (upload, label_studio_server.url + upload):
        path = Path(media.local_path(url, task_id=1))
        assert path.read_bytes() == PIXEL
        assert path.name.endswith("dot.png")


def test_a_sample_page_is_read(media: LabelStudioMedia) -> None:
    path = media.local_path("/static/samples/sample.jpg", task_id=None)
    assert Path(path).read_bytes().startswith(b"\xff\xd8")


def test_a_missing_file_is_reported(media: LabelStudioMedia, images: Project) -> None:
    with pytest.raises(MediaError, match=r"Label Studio answered 500 to .*missing.png"):
        media.local_path(f"/data/upload/{images.id}/missing.png", task_id=1)


def test_the_rest_of_the_api_is_not_read(media: LabelStudioMedia) -> None:
    url = media._studio.url + "/api/users"
    with pytest.raises(MediaError, match="Label Studio answered 401"):
        media.local_path(url, task_id=1)


@pytest.mark.parametrize(
    "wrong",
    ["0000456789abcdef0123456789abcdef01230000", "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"],
)
def test_a_wrong_key_is_reported_without_showing_it(
    label_studio_server: Server, upload: str, tmp_path: Path, wrong: str
) -> None:
    one = LabelStudioMedia(label_studio_server.url, wrong, None, tmp_path)
    with pytest.raises(
        MediaError, match=r"set a personal|personal access token"
    ) as told:
        one.local_path(upload, task_id=1)
    assert wrong not in str(told.value)
    one.close()


def doctor(server: Server, backend: str, **options: object) -> dict[str, Check]:
    checks = diagnose(server.url, backend_url=backend, **options)  # type: ignore[arg-type]
    return {check.name: check for check in checks}


def test_the_doctor_reads_one_file_of_the_project(
    label_studio_server: Server,
    keyword_backend: Server,
    images: Project,
    media: LabelStudioMedia,
    key: str,
) -> None:
    checks = doctor(
        label_studio_server,
        keyword_backend.url,
        api_key=key,
        media=media,
        project=images.id,
    )
    assert checks["Label Studio's version"].message.startswith("Label Studio 1.23.2 ")
    assert checks["API key"].status == "ok"
    assert checks["one media file"].status == "ok"
    assert f": {len(PIXEL)} bytes" in checks["one media file"].message
    assert checks["connected"].status == "warn"


def test_the_doctor_finds_a_connected_backend_healthy(
    label_studio_server: Server,
    label_studio: LabelStudioApi,
    keyword_backend: Server,
    keyword_config: str,
    keys: Keys,
) -> None:
    project = label_studio.create_project("doctor of a backend", keyword_config)
    project.add_tasks(["A dragon flew over New York."])
    project.connect(keyword_backend.url)
    checks = doctor(
        label_studio_server,
        keyword_backend.url,
        api_key=keys["personal"],
        project=project.id,
    )
    unwell = {n: c for n, c in checks.items() if c.status != "ok"}
    assert list(unwell) == ["the backend's address"]
    assert checks["connected"].message == "Label Studio shows Connected"
    assert "POST /predict" in checks


def test_the_doctor_explains_that_legacy_tokens_are_off(
    label_studio_server: Server,
    label_studio: LabelStudioApi,
    keyword_backend: Server,
    keys: Keys,
) -> None:
    settings = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": False}
    personal = keys["personal"]
    label_studio.call("POST", "/api/jwt/settings", json=settings)
    try:
        checks = doctor(
            label_studio_server,
            keyword_backend.url,
            api_key=label_studio_package.TOKEN,
        )
        assert "legacy tokens are disabled" in checks["API key"].message
        own = doctor(label_studio_server, keyword_backend.url, api_key=personal)
        assert own["API key"].status == "ok"
    finally:
        turn_legacy_tokens_on(label_studio, personal)


def turn_legacy_tokens_on(api: LabelStudioApi, personal: str) -> None:
    body = {"refresh": personal}
    access = api.call("POST", "/api/token/refresh/", json=body)["access"]
    api.call(
        "POST",
        "/api/jwt/settings",
        json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": True},
        headers={"Authorization": f"Bearer {access}"},
    )
