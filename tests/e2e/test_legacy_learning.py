"""A directory written for ``label_studio_ml`` learns, and every process knows it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.doubles import CONFIG, PROJECT, setup_body
from tests.e2e.learning import Annotator
from tests.e2e.processes import Server, eventually
from tests.e2e.serving import start_command

MODEL = """
import json
import os

import memory
from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.response import ModelResponse


class Popular(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "popular")

    def predict(self, tasks, context=None, **kwargs):
        from_name, to_name, value = self.label_interface.get_first_tag_occurence(
            "Choices", "Text"
        )
        said = {
            "choices": [memory.BEST],
            "last": self.get("last"),
            "version": str(self.get("model_version")),
            "worker": os.getpid(),
        }
        region = {
            "from_name": from_name, "to_name": to_name, "type": "choices", "value": said
        }
        return ModelResponse(predictions=[{"result": [region]} for _ in tasks])

    def fit(self, event, data, **kwargs):
        if data["task"]["data"].get("fail"):
            memory.BEST = "spoiled"
            self.set("last", -1)
            raise ValueError("nothing to learn")
        memory.BEST = f"learned {data['annotation']['id']} after {memory.BEST}"
        with open(memory.PATH, "w") as file:
            json.dump(memory.BEST, file)
        self.set("last", data["annotation"]["id"])
"""

MEMORY = """
import json
import os

PATH = os.path.join(os.environ["MODEL_DIR"], "best.json")
BEST = "nothing"
if os.path.exists(PATH):
    with open(PATH) as file:
        BEST = json.load(file)
"""

WSGI = """
from label_studio_ml.api import init_app
from model import Popular

app = init_app(model_class=Popular)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("popular")
    directory, models = home / "popular", home / "models"
    directory.mkdir()
    models.mkdir()
    for name, text in (("model", MODEL), ("memory", MEMORY), ("_wsgi", WSGI)):
        (directory / f"{name}.py").write_text(text)
    environ = {"WORKERS": "2", "MODEL_DIR": str(models)}
    with start_command(directory, home, environ=environ) as started:
        yield started


@pytest.fixture(scope="module")
def annotator(server: Server) -> Iterator[Annotator]:
    made = Annotator(server)
    yield made
    made.close()


def served(server: Server) -> dict[int, tuple[str, object, str, str]]:
    """What each process says: learned, set, seen and named version."""
    body = {
        "tasks": [{"id": 1, "data": {"text": "x"}}],
        "project": PROJECT,
        "label_config": CONFIG,
    }
    found: dict[int, tuple[str, object, str, str]] = {}
    until = time.monotonic() + 10
    while len(found) < 2 and time.monotonic() < until:
        answer = httpx.post(f"{server.url}/predict", json=body, timeout=20)
        assert answer.status_code == 200, answer.text
        [slot] = answer.json()["results"]
        said = slot["result"][0]["value"]
        found[said["worker"]] = (
            said["choices"][0],
            said["last"],
            said["version"],
            slot["model_version"],
        )
    return found


def say(server: Server, *expected: object, timeout_s: float = 5) -> None:
    """Wait until both processes say the same."""
    eventually(
        lambda: list(served(server).values()) == [expected] * 2,
        lambda: f"{served(server)} in place of {expected}",
        timeout_s,
    )


def test_before_it_learned_its_own_version_serves(
    server: Server, annotator: Annotator
) -> None:
    assert annotator.setup() == "popular"
    say(server, "nothing", None, "popular", "popular")


def test_what_fit_kept_in_globals_files_and_values_serves_in_every_process(
    server: Server, annotator: Annotator
) -> None:
    job = annotator.ended(annotator.annotate(5))

    assert (job["status"], job["version"]) == ("succeeded", "popular+1"), job
    say(server, "learned 5 after nothing", 5, "popular+1", "popular+1", timeout_s=2)
    assert annotator.setup() == "popular+1"
    workers = set(served(server))
    assert len(workers) == 2
    assert os.getpid() not in workers


def test_the_next_event_continues_from_the_last_ones_model(
    server: Server, annotator: Annotator
) -> None:
    job = annotator.ended(annotator.annotate(6))

    assert (job["status"], job["version"]) == ("succeeded", "popular+2"), job
    learned = "learned 6 after learned 5 after nothing"
    say(server, learned, 6, "popular+2", "popular+2", timeout_s=2)


def test_a_fit_that_fails_changes_nothing(server: Server, annotator: Annotator) -> None:
    before = set(served(server).values())

    job = annotator.ended(annotator.annotate(7, fail=True))

    assert (job["status"], job["version"]) == ("failed", None), job
    assert "ValueError: nothing to learn (model.py, line " in job["error"]
    assert set(served(server).values()) == before


def test_activating_the_base_brings_its_values_back(
    server: Server, annotator: Annotator
) -> None:
    assert annotator.activate("popular").status_code == 200

    # What fit wrote to a file of its own stays there: only the model knows of it.
    learned = "learned 6 after learned 5 after nothing"
    say(server, learned, None, "popular", "popular", timeout_s=2)
    names = [(v["version"], v["active"]) for v in annotator.versions()]
    assert names == [("popular+2", False), ("popular+1", False), ("popular", True)]


def test_a_directory_that_no_longer_imports_keeps_its_model_serving(
    server: Server, annotator: Annotator
) -> None:
    path = Path(server.command[2]) / "memory.py"
    path.write_text("BEST = 1 / 0\n")

    assert annotator.activate("popular+2").status_code == 200
    eventually(
        lambda: server.log().count("version=popular+2: the module") >= 2,
        server.tail,
        timeout_s=5,
    )
    path.write_text(MEMORY)

    learned = "learned 6 after learned 5 after nothing"
    assert annotator.setup() == "popular"
    say(server, learned, 6, "popular", "popular")
    log = server.log()
    assert "Version not served: " in log
    assert ": the module 'model' cannot be imported: " in log
    answer = httpx.post(f"{server.url}/setup", json=setup_body(), timeout=20)
    assert answer.json() == {"model_version": "popular"}
