"""A watch of a project: it survives errors, new versions and late tasks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lsml_bento.contract import Project, Task
from lsml_bento.errors import LsmlError, ModelError, StateError
from lsml_bento.preannotation import project_run
from lsml_bento.preannotation.pipeline import Totals
from lsml_bento.preannotation.project_run import predict_project
from lsml_bento.preannotation.run import Options, Report, Run
from lsml_bento.preannotation.selection import Selection, Unreachable, VersionChanged
from tests.doubles import CONFIG
from tests.label_studio_in_memory import PROJECT, ProjectInMemory
from tests.preannotation.test_files import Chooser


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A run takes both signals and never gives them back."""
    taken = {number: signal.getsignal(number) for number in (2, 15)}
    yield
    for number, handler in taken.items():
        signal.signal(number, handler)


class Engine(Chooser):
    """Its versions and its troubles come one by one; it calls back at each call."""

    def __init__(self, *bad: str, then: Callable[[Engine], object]) -> None:
        super().__init__(*bad)
        self.then = then
        self.prepared: list[str | LsmlError] = []

    async def prepare(self, project: Project, label_config: str) -> str:
        found = self.prepared.pop(0) if self.prepared else "1"
        if isinstance(found, LsmlError):
            raise found
        if not self.prepared:
            self.prepared = [found]
        return found

    async def predict(self, tasks: list[Task]) -> Sequence[bytes | Exception]:
        self.then(self)
        return await super().predict(tasks)


async def no_progress(totals: Totals, total: int | None) -> None:
    await asyncio.sleep(3600)


def watch(
    project: ProjectInMemory,
    engine: Engine,
    home: Path,
    said: list[str] | None = None,
    **asked: object,
) -> Report:
    """Watch until so many tasks are predicted as ``limit`` says."""
    said = [] if said is None else said
    options = {"project": "1", "watch_s": 0.01, **asked}
    run = Run(Options(**options), 4, home, no_progress, said.append)  # type: ignore[arg-type]

    async def go() -> None:
        await predict_project(run, project, engine, PROJECT, CONFIG)

    asyncio.run(asyncio.wait_for(go(), 20))
    return run.report


def add(project: ProjectInMemory, number: int) -> None:
    project.tasks.append({"id": number, "data": {"text": f"text {number}"}})
    project.tasks.sort(key=lambda task: int(task["id"]))


def test_failed_and_late_tasks_are_predicted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_run, "_FULL_PASS_EVERY_S", 0.1)
    project = ProjectInMemory("text 1", "text 2", "text 3")
    project.tasks[1]["id"], project.tasks[2]["id"] = 5, 6

    engine = Engine("text 2", then=id)
    original = project.project

    def between() -> tuple[Project, str]:
        """The media's host is back."""
        if engine.bad:
            assert project.counts() == [1, 0, 1]
            engine.bad.clear()
            add(project, 2)
        return original()

    project.project = between  # type: ignore[method-assign]
    report = watch(project, engine, tmp_path, limit=4)

    assert project.counts() == [1] * 4
    assert (report.failed, report.failures, report.failed_file) == (0, [], None)
    assert list(tmp_path.joinpath("preannotate").iterdir()) == []


def test_tasks_without_a_prediction_are_predicted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_run, "_FULL_PASS_EVERY_S", 0.0)
    project = ProjectInMemory("text 1", "text 2")

    class Silent(Engine):
        async def predict(self, tasks: list[Task]) -> Sequence[bytes | Exception]:
            self.seen += len(tasks)
            return [b"[]"] * len(tasks)

    engine = Silent(then=id)
    original, passes = project.count, 0

    def count(selection: Selection) -> int | None:
        nonlocal passes
        passes += 1
        if passes == 4:
            add(project, 3)
        return original(selection)

    project.count = count  # type: ignore[method-assign]
    watch(project, engine, tmp_path, limit=3)

    assert engine.seen == 3
    assert passes >= 4


@pytest.mark.parametrize(
    "trouble",
    [StateError("the state did not answer"), ModelError("setup() raised ValueError")],
)
def test_a_watch_continues_after_errors_of_the_model(
    tmp_path: Path, trouble: LsmlError
) -> None:
    project = ProjectInMemory("text 1")
    original = project.project

    def between() -> tuple[Project, str]:
        if len(project.tasks) == 1:
            add(project, 2)
        return original()

    project.project = between  # type: ignore[method-assign]
    engine = Engine(then=id)
    engine.prepared = ["1", trouble, trouble, "1"]

    said: list[str] = []
    watch(project, engine, tmp_path, said, limit=2)

    assert project.counts() == [1, 1]
    assert said == [f"lsml-bento: {trouble}"]


def test_another_version_predicts_all_tasks(tmp_path: Path) -> None:
    project = ProjectInMemory("text 1", "text 2")
    engine = Engine(then=lambda _: None)
    engine.prepared = ["1", "2"]

    report = watch(project, engine, tmp_path, limit=4)

    assert report.model_version == "2"
    versions = [[one["model_version"] for one in project.stored[n]] for n in (1, 2)]
    assert versions == [["1", "2"]] * 2


def test_a_watch_follows_a_backend_to_another_version(tmp_path: Path) -> None:
    project = ProjectInMemory("text 1", "text 2", page_size=1)

    def then(engine: Engine) -> None:
        if engine.seen == 1 and engine.prepared == ["1"]:
            engine.prepared = ["2"]
            raise VersionChanged("the backend went from 1 to 2")

    engine = Engine(then=then)
    engine.prepared = ["1"]

    watch(project, engine, tmp_path, limit=3)

    versions = [[one["model_version"] for one in project.stored[n]] for n in (1, 2)]
    assert versions == [["1", "2"], ["2"]]


def test_the_checkpoint_names_tasks_being_sent_when_a_watch_fails(
    tmp_path: Path,
) -> None:
    project = ProjectInMemory("text 1")
    original = project.project

    def between() -> tuple[Project, str]:
        if len(project.tasks) == 1:
            add(project, 2)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        return original()

    def breaks(_: object) -> None:
        raise Unreachable("its fate is not known")

    def then(engine: Engine) -> None:
        if engine.seen == 1:
            project.write = breaks  # type: ignore[method-assign, assignment]

    project.project = between  # type: ignore[method-assign]
    watch(project, Engine(then=then), tmp_path)

    kept = (tmp_path / "preannotate" / f"{PROJECT}.json").read_text()
    assert '"pending":[2]' in kept
