"""What ``fit`` reaches of its job: tasks, reports, and a directory for weights."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.contract import Task
from lsml_bento.errors import TrainingError, WeightsError
from lsml_bento.model.training_policy import TrainingEvent
from lsml_bento.state.memory import MemoryState
from lsml_bento.training.trainer import JobRun, OverlayState
from tests.fits import ONE, Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, MemoryState())


@pytest.fixture
def run(home: Home) -> Iterator[JobRun]:
    made = run_of(home)
    yield made
    made.forget()


def run_of(home: Home, **data: Any) -> JobRun:
    return JobRun(
        home.lease(**data).job, OverlayState(home.state, ONE, None), home.context
    )


def save_badly(run: JobRun) -> None:
    with suppress(KeyError), run.save_weights({}) as directory:
        (directory / "bad.bin").touch()
        raise KeyError


class TestWeights:
    def test_no_weights_are_stored_before_fit_returns(
        self, home: Home, run: JobRun
    ) -> None:
        with run.save_weights({"f1": 0.5}) as directory:
            (directory / "a.bin").write_bytes(b"weights")
        assert home.stored == []
        assert run.saved is None

        run.keep()

        assert run.saved is not None
        assert home.stored == [run.saved.tag]
        assert (run.saved.path / "a.bin").read_bytes() == b"weights"
        assert run.metrics == {"f1": 0.5}
        assert list(run.saved.manifest) == ["a.bin"]
        assert home.scraps == []

    def test_bentoml_shows_where_they_come_from(self, home: Home, run: JobRun) -> None:
        with run.save_weights({"f1": 0.5, "loss": None}) as directory:
            (directory / "a.bin").touch()
        run.keep()

        assert run.saved is not None
        described = (run.saved.path.parent / "model.yaml").read_text()
        for text in (run.job_id, "backend: learner", f"project: '{ONE}'", "f1: 0.5"):
            assert text in described

    def test_of_two_blocks_the_last_one_counts(self, home: Home, run: JobRun) -> None:
        for number in (1, 2):
            with run.save_weights({"epoch": float(number)}) as directory:
                (directory / f"{number}.bin").touch()
        run.keep()

        assert run.saved is not None
        assert list(run.saved.manifest) == ["2.bin"]
        assert run.metrics == {"epoch": 2.0}
        assert len(home.stored) == 1
        assert home.scraps == []

    def test_a_block_that_raises_leaves_the_one_before_it(
        self, home: Home, run: JobRun
    ) -> None:
        with run.save_weights({}) as directory:
            (directory / "good.bin").touch()
        save_badly(run)
        run.keep()

        assert run.saved is not None
        assert list(run.saved.manifest) == ["good.bin"]

    def test_a_block_that_raises_leaves_nothing(self, home: Home, run: JobRun) -> None:
        save_badly(run)
        run.keep()

        assert run.saved is None
        assert (home.stored, home.scraps) == ([], [])

    @pytest.mark.parametrize("inside", ["", "only/directories"])
    def test_an_empty_block_is_an_error(
        self, home: Home, run: JobRun, inside: str
    ) -> None:
        with (
            pytest.raises(WeightsError, match="wrote no file: write the weights into"),
            run.save_weights({}) as directory,
        ):
            (directory / inside).mkdir(parents=True, exist_ok=True)
        run.keep()

        assert run.saved is None
        assert (home.stored, home.scraps) == ([], [])

    def test_a_run_that_failed_takes_its_weights_along(
        self, home: Home, run: JobRun
    ) -> None:
        with run.save_weights({}) as directory:
            (directory / "a.bin").touch()
        run.keep()
        run.forget()

        assert run.saved is None
        assert (home.stored, home.scraps) == ([], [])

    def test_a_file_that_is_not_found_is_the_caller_s_own_mistake(
        self, run: JobRun
    ) -> None:
        with (
            pytest.raises(FileNotFoundError, match=r"vocabulary\.txt"),
            run.save_weights({}),
        ):
            Path("no-such-directory/vocabulary.txt").read_text()

    def test_the_error_names_a_store_that_cannot_be_written(
        self, tmp_path: Path
    ) -> None:
        home = Home(tmp_path, MemoryState())
        home.store.parent.mkdir()
        home.store.touch()
        with (
            pytest.raises(WeightsError, match=f"{home.store}.*set LSML_MODEL_STORE"),
            run_of(home).save_weights({}),
        ):
            pass

    def test_a_limit_on_files_is_the_reason(self, home: Home, run: JobRun) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with (
                pytest.raises(OSError, match="File too large"),
                run.save_weights({}) as directory,
            ):
                (directory / "a.bin").write_bytes(os.urandom(200_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        assert (home.stored, home.scraps) == ([], [])

    def test_a_full_disk_is_named_with_what_to_do(self, home: Home) -> None:
        run = run_of(home)
        with (
            pytest.raises(WeightsError, match="the disk is full: free some space"),
            run.save_weights({}),
            Path("/dev/full").open("w") as file,
        ):
            file.write("weights")

        assert (home.stored, home.scraps) == ([], [])


class TestTasks:
    def test_without_credentials_they_come_from_the_annotation_store(
        self, home: Home, run: JobRun
    ) -> None:
        home.annotate(1, 2, total=2)

        tasks = list(run.annotated_tasks())

        assert [task["data"] for task in tasks] == [
            {"text": "text 1"},
            {"text": "text 2"},
        ]
        assert home.reports == [{"source": "annotation store"}]

    def test_missing_annotations_are_noted_with_the_settings_that_help(
        self, home: Home, run: JobRun
    ) -> None:
        home.annotate(1, 2, total=5)
        list(run.annotated_tasks())

        assert home.reports[1:] == [
            {
                "note": "the annotation store holds 2 of the project's 5 annotations: "
                "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to learn from all of "
                "them"
            }
        ]

    def test_a_fit_that_reads_only_some_tasks_gets_no_note(
        self, home: Home, run: JobRun
    ) -> None:
        home.annotate(1, 2, total=5)
        next(run.annotated_tasks())

        assert home.reports == [{"source": "annotation store"}]

    def test_with_credentials_label_studio_is_read(self, home: Home) -> None:
        home.annotate(1, total=5)
        home.context.tasks = LabelStudio()
        run = run_of(home)

        assert [task["id"] for task in run.annotated_tasks()] == [7]
        assert home.reports == [{"source": "Label Studio"}]

    def test_what_the_caller_does_to_a_task_does_not_touch_the_sample(
        self, home: Home, run: JobRun
    ) -> None:
        home.annotate(1)
        for task in run.annotated_tasks():
            task["data"].clear()
            task["annotations"].clear()

        assert run.sample is not None
        assert run.sample["data"] == {"text": "text 1"}
        assert len(run.sample["annotations"]) == 1

    def test_a_label_studio_that_fails_is_passed_on(self, home: Home) -> None:
        home.context.tasks = LabelStudio(fails=True)

        with pytest.raises(TrainingError, match="Label Studio is away"):
            list(run_of(home).annotated_tasks())


class LabelStudio:
    def __init__(self, *, fails: bool = False) -> None:
        self._fails = fails

    def annotated(self, project_id: str) -> Iterator[Task]:
        if self._fails:
            raise TrainingError("Label Studio is away")
        assert project_id == "1"
        yield {"id": 7, "data": {}, "annotations": [{"id": 1, "result": []}]}


class TestItsJob:
    def test_it_knows_the_job_and_its_events(self, home: Home) -> None:
        run = run_of(
            home,
            action="ANNOTATION_CREATED",
            annotation={"id": 4, "task": 5},
            task={"id": 5, "data": {}},
        )

        assert run.events == [TrainingEvent("ANNOTATION_CREATED", 4)]
        assert run.job_id == home.job_store.jobs()[0].id

    def test_reports_go_to_the_worker(self, home: Home, run: JobRun) -> None:
        run.report(0.5, {"loss": 1.0})
        run.report(None, {"loss": None})

        assert home.reports == [
            {"progress": 0.5, "metrics": {"loss": 1.0}},
            {"progress": None, "metrics": {"loss": None}},
        ]

    def test_should_stop_becomes_true(self, home: Home, run: JobRun) -> None:
        assert run.should_stop is False
        home.context.should_stop = True
        assert run.should_stop is True
