"""``lsml-bento preannotate --project`` against a real Label Studio."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.client import Json, LabelStudioApi, Project
from tests.e2e.faulty_proxy import FaultyProxy, answers, cuts, hangs, passes
from tests.e2e.label_studio import TOKEN
from tests.e2e.processes import eventually
from tests.e2e.serving import BIN, EXAMPLE, backend_environ

VERSION = "keyword-1"


class Command:
    """Runs ``lsml-bento preannotate`` on the keyword example, with one home."""

    def __init__(self, home: Path, url: str, key: str) -> None:
        self._home = home
        self._url, self._key = url, key
        self._running: list[subprocess.Popen[str]] = []

    def start(
        self, project: Project | int, *options: str, url: str = "", key: str = ""
    ) -> subprocess.Popen[str]:
        number = project if isinstance(project, int) else project.id
        names = {
            "LABEL_STUDIO_URL": url or self._url,
            "LABEL_STUDIO_API_KEY": key or self._key,
        }
        tool = [str(BIN / "lsml-bento"), "preannotate", str(EXAMPLE)]
        started = subprocess.Popen(
            [*tool, "--project", str(number), *options],
            env=backend_environ(self._home, **names),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.append(started)
        return started

    def run(
        self, project: Project | int, *options: str, url: str = "", key: str = ""
    ) -> tuple[int, str, str]:
        """Exit code, output and error output."""
        started = self.start(project, *options, url=url, key=key)
        out, err = started.communicate(timeout=60)
        assert (key or self._key) not in out + err
        assert "Traceback" not in err
        return started.returncode, out, err

    def report(self, project: Project, *options: str, url: str = "") -> Json:
        """What ``--json`` says of a run in which nothing failed."""
        code, out, err = self.run(project, *options, "--json", url=url)
        assert code == 0, err
        found: Json = json.loads(out)
        assert found["failed"] == 0
        return found

    def kill(self) -> None:
        for one in self._running:
            with suppress(ProcessLookupError):
                one.kill()
            one.communicate()


@pytest.fixture
def command(tmp_path: Path, label_studio: LabelStudioApi) -> Iterator[Command]:
    made = Command(tmp_path, label_studio.url, TOKEN)
    yield made
    made.kill()


@pytest.fixture
def project(label_studio: LabelStudioApi, keyword_config: str) -> Project:
    return label_studio.create_project("pre-annotation", keyword_config)


@pytest.fixture
def proxy(label_studio: LabelStudioApi) -> Iterator[FaultyProxy]:
    with FaultyProxy(label_studio.url) as between:
        yield between


def texts(count: int) -> list[str]:
    return [f"castle {n} and dragon {n}" for n in range(count)]


def counts(project: Project) -> dict[str, int]:
    """How many predictions of each model version there are."""
    path = f"/api/projects/{project.id}/model-versions/"
    found: dict[str, int] = project.api.call("GET", path)
    return found


def assert_each_has_one(project: Project, tasks: list[int]) -> None:
    found = sorted(one["task"] for one in project.predictions())
    assert found == tasks
    assert counts(project) == {VERSION: len(tasks)}


def written(project: Project, at_least: int) -> Callable[[], bool]:
    return lambda: counts(project).get(VERSION, 0) >= at_least


def told(project: Project) -> Callable[[], str]:
    return lambda: f"{counts(project)}"


@pytest.mark.timeout(120)
def test_a_killed_run_resumes_without_duplicates_or_losses(
    project: Project, command: Command
) -> None:
    tasks = project.add_tasks(texts(2000))
    running = command.start(project)
    eventually(written(project, 400), told(project), timeout_s=40)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert written(project, 400)()
    assert not written(project, 2000)()

    report = command.report(project, "--only-missing")

    assert 0 < report["predicted"] <= 1600
    assert_each_has_one(project, tasks)
    [one] = project.open_task(tasks[7])["predictions"]
    labels = [region["value"]["labels"] for region in one["result"]]
    assert labels == [["Place"], ["Creature"]]
    assert command.report(project, "--only-missing")["predicted"] == 0


@pytest.mark.timeout(180)
def test_exports_are_predicted_and_imported_again(
    project: Project,
    command: Command,
    label_studio: LabelStudioApi,
    keyword_config: str,
    tmp_path: Path,
) -> None:
    first, _ = project.add_tasks(texts(2))
    assert command.run(project)[0] == 0
    project.annotate(first, project.open_task(first)["predictions"][0]["result"])
    for form, suffix in (
        ("JSON", "json"),
        ("JSON_MIN", "json"),
        ("CSV", "csv"),
        ("TSV", "tsv"),
    ):
        path = f"/api/projects/{project.id}/export"
        query = {"exportType": form, "download_all_tasks": "true"}
        exported = label_studio.request("GET", path, params=query)
        assert exported.is_success, exported.text
        (tmp_path / f"{form}.{suffix}").write_bytes(exported.content)
        output = tmp_path / f"{form}.out.jsonl"
        tasks = str(tmp_path / f"{form}.{suffix}")
        options = ["--tasks", tasks, "--output", str(output)]
        done = subprocess.run(
            [BIN / "lsml-bento", "preannotate", EXAMPLE, *options],
            env=backend_environ(tmp_path / "files"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in output.read_text().splitlines()]

        other = label_studio.create_project(f"from {form}", keyword_config)
        path = f"/api/projects/{other.id}/import"
        answer = label_studio.request("POST", path, json=lines)

        assert answer.status_code == 201, (form, answer.text)
        assert answer.json()["task_count"] == len(lines)
        assert counts(other) == {VERSION: len(lines)}, form
    kept = json.loads((tmp_path / "JSON.json").read_text())
    assert all(isinstance(one, int) for task in kept for one in task["predictions"])


@pytest.mark.timeout(120)
def test_a_label_studio_that_breaks_hangs_and_hangs_up_is_waited_for(
    project: Project, command: Command, proxy: FaultyProxy, personal_token: str
) -> None:
    tasks = project.add_tasks(texts(600))
    proxy.reads = [
        *(passes, answers(500), hangs(1, answers(504))),
        *(passes, passes, cuts(carried_out=True)),
    ]
    proxy.writes = [
        *(answers(429), cuts(carried_out=True)),  # 500 tasks
        *(hangs(1, answers(500)), answers(502, carried_out=True)),  # 100 tasks
    ]

    code, out, err = command.run(project, url=proxy.url, key=personal_token)

    assert code == 0, err
    assert "600 tasks predicted" in out
    assert_each_has_one(project, tasks)
    assert proxy.reads == proxy.writes == []
    waits = [line for line in err.splitlines() if "retrying in" in line]
    assert len(waits) == 4  # three reads, and the write that was surely not done
    assert "answered 500; retrying in 0.5 s" in waits[0]
    assert "answered 504; retrying in 1.0 s" in waits[1]


def test_a_run_that_waits_for_label_studio_ends_when_it_is_asked_to(
    project: Project, command: Command, proxy: FaultyProxy
) -> None:
    project.add_tasks(texts(10))
    proxy.reads = [passes]
    proxy.always = answers(503)
    running = command.start(project, url=proxy.url)
    eventually(lambda: len(proxy.seen) > 4, lambda: f"{proxy.seen}", timeout_s=30)

    running.send_signal(signal.SIGTERM)

    asked = time.monotonic()
    _, err = running.communicate(timeout=30)
    assert time.monotonic() - asked < 10, err
    assert running.returncode == 128 + signal.SIGTERM
    assert project.predictions() == []


def test_overwriting_replaces_predictions_of_the_same_version_only(
    project: Project, command: Command
) -> None:
    tasks = project.add_tasks(texts(12))
    old = [
        {"task": task, "result": [], "score": 0.1, "model_version": version}
        for version in (VERSION, "another")
        for task in tasks
    ]
    path = f"/api/projects/{project.id}/import/predictions"
    project.api.call("POST", path, json=old)

    assert command.report(project, "--overwrite")["predicted"] == 12

    assert counts(project) == {VERSION: 12, "another": 12}
    found = [one for one in project.predictions() if one["model_version"] == VERSION]
    assert sorted(one["task"] for one in found) == tasks
    assert all(len(one["result"]) == 2 for one in found)


def test_filters_and_a_limit_choose_tasks(project: Project, command: Command) -> None:
    tasks = project.add_tasks(texts(9) + ["dragon"] * 3)
    castles = {"conjunction": "or", "items": []}
    for text in ("castle 1", "castle 3", "castle 5"):
        name = "filter:tasks:data.text"
        one = {"filter": name, "operator": "contains", "type": "String", "value": text}
        castles["items"].append(one)  # type: ignore[attr-defined]
    chosen = ("--filter", json.dumps(castles))
    assert command.report(project, *chosen, "--dry-run")["predicted"] == 3
    assert project.predictions() == []

    assert command.report(project, *chosen, "--limit", "2")["predicted"] == 2

    assert_each_has_one(project, [tasks[1], tasks[3]])


def test_a_watch_predicts_what_is_added(project: Project, command: Command) -> None:
    first = project.add_tasks(texts(5))
    running = command.start(project, "--watch", "0.3")
    eventually(written(project, 5), told(project), timeout_s=30)
    second = project.add_tasks(texts(7))
    eventually(written(project, 12), told(project), timeout_s=30)

    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=20)

    assert running.returncode == 128 + signal.SIGTERM, err
    assert_each_has_one(project, first + second)


def test_refusals_are_one_sentence_and_an_exit_code(
    project: Project, command: Command
) -> None:
    project.add_tasks(["Place"])
    code, _, err = command.run(project, key="f" * 40)
    assert code == 1
    assert "cannot be read" in err
    assert "answered 401" in err
    code, _, err = command.run(999_999)
    assert code == 1
    assert "project 999999 cannot be read" in err
    assert len(err.strip().splitlines()) == 1
    assert project.predictions() == []
