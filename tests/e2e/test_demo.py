"""``make demo``, as somebody who has just cloned the project runs it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from ner.data import NEW_LABEL, labels_of, read_sentences
from tests.e2e import label_studio
from tests.e2e.client import LabelStudioApi, Project
from tests.e2e.demo import demo_texts
from tests.e2e.processes import ROOT

COMMAND = [sys.executable, "-m", "tests.e2e.demo", "--port", "0", "--backend-port", "0"]
TASKS = 8


@dataclass
class Running:
    """A demo's process, once it has said what to do."""

    process: "subprocess.Popen[str]"
    said: str

    def url(self, of: str) -> str:
        """Where it says that a server answers."""
        found = re.search(rf"^{of} +(http://[\d.:]+)", self.said, re.M)
        assert found is not None, self.said
        return found[1]

    @contextmanager
    def project(self) -> Iterator[Project]:
        """The project that it names."""
        found = re.search(r"/projects/(\d+)/data", self.said)
        assert found is not None, self.said
        api = LabelStudioApi(self.url("Label Studio"), label_studio.TOKEN)
        yield Project(api, int(found[1]))
        api.close()

    def end(self, number: signal.Signals, within_s: float = 20) -> str:
        """Send a signal; what was said after it, once the process is gone."""
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=within_s)
        return said


def processes_of(directory: Path) -> list[psutil.Process]:
    """Those whose environment or command names the directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            words = [*process.environ().values(), *process.cmdline()]
            if any(str(directory) in word for word in words):
                found.append(process)
    return found


def busy_s(process: psutil.Process) -> float:
    """Seconds of a processor that a process has taken, with its ended children."""
    return sum(process.cpu_times()[:4])


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """The demo's; whatever a failed test leaves in it is killed."""
    path = tmp_path / "demo"
    yield path
    for process in processes_of(path):
        with suppress(psutil.Error):
            process.kill()


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Running]]:
    """Starts demos, and waits until they have said all that they say at first."""
    with ExitStack() as processes:

        def run(*options: str) -> Running:
            command = [*COMMAND, "--directory", str(directory), *options]
            process = processes.enter_context(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            processes.callback(process.kill)
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith("Ctrl-C"):
                    return Running(process, said)
            raise AssertionError(f"the demo ended\n{said}")

        yield run


def test_the_demo_is_ready_to_annotate_and_resumes_after_a_stop(
    start: Callable[..., Running], directory: Path
) -> None:
    first = start("--tasks", str(TASKS))
    assert can_log_in(first.url("Label Studio"), *shown_login(first))
    with first.project() as project:
        [backend] = project.backends()
        assert backend["readable_state"] == "Connected"
        assert backend["model_version"] == "pytorch-ner-base"
        predictions = project.predictions()
        assert len(predictions) == TASKS
        assert all(0 < prediction["score"] < 1 for prediction in predictions)
        project.annotate(predictions[0]["task"], [])
    assert_there_can_be_no_other(directory)

    assert first.end(signal.SIGINT).strip() == "stopped"
    assert first.process.returncode == 0
    assert processes_of(directory) == []

    second = start("--tasks", str(TASKS))
    assert "predicting" not in second.said
    # Of a processor, so that what else the machine does counts for nothing.
    assert sum(map(busy_s, processes_of(directory))) < 25
    url = second.url("backend")
    with second.project() as project:
        [backend] = project.backends()
        assert backend["url"] == url
        assert backend["readable_state"] == "Connected"
        assert [hook["url"] for hook in project.webhooks()] == [f"{url}/webhook"]
        [listed] = project.api.call("GET", "/api/projects/")["results"]
        assert listed["task_number"] == TASKS
        assert listed["total_annotations_number"] == 1
    second.end(signal.SIGTERM)
    assert processes_of(directory) == []


def shown_login(demo: Running) -> tuple[str, str]:
    """The login and the password that a demo names."""
    found = re.search(r"^login +(\S+)\npassword +(\S+)$", demo.said, re.M)
    assert found is not None, demo.said
    return found[1], found[2]


def can_log_in(url: str, user: str, password: str) -> bool:
    """Whether they open Label Studio's login form."""
    with httpx.Client(base_url=url) as http:
        http.get("/user/login/")
        token = http.cookies["csrftoken"]
        body = {"email": user, "password": password, "csrfmiddlewaretoken": token}
        http.post("/user/login/", data=body)
        who = http.get("/api/current-user/whoami")
    return who.status_code == 200 and who.json()["email"] == user


def assert_there_can_be_no_other(directory: Path) -> None:
    """A second demo in the same directory says who is in its way."""
    again = subprocess.run(
        [*COMMAND, "--directory", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert f"another demo runs in {directory}" in again.stdout


def test_the_demo_tasks_are_the_same_each_time_and_have_the_new_label() -> None:
    texts = demo_texts(200)
    with_label = {e.text for e in read_sentences() if NEW_LABEL in labels_of([e])}

    assert texts == demo_texts(200)
    assert len(set(texts)) == 200
    assert with_label < set(texts)
    assert sum(text in with_label for text in texts[:50]) > 20
