"""Build, run, check and stop the images of a bento and of a new backend.

Debian's buildah replaces Docker, and Debian the official Python image. The Dockerfiles
and the commands are those of production.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ner.data import example_to_annotation
from ner.train_base import new_label_examples
from tests.cli.commands import run
from tests.doubles import CONFIG, PROJECT
from tests.e2e.bentos import build
from tests.e2e.learning import CREATED_AT, Annotator
from tests.e2e.processes import ROOT, eventually, free_port
from tests.e2e.serving import BACKENDS
from tests.images.containers import USER, Buildah, Container, Image, owned

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

NER_CONFIG = (ROOT / "examples" / "pytorch_ner" / "label_config.xml").read_text()
STATE = {"LSML_HOME": "/data", "LSML_MODEL_STORE": "/data/models"}
"""Files that both images contain."""
EXTERNAL = {"LSML_WORKER": "external"}


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    made = Buildah(tmp_path_factory.mktemp("store"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def bento_image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of the default bento."""
    made = build(tmp_path_factory.mktemp("bento"))
    return buildah.build(made.path, made.dockerfile)


@pytest.fixture(scope="module")
def backend_image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of a new backend with a slow class."""
    parent = tmp_path_factory.mktemp("backend")
    model = BACKENDS / "learner" / "model.py"
    made = run("create", "learner", "--from", model, cwd=parent)
    assert made.returncode == 0, made.stderr
    return buildah.build(parent / "learner", parent / "learner" / "Dockerfile")


def ready(url: str) -> httpx.Response:
    return httpx.get(f"{url}/readyz", timeout=10)


def started(container: Container) -> Container:
    container.start(timeout_s=90)
    eventually(lambda: ready(container.url).status_code == 200, lambda: "", 60)
    return container


def worker_of(
    image: Image, name: str, path: Path, data: Path, *where: str
) -> Container:
    """A worker's container, ready to train."""
    port = free_port()
    command = ("lsml-bento", "worker", *where, "--health-port", str(port))
    volumes = {data: "/data"}
    made = image.container(name, path, *command, port=port, volumes=volumes)
    made.launch()
    eventually(lambda: answers(made), made.tail, 90)
    return made


def answers(worker: Container) -> bool:
    """Whether it is ready. Fails with the log of a container that did not start."""
    assert worker.is_running(), worker.tail()
    try:
        return bool(ready(worker.url).json() == {"status": "trains"})
    except httpx.HTTPError:
        return False


# The default bento


def test_the_bento_image_runs_as_a_user_who_can_write_state(
    bento_image: Image,
) -> None:
    assert bento_image.configuration["User"] == "bentoml"
    assert bento_image.says("id", "-u").splitlines()[-1] == "1034"
    assert bento_image.says("stat", "-c", "%u:%g %a", "/data") == "1034:1034 775"
    empty = [name for name, value in bento_image.variables.items() if not value]
    assert empty == []
    assert STATE.items() <= bento_image.variables.items()
    # As `docker exec` runs it: from the image's PATH, with the image's variables.
    assert "No jobs yet" in bento_image.says("lsml-bento", "jobs", "list")


def ner_event(number: int, text: str, result: list[dict[str, Any]]) -> dict[str, Any]:
    moment = "2026-11-24T09:00:00Z"
    stamps = {"created_at": moment, "updated_at": moment}
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": {"id": number, "task": number, "result": result, **stamps},
        "task": {"id": number, "data": {"text": text}, **stamps},
        "project": {
            "id": int(PROJECT.partition(".")[0]),
            "created_at": CREATED_AT.isoformat(),
            "label_config": NER_CONFIG,
        },
    }


def predicted(url: str, texts: list[str]) -> tuple[set[str], int]:
    """The versions that answer, and the number of predictions."""
    body = {
        "tasks": [{"id": n, "data": {"text": text}} for n, text in enumerate(texts)],
        "project": PROJECT,
        "label_config": NER_CONFIG,
        "params": {},
    }
    answer = httpx.post(f"{url}/predict", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    slots = answer.json()["results"]
    return {slot["model_version"] for slot in slots if slot}, len(slots)


def test_server_and_worker_of_the_bento_train_and_stop(
    bento_image: Image, tmp_path: Path
) -> None:
    data = owned(tmp_path / "data")
    port = free_port()
    made = bento_image.container(
        "server",
        tmp_path,
        *("serve", "--timeout-graceful-shutdown", "25"),
        port=port,
        volumes={data: "/data"},
        environ={**EXTERNAL, "PORT": str(port)},
    )
    known, _ = new_label_examples(6)
    texts = [example.text for example in known]
    with started(made) as server, closing(httpx.Client(base_url=server.url)) as http:
        assert http.get("/livez").status_code == 200
        assert predicted(server.url, texts) == ({"pytorch-ner-base"}, len(texts))
        jobs = []
        for number, example in enumerate(known, 1):
            result = example_to_annotation(example, "label", "text")
            event = ner_event(number, example.text, result)
            answer = http.post("/webhook", json=event)
            assert answer.status_code == 201, answer.text
            jobs.append(answer.json()["job"])

        def job() -> dict[str, Any]:
            found: dict[str, Any] = http.get(f"/api/jobs/{jobs[-1]}").json()
            return found

        with worker_of(bento_image, "worker", tmp_path, data) as worker:
            eventually(lambda: job()["status"] == "running", lambda: str(job()), 60)
            worker.signal()
            assert worker.wait(timeout_s=30) == 0
        assert (job()["status"], job()["attempts"]) == ("queued", 0), worker.tail()

        where = "src/examples/pytorch_ner"
        with worker_of(bento_image, "next", tmp_path, data, where) as worker:
            ends = {"succeeded", "failed"}
            eventually(lambda: job()["status"] in ends, lambda: str(job()), 120)
            assert job()["status"] == "succeeded", job()
            metrics = httpx.get(f"{worker.url}/metrics", timeout=10).text
            assert 'lsml_jobs{status="succeeded"} 1.0' in metrics
        version = job()["version"]
        eventually(
            lambda: predicted(server.url, texts)[0] == {version},
            lambda: str(predicted(server.url, texts)),
        )
        ends_after_its_answer(server, lambda: predicted(server.url, texts * 400))


def ends_after_its_answer(server: Container, ask: Callable[[], object]) -> None:
    """A running request is answered before the server stops."""
    answered: list[object] = []
    thread = threading.Thread(target=lambda: answered.append(ask()))
    thread.start()
    time.sleep(0.7)
    assert not answered, "the request was over before the server was told to end"
    server.signal()
    thread.join(60)
    assert answered, server.tail()
    assert server.wait(timeout_s=30) == 0


# A new backend


def test_the_image_of_a_new_backend_runs_as_a_numeric_user_who_can_write_state(
    backend_image: Image,
) -> None:
    assert backend_image.configuration["User"] == "1034:1034"
    assert backend_image.says("id", "-u") == "1034"
    assert backend_image.says("stat", "-c", "%u:%g %a", "/data") == "1034:1034 775"
    assert STATE.items() <= backend_image.variables.items()
    assert all(backend_image.variables.values())


def healthcheck(container: Container) -> int:
    """The exit code of the image's HEALTHCHECK, run next to the server."""
    lines = (ROOT / "lsml_bento" / "template" / "Dockerfile").read_text().splitlines()
    [line] = [line for line in lines if "urllib.request" in line]
    code = line.split('"')[5].replace(":9090", f":{container.port}")
    first = container.inside[0]
    python = ["chroot", f"/proc/{first.pid}/root", "python", "-c", code]
    return subprocess.run(python, check=False, timeout=30).returncode


def slowly(server: Container) -> None:
    """A prediction that takes 4 s."""
    body = {
        "tasks": [{"id": 1, "data": {"text": "x", "sleep_s": 4}}],
        "project": PROJECT,
        "label_config": CONFIG,
        "params": {},
    }
    answer = httpx.post(f"{server.url}/predict", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


def test_server_and_worker_of_a_new_backend_stop_cleanly(
    backend_image: Image, tmp_path: Path
) -> None:
    data = owned(tmp_path / "data")
    port = free_port()
    command = backend_image.configuration["Cmd"]
    assert command.count("9090") == 1
    made = backend_image.container(
        "server",
        tmp_path,
        *(word.replace("9090", str(port)) for word in command),
        port=port,
        volumes={data: "/data"},
        environ=EXTERNAL,
    )
    with started(made) as server, closing(Annotator(server)) as annotator:
        assert healthcheck(server) == 0
        assert annotator.setup() == "learner-base"
        assert annotator.predict() == ("nothing", "learner-base")
        with worker_of(backend_image, "worker", tmp_path, data) as worker:
            job = annotator.annotate(1, fit_s=20)
            eventually(
                lambda: annotator.job(job)["status"] == "running",
                lambda: str(annotator.job(job)),
                60,
            )
            start = time.monotonic()
            worker.signal()
            assert worker.wait(timeout_s=30) == 0
            assert time.monotonic() - start < 10
        put_back = annotator.job(job)
        assert (put_back["status"], put_back["attempts"]) == ("queued", 0)

        annotator.annotate(1, minute=1, fit_s=0)
        with worker_of(backend_image, "next", tmp_path, data, "."):
            ended = annotator.ended(job, timeout_s=60)
            assert ended["status"] == "succeeded", ended
        annotator.serves("1 tasks", ended["version"], timeout_s=10)
        assert (data / "state.db").stat().st_uid == USER
        ends_after_its_answer(server, lambda: slowly(server))


def test_a_killed_serving_process_stops_the_container(
    bento_image: Image, tmp_path: Path
) -> None:
    port = free_port()
    environ = {**EXTERNAL, "PORT": str(port)}
    made = bento_image.container("server", tmp_path, port=port, environ=environ)
    with started(made) as server:
        [first, *others] = server.inside
        [serving] = [one for one in others if "_bentoml_impl.worker" in cmdline(one)]
        serving.kill()

        assert server.wait(timeout_s=30) != 0
        assert not first.is_running()


# An example, as its docker-compose.yml builds it


def test_the_image_of_an_example_serves_it(buildah: Buildah, tmp_path: Path) -> None:
    dockerfile = ROOT / "examples" / "Dockerfile"
    ignored = f"--ignorefile={dockerfile}.dockerignore"
    arguments = "--build-arg=EXAMPLE=keyword", "--build-arg=EXTRAS="
    image = buildah.build(ROOT, dockerfile, ignored, *arguments)
    port = free_port()
    command = image.configuration["Cmd"]
    words = [word.replace("9090", str(port)) for word in command]
    with image.container("keyword", tmp_path, *words, port=port) as server:
        assert healthcheck(server) == 0
    files = image.says("find", ".", "-type", "f", "-not", "-path", "*/__pycache__/*")
    assert "./model.py" in files.splitlines()
    assert "test_" not in files


def cmdline(process: psutil.Process) -> str:
    return " ".join(process.cmdline())
