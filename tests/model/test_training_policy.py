"""When a class learns, and what its fit reaches in a test and outside of a job."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsml_bento.errors import NotTraining
from lsml_bento.model.base_class import LabelStudioMLBase, rules_of
from lsml_bento.model.training_policy import (
    START_TRAINING,
    NoRun,
    TrainingEvent,
    TrainingPolicy,
    TrainingRules,
)
from lsml_bento.testing import LocalRun, fit


class TestPolicy:
    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"min_new_annotations": 0}, "min_new_annotations must be at least 1"),
            ({"quiet_s": -1}, "quiet_s must be at least 0 seconds"),
            ({"max_wait_s": float("nan")}, "max_wait_s must be at least 0 seconds"),
        ],
    )
    def test_invalid_numbers_are_refused(
        self, values: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ValueError, match=f"^{said}$"):
            TrainingPolicy(**values)

    def test_a_policy_that_never_trains_is_refused(self) -> None:
        assert TrainingPolicy(max_wait_s=math.inf).max_wait_s == math.inf
        with pytest.raises(ValueError, match="to train on request only, set TRAIN_EV"):
            TrainingPolicy(quiet_s=math.inf, max_wait_s=math.inf)

    @given(
        st.builds(
            TrainingRules,
            actions=st.lists(st.text()).map(tuple),
            policy=st.builds(
                TrainingPolicy,
                st.integers(1),
                st.floats(0),
                st.floats(0, allow_infinity=False),
            ),
        )
    )
    def test_rules_are_read_back_from_json(self, rules: TrainingRules) -> None:
        assert TrainingRules.from_json(rules.to_json()) == rules


class Learner(LabelStudioMLBase):
    training = TrainingPolicy(min_new_annotations=3)
    TRAIN_EVENTS = ("ANNOTATION_CREATED", "TASKS_CREATED")

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> None:
        tasks = list(self.annotated_tasks())
        self.report(progress=0.5, seen=len(tasks))
        with self.save_weights(metrics={"f1": 0.5}) as directory:
            (directory / "weights").write_text(f"{event} {kwargs['job_id']}")


class TestRules:
    def test_a_class_without_its_own_fit_never_trains(self) -> None:
        rules = rules_of(LabelStudioMLBase, each_event=False)

        assert not rules.wants(START_TRAINING)
        assert not rules.wants("ANNOTATION_CREATED")

    def test_train_events_decide_what_a_class_trains_on(self) -> None:
        rules = rules_of(Learner, each_event=False)

        assert rules.policy.min_new_annotations == 3
        assert rules.wants("TASKS_CREATED")
        assert not rules.wants("ANNOTATION_UPDATED")
        assert not rules.wants(START_TRAINING)

    def test_list_events_follow_their_single_events(self) -> None:
        gathered, legacy = TrainingRules(), TrainingRules(each_event=True)

        assert gathered.wants("ANNOTATIONS_CREATED")
        assert gathered.wants("ANNOTATIONS_DELETED")
        assert legacy.wants("ANNOTATIONS_CREATED")
        assert not legacy.wants("ANNOTATIONS_DELETED"), "it brings ids only"
        assert not TrainingRules(actions=()).wants("ANNOTATIONS_CREATED")


class TestRuns:
    def test_a_fit_can_be_tested_without_a_server(self, tmp_path: Path) -> None:
        tasks = [{"id": 1, "data": {}, "annotations": [{"id": 2, "result": []}]}]

        run = fit(Learner(), tasks, tmp_path)

        assert run.reports == [{"progress": 0.5, "seen": 1.0}]
        [(path, metrics)] = run.saved
        assert (path / "weights").read_text() == "START_TRAINING local"
        assert metrics == {"f1": 0.5}

    def test_a_block_that_raises_saves_nothing(self, tmp_path: Path) -> None:
        run = LocalRun([], tmp_path, [TrainingEvent("X", 1)])

        with pytest.raises(OSError, match="full"), run.save_weights({}):
            raise OSError("full")

        assert run.saved == []
        assert run.events == [TrainingEvent("X", 1)]
        with run.save_weights({}) as directory:
            assert list(directory.iterdir()) == []

    def test_no_tasks_are_available_outside_a_job(self) -> None:
        run, model = NoRun(), Learner()
        run.report(0.5, {})

        assert (run.events, run.should_stop, run.job_id) == ([], False, "")
        with pytest.raises(NotTraining, match=r"lsml_bento\.testing\.fit"):
            model.annotated_tasks()
        with pytest.raises(NotTraining, match=r"lsml_bento\.testing\.fit"):
            model.save_weights()
