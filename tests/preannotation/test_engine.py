"""Predictions in full batches, and the reason of each that failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from lsml_bento.contract import Project, Task
from lsml_bento.errors import ModelError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import NoMedia
from lsml_bento.preannotation.engine import Answer, Batches, LocalEngine, snapshot
from lsml_bento.preannotation.pipeline import (
    Failure,
    Outcome,
    Totals,
    predictions_of,
)
from lsml_bento.preannotation.selection import PreannotationError, Unreachable
from lsml_bento.state.memory import MemoryState
from lsml_bento.versions.registry import Version, Versions, promote
from tests.doubles import CONFIG, OTHER_CONFIG, Echo

NOBODY = Project("0", 0)


def tasks_of(*texts: str) -> list[Task]:
    return [{"id": n, "data": {"text": text}} for n, text in enumerate(texts, 1)]


def answers_of(
    model: type[LabelStudioMLBase], tasks: list[Task], max_batch_size: int = 8
) -> list[Answer]:
    async def predict() -> list[Answer]:
        engine = LocalEngine(ModelSource(model), MemoryState(), NoMedia())
        batches = Batches(engine, max_batch_size)
        try:
            await engine.prepare(NOBODY, CONFIG)
            return await batches.predict(tasks)
        finally:
            await batches.close()

    return asyncio.run(predict())


def said(answer: Answer) -> str:
    """What an ``Echo`` answered, or the error that came of it."""
    if not isinstance(answer, bytes):
        return repr(answer)
    [prediction] = predictions_of(answer, "")
    return str(prediction["result"][0]["value"]["choices"][0])


class Refuser(Echo):
    """Fails for every batch with a text that begins with "bad"."""

    calls: ClassVar[list[int]] = []

    def predict(self, tasks: list[Task], context: Any = None, **kwargs: Any) -> Any:
        self.calls.append(len(tasks))
        if any(task["data"]["text"].startswith("bad") for task in tasks):
            raise ValueError("a bad text")
        return super().predict(tasks, context, **kwargs)


class TestFailures:
    def test_bad_tasks_do_not_fail_others_in_their_batch(self) -> None:
        texts = [f"bad {n}" if n in (2, 7, 9, 30) else f"good {n}" for n in range(32)]

        answers = answers_of(Refuser, tasks_of(*texts), max_batch_size=32)

        for text, answer in zip(texts, answers, strict=True):
            if text.startswith("bad"):
                assert repr(answer) == "ValueError('a bad text')"
            else:
                assert said(answer) == text

    def test_a_model_that_always_fails_is_called_a_few_times_per_batch(self) -> None:
        Refuser.calls.clear()

        answers = answers_of(Refuser, tasks_of(*["bad"] * 64), max_batch_size=32)
        first = len(Refuser.calls)
        asyncio.run(self._predict_twice(64))

        assert {repr(answer) for answer in answers} == {"ValueError('a bad text')"}
        assert first < 100
        # The second page of a run finds it broken: five calls a batch.
        assert len(Refuser.calls) - 2 * first <= 10

    async def _predict_twice(self, count: int) -> None:
        engine = LocalEngine(ModelSource(Refuser), MemoryState(), NoMedia())
        batches = Batches(engine, 32)
        await engine.prepare(NOBODY, CONFIG)
        for _ in range(2):
            await batches.predict(tasks_of(*["bad"] * count))
        await batches.close()

    def test_an_invalid_prediction_fails_only_its_task(self) -> None:
        odd = {"choices": ["odd"]}

        class Odd(Echo):
            def predict(self, tasks: list[Task], *_: Any, **__: Any) -> list[Any]:
                found = super().predict(tasks)
                return [7 if one["result"][0]["value"] == odd else one for one in found]

        first, second = answers_of(Odd, tasks_of("good", "odd"))

        assert said(first) == "good"
        assert repr(second).startswith("PredictionError('a prediction is a dict")


def test_a_lost_gpu_ends_the_run_and_fails_no_task() -> None:
    class Brittle(Echo):
        def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(PreannotationError, match="run the same command again"):
        answers_of(Brittle, tasks_of(*"abc"))


class TestBatches:
    def test_pages_fill_batches_together(self) -> None:
        sizes: list[int] = []

        class Counter(Echo):
            def predict(self, tasks: list[Task], *_: Any, **__: Any) -> list[Any]:
                sizes.append(len(tasks))
                return super().predict(tasks)

        async def predict() -> None:
            engine = LocalEngine(ModelSource(Counter), MemoryState(), NoMedia())
            batches = Batches(engine, 8)
            await engine.prepare(NOBODY, CONFIG)
            pages = [tasks_of("a", "b", "c", "d", "e") for _ in range(8)]
            await asyncio.gather(*map(batches.predict, pages))
            await batches.close()

        asyncio.run(predict())

        assert sizes == [8] * 5

    def test_no_call_starts_after_stop(self) -> None:
        async def predict() -> list[Answer]:
            engine = LocalEngine(ModelSource(Echo), MemoryState(), NoMedia())
            batches = Batches(engine, 8)
            await engine.prepare(NOBODY, CONFIG)
            batches.stop()
            found = await batches.predict(tasks_of("a", "b"))
            await batches.close()
            return found

        assert asyncio.run(predict()) == [None, None]


class Gone:
    """An engine whose backend is away."""

    calls = 1

    async def prepare(self, project: Project, label_config: str) -> str:
        return "1"

    async def predict(self, tasks: list[Task]) -> Sequence[bytes | Exception]:
        raise Unreachable("nobody answers")

    async def close(self) -> None:
        """Nothing is open."""


def test_an_error_that_ends_the_run_fails_no_task() -> None:
    async def predict() -> None:
        batches = Batches(Gone(), 8)
        try:
            await batches.predict(tasks_of("a", "b"))
        finally:
            await batches.close()

    with pytest.raises(PreannotationError, match="nobody answers"):
        asyncio.run(predict())


class Learned(LabelStudioMLBase):
    """Says which weights it has."""

    def setup(self) -> None:
        self.set("model_version", "base")
        self.set("seen", "by setup")

    def predict(self, tasks: list[Task], *_: Any, **__: Any) -> list[Any]:
        return [{"result": [], "score": 0.5} for _ in tasks]


def test_the_active_version_predicts_and_the_state_does_not_change() -> None:
    project, state = Project("3", 7), MemoryState()
    state.write(project, {"label_config": CONFIG, "model_version": "base"})
    made = Version(version="trained-1", created_at=1.0, label_config=OTHER_CONFIG)
    state.change(lambda change: promote(change, project, made))
    before = state.read(project)

    async def predict() -> tuple[str, list[Answer]]:
        copied = snapshot(state, project)
        assert Versions(copied).pointer(project).version == "trained-1"
        engine = LocalEngine(ModelSource(Learned), copied, NoMedia())
        version = await engine.prepare(project, OTHER_CONFIG)
        batches = Batches(engine, 8)
        found = await batches.predict(tasks_of("a"))
        await batches.close()
        return version, found

    version, [answer] = asyncio.run(predict())

    assert version == "trained-1"
    assert isinstance(answer, bytes)
    assert json.loads(answer)["model_version"] == "trained-1"
    assert state.read(project) == before


def test_a_label_config_that_the_model_refuses_changes_nothing() -> None:
    class Picky(Learned):
        def setup(self) -> None:
            if "Neutral" in self.label_config:
                raise ValueError("no such choice")
            super().setup()

    async def predict() -> tuple[str, Sequence[bytes | Exception]]:
        engine = LocalEngine(ModelSource(Picky), MemoryState(), NoMedia())
        version = await engine.prepare(NOBODY, CONFIG)
        with pytest.raises(ModelError, match="no such choice"):
            await engine.prepare(NOBODY, OTHER_CONFIG)
        found = await engine.predict(tasks_of("a"))
        await engine.close()
        return version, found

    version, [answer] = asyncio.run(predict())

    assert version == "base"
    assert isinstance(answer, bytes)


class TestOutcomes:
    def test_a_failure_names_its_line_and_task(self) -> None:
        assert str(Failure("line 3", 7, "why")) == "line 3 (task 7): why"
        assert str(Failure("line 3", None, "why")) == "line 3: why"
        assert str(Failure("", "x", "why")) == "task 'x': why"

    def test_totals_keep_the_first_failures_and_count_all(self) -> None:
        totals = Totals()
        for number in range(30):
            failure = Failure("", number, "why")
            totals.add(Outcome(predicted=2, empty=1, failures=[failure]), number)

        assert (totals.predicted, totals.empty, totals.failed) == (60, 30, 30)
        assert [failure.task_id for failure in totals.failures] == list(range(20))
        assert totals.at == 29

    def test_an_answer_may_hold_several_predictions_or_none(self) -> None:
        two = [{"result": [], "model_version": "own"}, {"result": []}, {"score": 1}]

        found = predictions_of(json.dumps(two).encode(), "given")

        assert [one["model_version"] for one in found] == ["given", "given"]
        assert predictions_of(b"[]", "given") == []
