"""HumanSignal's names resolve to ours, and directories written for them run."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk._extensions.label_studio_tools.core.utils import io as sdk_io
from label_studio_sdk.label_interface.objects import PredictionValue
from PIL import Image

import lsml_bento
from lsml_bento.adapters import label_studio_ml
from lsml_bento.adapters.label_studio_ml import functions
from lsml_bento.backend_dir import find_target
from lsml_bento.contract import Project
from lsml_bento.errors import SettingsError
from lsml_bento.model.base_class import LabelStudioMLBase, ModelRuntime, use_runtime
from lsml_bento.model.label_config import parse_tags
from lsml_bento.model.loader import ModelSource
from lsml_bento.settings import Settings
from lsml_bento.testing.flask_client import Client, init_app

LEGACY = Path(__file__).parent.parent / "legacy"
DIRECTORIES = {
    "image_brightness": ("model:Brightness", "1 passed"),
    "mood_classifier": ("model:MoodClassifier", "6 passed"),
    "ticket_router_v1": ("model:TicketRouter", "3 passed"),
    "urgent_functions": ("model", "1 passed"),
}
CHOICES = """<View>
  <Text name="text" value="$text"/>
  <Choices name="mood" toName="text">
    <Choice value="Good"/><Choice value="Bad"/>
  </Choices>
</View>"""
NAMES = {
    "label_studio_ml": "LabelStudioMLBase __version__",
    "label_studio_ml.api": "init_app",
    "label_studio_ml.model": "LabelStudioMLBase ModelResponse predict_fn update_fn",
    "label_studio_ml.response": "ModelResponse PredictionValue SingleTaskPredictions",
    "label_studio_ml.utils": "DATA_UNDEFINED_NAME InMemoryLRUDictCache "
    "compare_nested_structures get_choice get_env get_first_tag_keys "
    "get_image_local_path get_image_size get_local_path get_single_tag_keys "
    "is_preload_needed is_skipped is_valid_url match_labels",
}


class Mood(LabelStudioMLBase):
    def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
        return [{"result": [], "score": 1} for _ in tasks]


def forget_aliases() -> None:
    roots = {"label_studio_ml", "label_studio_tools", "label_studio_converter", "model"}
    for name in list(sys.modules):
        if name.partition(".")[0] in roots or name == "label_studio_sdk.objects":
            del sys.modules[name]


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts as a process does, before anything was installed."""
    own = [f for f in sys.meta_path if type(f).__module__ != label_studio_ml.__name__]
    monkeypatch.setattr(sys, "meta_path", own)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget_aliases()
    yield
    forget_aliases()


@pytest.fixture
def really_installed(tmp_path: Path) -> Path:
    """A directory on the import path with another ``label_studio_ml`` in it."""
    package = tmp_path / "site" / "label_studio_ml"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text("")
    package.joinpath("model.py").write_text("class LabelStudioMLBase: theirs = True\n")
    sys.path.insert(0, str(package.parent))
    return package.parent


@pytest.fixture
def choices_client() -> Iterator[Client]:
    with init_app(Mood).test_client() as client:
        yield client


def copy_of(name: str, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(LEGACY / name, tmp_path / name, ignore=ignored))


def run_pytest(directory: Path, *arguments: str, path: str = "") -> str:
    """The output of a user's own pytest in a directory of theirs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LSML_", "LABEL"))}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env={**kept, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


# Names


@pytest.mark.parametrize("module", NAMES)
def test_the_names_that_people_import_are_there(module: str) -> None:
    label_studio_ml.install()
    found = importlib.import_module(module)
    assert [n for n in NAMES[module].split() if not hasattr(found, n)] == []
    assert set(found.__all__) <= set(vars(found))


def test_the_classes_are_ours() -> None:
    label_studio_ml.install()
    model = importlib.import_module("label_studio_ml.model")
    response = importlib.import_module("label_studio_ml.response")
    assert model.LabelStudioMLBase is lsml_bento.LabelStudioMLBase
    assert model.ModelResponse is response.ModelResponse is lsml_bento.ModelResponse
    assert response.PredictionValue is PredictionValue


def test_installing_twice_is_installing_once() -> None:
    label_studio_ml.install()
    once = list(sys.meta_path)
    label_studio_ml.install()
    label_studio_ml.fall_back()
    assert sys.meta_path == once


def test_installed_names_win_over_a_package(really_installed: Path) -> None:
    label_studio_ml.install()
    found = importlib.import_module("label_studio_ml.model")
    assert found.LabelStudioMLBase is LabelStudioMLBase


def test_a_package_that_was_imported_before_is_forgotten(
    really_installed: Path,
) -> None:
    label_studio_ml.fall_back()
    found = importlib.import_module("label_studio_ml.model")
    assert found.LabelStudioMLBase.theirs
    label_studio_ml.install()
    found = importlib.import_module("label_studio_ml.model")
    assert found.LabelStudioMLBase is LabelStudioMLBase


def test_a_fallback_leaves_a_package_its_name(really_installed: Path) -> None:
    label_studio_ml.fall_back()
    found = importlib.import_module("label_studio_ml.model")
    assert found.LabelStudioMLBase.theirs
    with pytest.raises(ModuleNotFoundError, match=r"named 'label_studio_ml\.utils'"):
        importlib.import_module("label_studio_ml.utils")


def test_an_unknown_name_says_which_names_there_are() -> None:
    label_studio_ml.install()
    with pytest.raises(ImportError, match=r"no 'get_boxes' in label_studio_ml\.utils"):
        exec("from label_studio_ml.utils import get_boxes")  # noqa: S102
    with pytest.raises(ImportError, match=r"CACHE.*; a model keeps values with self"):
        exec("from label_studio_ml.model import CACHE")  # noqa: S102
    with pytest.raises(AttributeError, match="it has: DATA_UNDEFINED_NAME, InMem"):
        _ = importlib.import_module("label_studio_ml.utils").get_boxes


def test_an_unknown_module_says_which_modules_there_are() -> None:
    label_studio_ml.install()
    said = "it has: api, model, response, utils; the command is lsml-bento"
    with pytest.raises(ModuleNotFoundError, match=said):
        importlib.import_module("label_studio_ml.server")
    with pytest.raises(ModuleNotFoundError, match="no 'examples'"):
        importlib.import_module("label_studio_ml.examples.yolo")


def test_old_names_of_the_sdk_lead_to_the_new_ones() -> None:
    label_studio_ml.fall_back()
    io = importlib.import_module("label_studio_tools.core.utils.io")
    brush = importlib.import_module("label_studio_converter.brush")
    objects = importlib.import_module("label_studio_sdk.objects")
    assert io.get_local_path is sdk_io.get_local_path
    assert callable(brush.mask2rle)
    assert objects.PredictionValue is PredictionValue
    with pytest.raises(ModuleNotFoundError, match=r"label_studio_tools\.nothing"):
        importlib.import_module("label_studio_tools.nothing")


# What label_studio_ml.utils offers


def test_single_tag_keys_are_those_of_the_only_tags() -> None:
    keys = functions.get_single_tag_keys(parse_tags(CHOICES), "Choices", "Text")
    assert keys == ("mood", "text", "text", ["Good", "Bad"])


def test_single_tag_keys_say_what_the_label_config_has() -> None:
    with pytest.raises(ValueError, match=r"one <Labels> on one.*has: <Choices> on <T"):
        functions.get_single_tag_keys(parse_tags(CHOICES), "Labels", "Text")
    with pytest.raises(ValueError, match="has: no control tag"):
        functions.get_single_tag_keys({}, "Labels", "Text")


def test_first_tag_keys_are_two_nones_where_nothing_fits() -> None:
    tags = parse_tags(CHOICES)
    assert functions.get_first_tag_keys(tags, "Choices", "Text") == (
        "mood",
        tags["mood"],
    )
    assert functions.get_first_tag_keys(tags, "Choices", "Image") == (None, None)


def test_each_line_gets_the_label_most_alike() -> None:
    assert functions.match_labels("goood\nbd", ["Good", "Bad"]) == ["Good", "Bad"]


@pytest.mark.parametrize(
    ("annotations", "skipped"),
    [
        ([{"was_cancelled": True}], True),
        ([{"skipped": True}], True),
        ([{"was_cancelled": False}], False),
        ([{"was_cancelled": True}, {}], False),
    ],
)
def test_a_task_is_skipped_if_its_only_annotation_says_so(
    annotations: list[dict[str, bool]], skipped: bool
) -> None:
    assert functions.is_skipped({"annotations": annotations}) is skipped


def test_the_choice_is_the_first_one() -> None:
    region = {"value": {"choices": ["Good", "Bad"]}}
    assert functions.get_choice({"annotations": [{"result": [region]}]}) == "Good"


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("https://example.com/a.png", True),
        ("s3://bucket/a.png", True),
        ("/data/upload/1/a.png", True),
        (__file__, False),
        ("just text", False),
    ],
)
def test_addresses_are_preloaded_and_paths_of_this_machine_are_not(
    text: str, needed: bool
) -> None:
    assert functions.is_preload_needed(text) is needed


def test_a_url_has_a_scheme_and_a_host() -> None:
    urls = "https://example.com/a", "/data/a", "http://[broken"
    assert [functions.is_valid_url(url) for url in urls] == [True, False, False]


def test_the_least_recently_used_value_goes_first() -> None:
    cache = functions.InMemoryLRUDictCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert ("a" in cache, cache.get("b"), str(cache.get("c"))) == (True, None, "3")
    assert "'a'" in str(cache)


def test_nested_structures_are_compared_within_a_tolerance() -> None:
    found = [{"score": 0.5, "value": {"labels": ["a"]}}]
    functions.compare_nested_structures(
        found, [{"score": 0.500001, "value": {"labels": ["a"]}}]
    )
    for other, said in [
        ([], "the length at the top"),
        ([{"score": 0.5}], r"the keys at \[0\]"),
        ([{"score": 0.6, "value": {"labels": ["a"]}}], r"\[0\]\.score: 0\.5 is not"),
        ([{"score": 0.5, "value": {"labels": ["b"]}}], r"\[0\]\.value\.labels\[0\]"),
    ]:
        with pytest.raises(AssertionError, match=said):
            functions.compare_nested_structures(found, other)


def test_an_image_has_the_size_at_which_it_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpeg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    assert functions.get_image_size(str(path)) == (30, 40)


class RecordingMedia:
    """Media that finds every file and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        self.asked = {"url": url, "task_id": task_id, **options}
        return "/files/a.png"

    def access_token(self) -> str | None:
        return None


def test_a_server_decides_which_files_are_read() -> None:
    media = RecordingMedia()
    with use_runtime(ModelRuntime(Project("1", 0), media=media)):
        path = functions.get_image_local_path(
            "/data/upload/1/a.png", label_studio_host="http://studio", task_id=7
        )
    assert path == "/files/a.png"
    assert media.asked["url"] == "/data/upload/1/a.png"
    assert (media.asked["ls_host"], media.asked["task_id"]) == ("http://studio", 7)


def test_the_name_of_a_container_is_not_where_label_studio_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOSTNAME", "3f2a9c1b")
    media = RecordingMedia()
    with use_runtime(ModelRuntime(Project("1", 0), media=media)):
        functions.get_image_local_path("/data/upload/1/a.png")
    assert media.asked["ls_host"] is None


def test_without_a_server_the_sdk_decides(tmp_path: Path) -> None:
    upload = tmp_path / "upload" / "1"
    upload.mkdir(parents=True)
    upload.joinpath("a.png").write_bytes(b"")
    path = functions.get_local_path("/data/upload/1/a.png", project_dir=str(tmp_path))
    assert path == str(upload / "a.png")


# init_app


def test_an_app_takes_subclasses_only() -> None:
    for other in (object, None):
        with pytest.raises(ValueError, match="pass a subclass of LabelStudioMLBase"):
            init_app(other)  # type: ignore[arg-type]


def test_running_an_app_says_how_to_serve() -> None:
    with pytest.raises(SystemExit, match="lsml-bento start DIR"):
        init_app(Mood).run(host="0.0.0.0", port=9090)


def test_what_the_app_does_not_support_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = init_app(Mood, model_dir="/models", redis_host="redis")
    assert "init_app(model_dir=..., redis_host=...)" in caplog.text
    assert app.route("/health")(len) is len
    assert "Route ignored: /health; only Label Studio's routes" in caplog.text
    with pytest.raises(AttributeError, match="has: config, logger, add_url_rule, "):
        app.jinja_env  # noqa: B018


def test_what_a_file_adds_to_an_app_is_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = init_app(Mood)
    app.wsgi_app = [app.wsgi_app]  # type: ignore[method-assign, assignment]
    app.add_url_rule("/rule", view_func=len)
    app.register_blueprint("pages")
    assert app.get("/get")(len) is len
    assert app.before_request(len) is len
    assert app.errorhandler(404)(len) is len
    with app.app_context():
        app.logger.info("works")
    ignored = [line.partition(";")[0] for line in caplog.messages]
    assert ignored[:4] == [
        "Route ignored: /rule",
        "Route ignored: blueprint pages",
        "Route ignored: /get",
        "Function ignored: len",
    ]
    with pytest.raises(RuntimeError, match="lsml-bento start DIR"):
        init_app(Mood).wsgi_app({}, None)


NEVER_CLOSED = """
from lsml_bento import LabelStudioMLBase
from lsml_bento.testing.flask_client import init_app

client = init_app(LabelStudioMLBase).test_client()
print(client.get("/health").status_code)
print(client._backend._home.name)
"""


def test_a_client_that_is_never_closed_leaves_nothing_at_exit() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEVER_CLOSED],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    status, home = done.stdout.split()
    assert (status, done.stderr) == ("200", "")
    assert not Path(home).exists()


def test_a_client_gets_what_a_server_answers(choices_client: Client) -> None:
    tasks = [{"id": 1, "data": {"text": "a"}}]
    body = {"tasks": tasks, "project": "1.1", "label_config": CHOICES}
    answer = choices_client.post("/predict", json=body)
    assert (answer.status_code, answer.status) == (200, "200 OK")
    assert answer.content_type == "application/json"
    assert answer.get_json() == json.loads(answer.get_data(as_text=True))
    assert answer.json == {
        "results": [{"result": [], "score": 1.0, "model_version": "0.0.1"}]
    }


def test_bad_requests_are_answered_as_a_server_does(choices_client: Client) -> None:
    form = choices_client.post("/predict", data={"tasks": "1"})
    broken = choices_client.post("/predict", data="[", content_type="application/json")
    unknown = choices_client.get("/nothing", query_string={"a": 1})
    assert (form.status_code, broken.status_code, unknown.status_code) == (
        415,
        400,
        404,
    )
    assert '"error"' in str(broken.get_data(as_text=True))


def test_a_body_that_is_not_json_is_none_if_silent(choices_client: Client) -> None:
    answer = choices_client.get("/health")
    answer.data = b"UP"
    assert answer.get_json(silent=True) is None
    with pytest.raises(ValueError, match="Expecting value"):
        answer.get_json()


def test_an_unusable_environment_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKERS", "many")
    with pytest.raises(SettingsError, match="WORKERS cannot be used"):
        init_app(Mood).test_client().get("/health")


def test_a_class_made_in_a_function_is_served_too() -> None:
    class Local(Mood):
        """Not found by its name."""

    with init_app(Local).test_client() as client:
        assert client.get("/health").json["model_class"] == "Local"


# Directories


@pytest.mark.parametrize("name", DIRECTORIES)
def test_the_class_of_a_directory_is_found(name: str, tmp_path: Path) -> None:
    label_studio_ml.install()
    directory = copy_of(name, tmp_path)
    target = DIRECTORIES[name][0]
    if name != "urgent_functions":
        assert find_target(directory) == target
    found = ModelSource(target, directory).load()
    assert issubclass(found, LabelStudioMLBase)
    assert found.__module__ == "model"


def test_functions_answer_through_the_contract(tmp_path: Path) -> None:
    label_studio_ml.install()
    directory = copy_of("urgent_functions", tmp_path)
    config = (
        '<View><Labels name="l" toName="t"><Label value="Urgent"/></Labels>'
        '<Text name="t" value="$text"/></View>'
    )
    model = ModelSource("model", directory).load()
    with init_app(model).test_client() as client:
        body = {"tasks": [{"data": {"text": "do it now"}}], "label_config": config}
        [slot] = client.post("/predict", json=body).json["results"]
    assert slot["result"][0]["value"]["text"] == "now"
    assert (slot["score"], slot["model_version"]) == (1.0, "0.0.1")


@pytest.mark.parametrize("name", DIRECTORIES)
def test_the_own_tests_of_a_directory_pass(name: str, tmp_path: Path) -> None:
    output = run_pytest(copy_of(name, tmp_path))
    assert DIRECTORIES[name][1] in output, output


def test_the_own_tests_pass_beside_a_package_that_is_installed(
    tmp_path: Path, really_installed: Path
) -> None:
    directory = copy_of("mood_classifier", tmp_path)
    output = run_pytest(directory, "--lsml-bento", path=str(really_installed))
    assert "6 passed" in output, output


def test_unrelated_tests_keep_a_package_that_is_installed(
    tmp_path: Path, really_installed: Path
) -> None:
    directory = tmp_path / "unrelated"
    directory.mkdir()
    directory.joinpath("conftest.py").write_text(
        "from label_studio_ml.model import LabelStudioMLBase\n"
    )
    directory.joinpath("test_theirs.py").write_text(
        "from conftest import LabelStudioMLBase\n"
        "def test_theirs(): assert LabelStudioMLBase.theirs\n"
    )
    output = run_pytest(directory, path=str(really_installed))
    assert "1 passed" in output, output
    directory.joinpath("test_theirs.py").write_text(
        "from conftest import LabelStudioMLBase\n"
        "def test_ours():\n"
        "    assert LabelStudioMLBase.__module__ == 'lsml_bento.model.base_class'\n"
    )
    output = run_pytest(directory, "--lsml-bento", path=str(really_installed))
    assert "1 passed" in output, output


def test_the_plugin_of_pytest_loads_nothing_heavy() -> None:
    heavy = "bentoml", "httpx", "label_studio_sdk", "pydantic", "starlette"
    code = (
        "import sys, pytest; before = set(sys.modules)\n"
        "import lsml_bento.pytest_plugin\n"
        f"print(sorted((set(sys.modules) - before) & {set(heavy)}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_settings_name_the_root_as_the_sdk_does() -> None:
    root = Settings.from_env({"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": "/images"})
    assert root.local_files_root == Path("/images")
