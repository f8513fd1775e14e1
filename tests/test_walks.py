"""How many modules one call enters, from its first line of ours to its answer."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

import lsml_bento
from lsml_bento.jobs.event_writer import Dispatcher
from lsml_bento.model.loader import ModelSource
from lsml_bento.processes.server import make_backend
from lsml_bento.processes.worker import child_environ
from lsml_bento.testing import client_for
from lsml_bento.training.child_process import FitProcess
from lsml_bento.training.fit_worker import FitWorker
from tests.doubles import CONFIG, Client, Echo, texts
from tests.fits import CREATED_AT, NAME, Home, eventually

PACKAGE = Path(lsml_bento.__file__).parent


class Entered(NamedTuple):
    """A function of the package that was called."""

    module: str
    function: str
    thread: int


def module_of(file: str) -> str:
    parts = Path(file).relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


class Walk:
    """The functions called while ``watching``, by threads started while ``spied``."""

    def __init__(self) -> None:
        self.entered: list[Entered] = []
        self._is_on = False

    @property
    def modules(self) -> list[str]:
        """In the order in which they were entered first."""
        return list(dict.fromkeys(entry.module for entry in self.entered))

    @contextmanager
    def spied(self) -> Iterator[None]:
        threading.setprofile(self._note)
        try:
            yield
        finally:
            threading.setprofile(None)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if not self._is_on or event != "call" or not file.startswith(f"{PACKAGE}/"):
            return
        name = module_of(file)
        if name == "log_format":
            return
        # The client of this test and its imports come before the first line of ours.
        if self.entered or name == "adapters.edge":
            function, thread = frame.f_code.co_name, threading.get_ident()
            self.entered.append(Entered(name, function, thread))


def test_a_warm_prediction_enters_at_most_twelve_modules() -> None:
    walk = Walk()
    body = texts("a")
    with walk.spied():
        client = client_for(Echo, environ={})
    with client:
        assert client.post("/predict", json=body).status_code == 200
        with walk.watching():
            answer = client.post("/predict", json=body)

    assert answer.json()["results"][0]["model_version"] == "echo-1"
    assert set(walk.modules) == {
        "adapters.edge",
        "adapters.label_studio_http",
        "contract",
        "backend.predict",
        "prediction.batcher",
        "prediction.call_threads",
        "prediction.predictor",
        "state.store",
        "adapters.sqlite_state",
        "prediction.model_pool",
        "model.invoke",
        "model.base_class",
    }
    assert len(walk.modules) <= 12
    crossings = [
        entry.function
        for entry in walk.entered
        if entry.module == "prediction.call_threads"
        and entry.function in ("run", "answer_from_thread")
    ]
    assert crossings == ["run", "answer_from_thread"]
    assert len({entry.thread for entry in walk.entered}) == 2


LEARNER = """
from lsml_bento import LabelStudioMLBase, TrainingPolicy

class Learner(LabelStudioMLBase):
    training = TrainingPolicy(quiet_s=0.0)

    def setup(self):
        self.set("model_version", "base")

    def load(self, weights):
        self.learned = 0 if weights is None else int((weights / "n").read_text())

    def predict(self, tasks, context=None, **kwargs):
        return [{"result": [], "score": float(self.learned)} for _ in tasks]

    def fit(self, event, data, **kwargs):
        learned = len(list(self.annotated_tasks()))
        with self.save_weights({"n": learned}) as directory:
            (directory / "n").write_text(str(learned))
"""

SPIED_FIT = """
import json, sys, threading
from lsml_bento.backend_spec import BackendSpec
from lsml_bento.processes import fit

package, record = sys.argv[1] + "/", sys.argv[2]
files, is_on = set(), False

def note(frame, event, _):
    global is_on
    code = frame.f_code
    is_job = code is fit._Fits.carry_out.__code__
    if is_job and event == "call":
        files.clear()
        is_on = True
    if is_on and event == "call" and code.co_filename.startswith(package):
        files.add(code.co_filename)
    if is_job and event == "return":
        is_on = False
        with open(record, "w") as file:
            json.dump(sorted(files), file)

threading.setprofile(note)
sys.setprofile(note)
fit.main(BackendSpec.from_json(sys.argv[3]))
"""


def test_an_annotation_becomes_a_version_through_at_most_25_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count what the second annotation enters until its version is promoted.

    Counted are the modules whose functions are called from the arrival of ``POST
    /webhook`` on, in server and worker (threads of this process here) and in the real
    child process, there from the job to the version that it returns. The first
    annotation warms all three up: imports, settings, starting processes, naming them
    and formatting log lines are not counted.
    """
    monkeypatch.setattr(sys, "path", list(sys.path))
    walk, record = Walk(), tmp_path / "entered"
    home = Home(tmp_path)
    home.write(LEARNER)

    def start(_: int) -> FitProcess:
        arguments = [str(PACKAGE), str(record), home.spec.to_json()]
        command = [sys.executable, "-c", SPIED_FIT, *arguments]
        return FitProcess(command, {**child_environ(), **home.environ})

    with walk.spied():
        backend = make_backend(
            *(ModelSource("model", home.directory), home.settings),
            *(tmp_path / "home", NAME),
            enqueue=Dispatcher(home.queue.enqueue).dispatch,
        )
        client = Client(backend, home.settings)
        worker = FitWorker(
            *("worker", home.state, home.queue, home.publisher, home.settings, start),
            keeps_process=True,
        )
        working = threading.Thread(target=worker.work)
        working.start()
        try:
            client.results(texts("a"))
            annotate(client, home, 1)
            with walk.watching():
                annotate(client, home, 2)
        finally:
            worker.stop()
            working.join()
            client.close()
            home.close()
            del sys.modules["model"]  # other tests import theirs

    in_child = {module_of(file) for file in json.loads(record.read_text())}
    in_child.discard("log_format")
    assert in_child == {
        "processes.fit",
        "training.trainer",
        "training.child_process",
        "model.loader",
        "model.base_class",
        "model.label_config",
        "model.invoke",
        "contract",
        "jobs.job",
        "jobs.job_store",
        "jobs.annotations",
        "state.store",
        "adapters.sqlite_state",
        "versions.registry",
        "versions.weights",
        "adapters.bentoml_models",
    }
    assert set(walk.modules) - in_child == {
        "adapters.edge",
        "adapters.label_studio_http",
        "backend.training",
        "jobs.events",
        "jobs.event_writer",
        "model.training_policy",
        "adapters.huey_queue",
        "training.fit_worker",
        "training.job_supervisor",
    }
    assert len(in_child | set(walk.modules)) <= 25


def annotate(client: Client, home: Home, number: int) -> None:
    """Send an annotation, and wait until the version made of it is promoted."""
    task = {"id": number, "data": {"text": "a"}}
    body = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 1, "created_at": CREATED_AT, "label_config": CONFIG},
        "annotation": {"id": number, "task": number, "result": []},
        "task": task,
    }
    assert client.post("/webhook", body).status_code == 201
    eventually(lambda: len(home.names) == number, "the version", timeout_s=60)
    assert home.active.metrics == {"n": number}
