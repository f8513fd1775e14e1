"""Predictions into a project: none twice and none lost, whatever becomes of a POST."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lsml_bento.contract import Task
from lsml_bento.preannotation import sender as sending
from lsml_bento.preannotation.durable_files import load_checkpoint, save_checkpoint
from lsml_bento.preannotation.engine import Batches
from lsml_bento.preannotation.pipeline import Pipeline, Totals
from lsml_bento.preannotation.project_writer import (
    ProjectCheckpoint,
    ProjectWriter,
    SelectedTasks,
    digest_of,
)
from lsml_bento.preannotation.run import LabelConfigCheck
from lsml_bento.preannotation.selection import Predicted, Selection, Unreachable
from tests.doubles import CONFIG, choice
from tests.label_studio_in_memory import ProjectInMemory
from tests.preannotation.test_files import Chooser

START = ProjectCheckpoint(model_version="1", selection="all")
SLOT = {"result": [choice("Positive")], "score": 0.5, "model_version": "1"}


def run(
    project: ProjectInMemory,
    home: Path,
    engine: Chooser | None = None,
    *,
    overwrite: bool = False,
    limit: int | None = None,
    selection: Selection | None = None,
    patience_s: float = 3600.0,
) -> Totals:
    """One pass as the command does it."""
    totals = Totals()
    writer = ProjectWriter(
        project,
        home,
        "1.5",
        START,
        overwrite=overwrite,
        timeout_s=patience_s,
        settle_s=0.2,
    )
    tasks = SelectedTasks(project, selection or Selection(), None if overwrite else "1")

    async def go() -> None:
        batches = Batches(engine or Chooser(), 4)
        pipeline = Pipeline(batches, writer, totals, LabelConfigCheck(CONFIG))
        try:
            with writer:
                await pipeline.run(tasks.pages(writer.above, limit))
                writer.ended = True
        finally:
            await batches.close()

    asyncio.run(go())
    return totals


def project_of(count: int) -> ProjectInMemory:
    return ProjectInMemory(*(f"text {n}" for n in range(1, count + 1)))


def test_each_task_gets_one_prediction_in_repeated_runs(
    tmp_path: Path,
) -> None:
    project = project_of(10)

    first, second = run(project, tmp_path), run(project, tmp_path)

    assert project.counts() == [1] * 10
    assert (first.predicted, first.skipped) == (10, 0)
    assert (second.predicted, second.skipped) == (0, 10)
    assert project.stored[1] == [SLOT]
    assert list(tmp_path.iterdir()) == []


def test_only_missing_reads_only_those(tmp_path: Path) -> None:
    project = project_of(10)
    project.write([Predicted(n, SLOT) for n in (1, 2, 3, 7)])

    totals = run(project, tmp_path, selection=Selection(missing="1"))

    assert project.counts() == [1] * 10
    assert (totals.predicted, totals.skipped) == (6, 0)


@pytest.mark.parametrize("fault", ["lost", "stored", "half"])
def test_a_post_with_an_unknown_result_is_read_back(tmp_path: Path, fault: str) -> None:
    project = project_of(9)
    project.faults = ["", fault]

    totals = run(project, tmp_path)

    assert project.counts() == [1] * 9
    assert totals.predicted == 9


def test_results_that_stay_unknown_end_the_run_and_the_next_continues(
    tmp_path: Path,
) -> None:
    project = project_of(9)
    project.faults = ["", "stored", *["lost"] * 99]
    with pytest.raises(Unreachable, match="run the same command again to find out"):
        run(project, tmp_path, patience_s=0.1)
    assert project.counts() == [1] * 6 + [0] * 3

    project.faults = []
    run(project, tmp_path)

    assert project.counts() == [1] * 9


def test_predictions_sent_by_a_killed_run_are_waited_for(tmp_path: Path) -> None:
    project = project_of(3)
    pending = START.model_copy(update={"pending": [1, 2]})
    save_checkpoint(tmp_path / "1.5.json", pending)
    began = time.monotonic()

    run(project, tmp_path)

    assert time.monotonic() - began > 0.15
    assert project.counts() == [1] * 3


def test_the_wait_starts_when_label_studio_answers_again(
    tmp_path: Path,
) -> None:
    project = project_of(3)
    original = project.predicted
    asked: list[int] = []

    def predicted(version: str, task_ids: Sequence[int]) -> set[int]:
        asked.append(len(task_ids))
        if len(asked) == 2:  # it was away until now, and carries out what it had got
            time.sleep(0.4)
            threading.Timer(0.1, project.write, [[Predicted(2, SLOT)]]).start()
        return original(version, task_ids)

    project.predicted = predicted  # type: ignore[method-assign]
    pending = START.model_copy(update={"pending": [2]})
    save_checkpoint(tmp_path / "1.5.json", pending)

    totals = run(project, tmp_path)

    assert project.counts() == [1] * 3
    assert (totals.predicted, totals.skipped) == (2, 1)


def test_predictions_stored_meanwhile_get_no_second_one(
    tmp_path: Path,
) -> None:
    project = project_of(6)

    class Opener(Chooser):
        """While it predicts, annotators open tasks 2 and 6."""

        async def predict(self, tasks: list[Task]) -> Sequence[bytes | Exception]:
            opened = {task["id"] for task in tasks} & {2, 6}
            project.write([Predicted(task_id, SLOT) for task_id in opened])
            return await super().predict(tasks)

    totals = run(project, tmp_path, Opener())

    assert project.counts() == [1] * 6
    assert (totals.predicted, totals.skipped) == (4, 2)


class TestPostsThatFail:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sending, "_PAUSES_S", (0.001,) * 8)

    def test_a_task_that_cannot_be_stored_does_not_fail_others(
        self, tmp_path: Path
    ) -> None:
        project = project_of(12)
        project.page_size = 12
        project.breaks = {1, 8}

        totals = run(project, tmp_path)

        assert project.counts() == [0, *[1] * 6, 0, *[1] * 4]
        assert (totals.predicted, totals.failed) == (10, 2)
        assert {str(failure) for failure in totals.failures} == {
            "task 1: Label Studio answered 500",
            "task 8: Label Studio answered 500",
        }

    def test_no_task_fails_while_label_studio_stores_nothing(
        self, tmp_path: Path
    ) -> None:
        project = project_of(3)
        project.faults = ["lost"] * 40

        totals = run(project, tmp_path)

        assert project.counts() == [1] * 3
        assert (totals.predicted, totals.failed) == (3, 0)

        project = project_of(3)
        project.breaks = {1, 2, 3}
        with pytest.raises(Unreachable, match="answered 500"):
            run(project, tmp_path, patience_s=0.2)
        assert not (tmp_path / "1.5.failed.jsonl").exists()

    def test_a_page_of_one_task_is_given_up_after_retries(self, tmp_path: Path) -> None:
        project = project_of(1)
        project.breaks = {1}

        assert run(project, tmp_path).failed == 1
        assert len(project.posts) >= 8


def test_a_refused_prediction_fails_its_task(tmp_path: Path) -> None:
    project = project_of(9)
    project.refuses = {2, 6}

    totals = run(project, tmp_path, Chooser("text 9"))

    assert project.counts() == [1, 0, 1, 1, 1, 0, 1, 1, 0]
    assert (totals.predicted, totals.failed) == (6, 3)
    assert [str(failure) for failure in totals.failures] == [
        "task 2: Label Studio refuses the predictions of {2}",
        "task 6: Label Studio refuses the predictions of {6}",
        "task 9: predict() raised ValueError: a bad text",
    ]
    listed = (tmp_path / "1.5.failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in listed] == [2, 6, 9]


def test_overwriting_replaces_predictions_of_the_version_only(tmp_path: Path) -> None:
    project = project_of(4)
    other = {**SLOT, "model_version": "0"}
    old = {**SLOT, "score": 0.1}
    project.write([Predicted(1, other), Predicted(1, old), Predicted(4, old)])

    run(project, tmp_path, Chooser("text 4"), overwrite=True)

    assert project.stored[1] == [other, SLOT]
    assert project.stored[4] == [old]  # which is better than none
    assert project.counts() == [2, 1, 1, 1]


def test_overwriting_resumes_after_a_kill(tmp_path: Path) -> None:
    project = project_of(9)
    run(project, tmp_path)
    project.posts.clear()
    save_checkpoint(tmp_path / "1.5.json", START.model_copy(update={"above": 6}))

    totals = run(project, tmp_path, overwrite=True)

    assert totals.predicted == 3
    assert project.deleted == [7, 8, 9]
    assert project.counts() == [1] * 9


def test_pages_that_were_read_are_written_before_unreachable_ends_a_pass(
    tmp_path: Path,
) -> None:
    project = project_of(9)
    original = project.predicted

    def predicted(version: str, task_ids: object) -> set[int]:
        project.away |= 6 in list(task_ids)  # type: ignore[call-overload]
        return original(version, task_ids)  # type: ignore[arg-type]

    project.predicted = predicted  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        run(project, tmp_path)

    assert project.counts() == [1] * 6 + [0] * 3
    found = load_checkpoint(tmp_path / "1.5.json", ProjectCheckpoint)
    assert found is not None
    assert (found.above, found.pending) == (6, [])


def test_a_limit_counts_tasks_that_are_predicted(tmp_path: Path) -> None:
    project = project_of(10)
    run(project, tmp_path, limit=4)
    assert project.counts() == [1] * 4 + [0] * 6
    run(project, tmp_path, limit=4)
    assert project.counts() == [1] * 8 + [0] * 2


def test_selections_have_different_digests() -> None:
    filters = {"conjunction": "and", "items": []}
    names = {
        digest_of(Selection(), overwrite=False),
        digest_of(Selection(), overwrite=True),
        digest_of(Selection(filters), overwrite=True),
        digest_of(Selection(view=3), overwrite=True),
    }
    assert len(names) == 4
