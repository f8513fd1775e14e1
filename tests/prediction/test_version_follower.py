"""From the version that serves to the next one, without a failed or mixed answer."""

from __future__ import annotations

import gc
import logging
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from lsml_bento.contract import Project
from lsml_bento.errors import StateError
from lsml_bento.jobs.annotations import observe
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource
from lsml_bento.prediction import version_follower
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import Change
from lsml_bento.versions.registry import Version, promote
from tests.doubles import CONFIG, OTHER_CONFIG, choice
from tests.learned import ONE, TWO, Named, Process, Store, name_in


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(MemoryState(), tmp_path / "models")


@pytest.fixture
def process(store: Store) -> Process:
    return Process(Named, store)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long a version that was refused is let be."""

    def wait(seconds: float) -> None:
        monkeypatch.setattr(version_follower, "_TRY_AGAIN_S", seconds)

    return wait


def counting(**methods: Any) -> type[Any]:
    """``Named`` that notes what is called, with some of its methods replaced."""

    class Counting(Named):
        calls: ClassVar[list[str]] = []

        def load(self, weights: Path | None) -> None:
            name = "base" if weights is None else name_in(weights)
            type(self).calls.append(f"load {name}")
            super().load(weights)

        def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> list[Any]:
            text = tasks[0]["data"]["text"]
            type(self).calls.append(f"predict {text} with {self.loaded.name}")
            return super().predict(tasks, context, **kwargs)

    for name, method in methods.items():
        setattr(Counting, name, method)
    return Counting


class TestASwap:
    def test_a_promoted_version_serves_and_every_answer_names_it(
        self, process: Process, store: Store
    ) -> None:
        assert process.predict() == ("base", "base")
        store.promote("V1")
        assert process.predict() == ("base", "base")

        process.follower.follow()

        assert process.predict() == ("V1", "V1")
        assert process.setup() == "V1"
        assert process.active == {ONE: "V1"}

    def test_it_is_made_beside_the_old_one_and_tried_with_the_last_task(
        self, store: Store
    ) -> None:
        model = counting()
        process = Process(model, store)
        process.predict(text="first")
        process.predict(text="last")
        store.promote("v1")
        model.calls.clear()

        process.follower.follow()

        assert model.calls == ["load v1", "predict last with v1"]
        process.predict(text="next")
        assert model.calls[2:] == ["predict next with v1"]

    def test_while_it_is_made_the_old_one_answers(self, store: Store) -> None:
        loading, may_go_on = threading.Event(), threading.Event()

        class Slow(Named):
            def load(self, weights: Path | None) -> None:
                super().load(weights)
                if weights is not None:
                    loading.set()
                    assert may_go_on.wait(10)

        process = Process(Slow, store)
        process.predict()
        store.promote("v1")
        swapping = threading.Thread(target=process.follower.follow)
        swapping.start()
        assert loading.wait(10)

        assert process.predict() == ("base", "base")
        assert process.setup() == "base"
        assert process.active == {ONE: None}

        may_go_on.set()
        swapping.join()
        assert process.predict() == ("v1", "v1")

    def test_a_swap_keeps_the_projects_label_config(self, store: Store) -> None:
        model = counting()
        process = Process(model, store)
        process.predict(config=CONFIG)
        process.predict(config=OTHER_CONFIG)
        store.promote("v1")
        model.calls.clear()
        process.follower.follow()

        assert store.state.read(ONE)["label_config"] == OTHER_CONFIG
        assert model.calls == ["load v1", "predict a with v1"]
        assert process.predict(config=CONFIG) == ("v1", "v1")
        assert process.predict(config=OTHER_CONFIG) == ("v1", "v1")

    def test_only_the_extra_params_in_use_get_an_object(self, store: Store) -> None:
        model = counting()
        process = Process(model, store)
        for params in ({"a": 1}, {"a": 2}):
            store.state.write(ONE, {"extra_params": params})
            process.predict()
        store.promote("v1")
        model.calls.clear()
        process.follower.follow()

        assert model.calls == ["load v1", "predict a with v1"]
        assert len(process.pool._entries) == 1

    def test_no_model_is_made_while_no_pointer_changes(self, store: Store) -> None:
        model = counting()
        process = Process(model, store)
        process.predict()
        store.promote("v1")
        process.follower.follow()
        model.calls.clear()

        for _ in range(3):
            process.follower.follow()

        assert model.calls == []

    def test_one_that_was_promoted_before_it_was_asked_for_serves_at_once(
        self, process: Process, store: Store
    ) -> None:
        store.promote("v1")
        process.follower.follow()
        assert process.active == {}

        assert process.predict() == ("v1", "v1")

    def test_a_project_whose_objects_were_dropped_is_switched_too(
        self, store: Store
    ) -> None:
        process = Process(Named, store, max_models=1)
        process.predict(ONE)
        process.predict(TWO)
        store.promote("v1", ONE)

        process.follower.follow()

        assert process.predict(ONE) == ("v1", "v1")

    def test_projects_have_versions_of_their_own(
        self, process: Process, store: Store
    ) -> None:
        for project in (ONE, TWO, Project("1", 200)):
            process.predict(project)
        store.promote("v1", ONE)
        store.promote("w7", TWO)

        process.follower.follow()

        assert process.predict(ONE) == ("v1", "v1")
        assert process.predict(TWO) == ("w7", "w7")
        assert process.predict(Project("1", 200)) == ("base", "base")

    def test_the_log_says_which_version_serves(
        self, process: Process, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        process.predict()
        store.promote("v1")
        with caplog.at_level(logging.INFO):
            process.follower.follow()

        assert "Version serves: project=1.100 version=v1 before=base" in caplog.text


class TestGoingBack:
    def test_a_rollback_serves_the_version_before(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        for name in ("v1", "v2"):
            store.promote(name)
            process.follower.follow()
        assert process.predict() == ("v2", "v2")

        store.versions.rollback(ONE)
        process.follower.follow()
        assert process.predict() == ("v1", "v1")

        store.versions.rollback(ONE)
        process.follower.follow()
        assert process.predict() == ("base", "base")
        assert process.setup() == "base"

    def test_the_base_is_activated_by_its_name(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        store.promote("v1")
        process.follower.follow()

        store.versions.activate(ONE, "base")
        process.follower.follow()

        assert process.predict() == ("base", "base")

    def test_a_pinned_version_outlasts_a_promotion(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        store.promote("v1")
        store.versions.activate(ONE, "v1", pin=True)
        store.promote("v2")
        process.follower.follow()
        assert process.predict() == ("v1", "v1")

        store.versions.activate(ONE, "v2")
        process.follower.follow()
        assert process.predict() == ("v2", "v2")

    def test_a_swap_back_while_the_old_object_is_in_use_keeps_it(
        self, store: Store
    ) -> None:
        model = counting()
        process = Process(model, store)
        process.predict()
        key = process.key()
        with process.pool.use(key) as (held, _):
            store.promote("v1")
            process.follower.follow()
            store.versions.activate(ONE, "base")
            process.follower.follow()
        model.calls.clear()

        assert process.predict() == ("base", "base")
        with process.pool.use(key) as (again, _):
            assert again is held
        assert model.calls == ["predict a with base"]


class TestAVersionThatIsNoGood:
    @pytest.mark.parametrize(
        ("holds", "reason"),
        [
            ("bad load", "Named could not be set up: RuntimeError: cannot load"),
            ("bad predict", "Named cannot predict task 1: RuntimeError: cannot"),
        ],
    )
    def test_the_old_one_still_serves_and_log_and_job_say_why(
        self,
        process: Process,
        store: Store,
        holds: str,
        reason: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        process.predict()
        store.promote("v1")
        process.follower.follow()
        job = store.job()
        store.promote("v2", holds=holds, job=job)

        process.follower.follow()

        assert process.predict() == ("v1", "v1")
        assert process.setup() == "v1"
        assert process.active == {ONE: "v1"}
        assert f"Version not served: project=1.100 version=v2: {reason}" in caplog.text
        assert "v1 still serves" in caplog.text
        error = store.error_of(job)
        assert error is not None
        assert error.startswith("the server ")
        assert f"still serves v1: {reason}" in error

    def test_one_whose_setup_raises_is_refused_too(self, store: Store) -> None:
        class Picky(Named):
            def setup(self) -> None:
                super().setup()
                if self.get("model_version") == "v1":
                    raise SystemExit("not with me")

        process = Process(Picky, store)
        process.predict()
        job = store.job()
        store.promote("v1", job=job)

        process.follower.follow()

        assert process.predict() == ("base", "base")
        assert "SystemExit: not with me" in str(store.error_of(job))

    def test_one_without_its_weights_is_refused(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        version = store.promote("v1")
        store.weights.delete(str(version.tag))

        process.follower.follow()

        assert process.predict() == ("base", "base")

    def test_one_with_changed_weights_is_refused(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        version = store.promote("v1")
        path = store.weights.find(str(version.tag), version.manifest) / "name"
        path.unlink()
        path.write_text("xx")
        store = Store(store.state, store.directory)  # one that has checked nothing yet
        process.pool._factory._weights = store.weights

        process.follower.follow()

        assert process.predict() == ("base", "base")

    def test_one_that_was_deleted_is_refused(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        store.promote("v1")

        def lose(change: Change) -> None:
            for key, _ in change.scan("version"):
                change.delete(key)

        store.state.change(lose)
        process.follower.follow()

        assert process.predict() == ("base", "base")

    def test_it_is_not_tried_again_for_a_while(
        self, store: Store, patience: Callable[[float], None]
    ) -> None:
        model = counting()
        process = Process(model, store)
        process.predict()
        store.promote("v1", holds="bad load")
        model.calls.clear()

        process.follower.follow()
        process.follower.follow()
        assert model.calls == ["load bad load"]

        patience(0.05)
        store.promote("v2", holds="bad load")
        process.follower.follow()
        time.sleep(0.06)
        process.follower.follow()
        assert model.calls == ["load bad load"] * 3

    def test_it_is_tried_again_after_thirty_seconds(self) -> None:
        assert version_follower._TRY_AGAIN_S == 30

    def test_another_move_of_the_pointer_is_followed_at_once(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        store.promote("v1", holds="bad load")
        process.follower.follow()

        store.promote("v2")
        process.follower.follow()
        assert process.predict() == ("v2", "v2")

    def test_one_that_can_be_loaded_later_serves_and_its_job_is_cleared(
        self, store: Store, patience: Callable[[float], None]
    ) -> None:
        class Moody(Named):
            bad: ClassVar[bool] = True

            def load(self, weights: Path | None) -> None:
                super().load(weights)
                if weights is not None and self.bad:
                    raise OSError("the disk is away")

        patience(0)
        process = Process(Moody, store)
        process.predict()
        job = store.job()
        store.promote("v1", job=job)
        process.follower.follow()
        assert "the disk is away" in str(store.error_of(job))

        Moody.bad = False
        time.sleep(0.001)
        process.follower.follow()

        assert process.predict() == ("v1", "v1")
        assert store.error_of(job) is None

    def test_a_job_that_was_deleted_is_ignored(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        store.promote("v1", holds="bad load", job="gone")
        process.follower.follow()

        assert process.predict() == ("base", "base")

    def test_a_bad_version_does_not_block_other_projects(
        self, process: Process, store: Store
    ) -> None:
        process.predict(ONE)
        process.predict(TWO)
        store.promote("v1", ONE, holds="bad load")
        store.promote("w1", TWO)

        process.follower.follow()

        assert process.predict(ONE) == ("base", "base")
        assert process.predict(TWO) == ("w1", "w1")

    def test_a_sample_whose_file_is_gone_says_nothing_about_a_version(
        self, store: Store
    ) -> None:
        class Reading(Named):
            is_there: ClassVar[bool] = True

            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                if not self.is_there:
                    self.get_local_path("http://127.0.0.1/gone.png")
                return super().predict(tasks)

        process = Process(Reading, store)
        process.predict()
        Reading.is_there = False
        store.promote("v1")
        process.follower.follow()
        Reading.is_there = True

        assert process.predict() == ("v1", "v1")


class TestFilesReplacedOnDisk:
    def test_they_serve_under_a_new_name_once_they_are_reloaded(
        self, store: Store, tmp_path: Path
    ) -> None:
        file = tmp_path / "replaced.txt"

        class OnDisk(Named):
            def load(self, weights: Path | None) -> None:
                super().load(weights)
                self.loaded.name = file.read_text()

        file.write_text("old")
        process = Process(OnDisk, store)
        assert process.predict() == ("old", "base")
        file.write_text("new")
        process.follower.follow()
        assert process.predict() == ("old", "base")

        store.versions.reload(ONE)
        process.follower.follow()

        assert process.predict() == ("new", "base+1")
        assert process.setup() == "base+1"
        assert Process(OnDisk, store).predict() == ("new", "base+1")

    def test_where_they_do_not_load_the_old_objects_serve(
        self, store: Store, tmp_path: Path
    ) -> None:
        file = tmp_path / "replaced.txt"

        class OnDisk(Named):
            def setup(self) -> None:
                super().setup()
                self.text = file.read_text()

        file.write_text("old")
        process = Process(OnDisk, store)
        process.predict()
        file.unlink()
        store.versions.reload(ONE)

        process.follower.follow()

        assert process.predict() == ("base", "base")

    def test_what_modules_read_is_read_again(
        self, store: Store, tmp_path: Path
    ) -> None:
        (tmp_path / "weights.txt").write_text("old")
        (tmp_path / "reads_its_weights.py").write_text(READS_ITS_WEIGHTS)
        source = ModelSource("reads_its_weights:Reads", tmp_path)
        process = Process(source, store)
        assert process.predict() == ("old", "base")
        (tmp_path / "weights.txt").write_text("new")

        store.versions.reload(ONE)
        process.follower.follow()

        assert process.predict() == ("new", "base+1")


READS_ITS_WEIGHTS = """
from pathlib import Path

from tests.learned import Named

WEIGHTS = Path(__file__).with_name("weights.txt").read_text()


class Reads(Named):
    def load(self, weights):
        super().load(weights)
        self.loaded.name = WEIGHTS
"""


class TestTheState:
    def test_one_that_does_not_answer_changes_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = Store(Away(), tmp_path)
        process = Process(Named, store)
        process.predict()
        store.promote("v1")

        with store.state.away():  # type: ignore[attr-defined]
            process.follower.follow()
        assert process.predict() == ("base", "base")
        assert [r for r in caplog.records if r.levelno > logging.INFO] == []

        process.follower.follow()
        assert process.predict() == ("v1", "v1")

    def test_one_that_does_not_answer_makes_no_base_of_a_version(
        self, tmp_path: Path
    ) -> None:
        store = Store(Away(), tmp_path)
        store.promote("v1")
        process = Process(Named, store)
        process.pool.version(ONE)
        key = process.key()

        with store.state.away(), pytest.raises(StateError):  # type: ignore[attr-defined]
            process.pool.ensure(key)
        time.sleep(0.01)
        process.pool._entries.clear()  # two seconds pass

        assert process.predict() == ("v1", "v1")

    def test_a_deleted_project_serves_its_base(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        store.promote("v1")
        process.follower.follow()

        def forget(change: Change) -> None:
            for key, _ in change.scan(""):
                change.delete(key)

        store.state.change(forget)
        process.follower.follow()

        assert process.predict() == ("base", "base")


class Away(MemoryState):
    """A state that does not answer for a while."""

    is_away = False

    def get(self, key: str) -> str | None:
        self._check()
        return super().get(key)

    def scan(self, *arguments: Any, **options: Any) -> Any:
        self._check()
        return super().scan(*arguments, **options)

    @contextmanager
    def away(self) -> Iterator[None]:
        self.is_away = True
        yield
        self.is_away = False

    def _check(self) -> None:
        if self.is_away:
            raise StateError("no answer")


MIB = 1 << 20
BIG = """
from pathlib import Path
from lsml_bento import LabelStudioMLBase
from tests.doubles import choice

BIG = b"x" * {size}
if (Path(__file__).parent / "broken").exists():
    raise OSError("broken")

class Big(LabelStudioMLBase):
    def predict(self, tasks, context=None, **kwargs):
        return [{{"result": [choice("big")]}} for _ in tasks]
"""


@pytest.fixture
def as_in_a_server() -> Iterator[None]:
    """The garbage collector as a serving process sets it."""
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Path]:
    """The file of a class whose module has a big global."""
    path = tmp_path / "big_module_of_a_user.py"
    path.write_text(BIG.format(size=100 * MIB))
    yield path
    sys.modules.pop(path.stem, None)
    sys.path.remove(str(tmp_path))


def rss_mib() -> float:
    return float(psutil.Process().memory_info().rss) / MIB


@pytest.mark.usefixtures("as_in_a_server")
class TestMemoryOfModules:
    """A class of label_studio_ml keeps its model in a global of its module."""

    def test_fifty_events_leave_one_copy(self, store: Store, big: Path) -> None:
        process = Process(ModelSource(f"{big.stem}:Big", big.parent), store)
        process.predict()
        gc.collect()
        gc.freeze()
        start = rss_mib()

        for number in range(50):
            store.promote_without_weights(f"v{number}", afresh=True)
            process.follower.follow()
            assert process.predict() == ("big", f"v{number}")
            assert rss_mib() < start + 30

    def test_the_old_modules_stay_until_their_last_use(
        self, store: Store, big: Path
    ) -> None:
        process = Process(ModelSource(f"{big.stem}:Big", big.parent), store)
        process.predict()
        gc.collect()
        gc.freeze()
        with process.pool.use(process.key()) as (model, _):
            old = weakref.ref(type(model))
            del model
            store.promote_without_weights("v1", afresh=True)
            process.follower.follow()
            process.follower.follow()
            assert old() is not None
        assert process.predict() == ("big", "v1")

        process.follower.follow()

        assert old() is None

    def test_a_failed_import_leaves_nothing(
        self,
        store: Store,
        big: Path,
        patience: Callable[[float], None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.CRITICAL, "lsml_bento")  # records hold tracebacks
        patience(0)
        process = Process(ModelSource(f"{big.stem}:Big", big.parent), store)
        process.predict()
        start = rss_mib()
        (big.parent / "broken").touch()
        store.promote_without_weights("v1", afresh=True)

        for _ in range(4):
            process.follower.follow()
            assert process.predict()[0] == "big"
            assert process.active == {ONE: None}
            assert rss_mib() < start + 30

        (big.parent / "broken").unlink()
        process.follower.follow()
        assert process.predict() == ("big", "v1")


class TestMemory:
    def test_after_a_swap_the_old_weights_are_garbage(self, store: Store) -> None:
        process = Process(Named, store)
        process.predict()
        loaded = []
        for number in range(5):
            key = process.key()
            with process.pool.use(key) as (model, _):
                loaded += [weakref.ref(model), weakref.ref(vars(model)["loaded"])]
            del model
            store.promote(f"v{number}")
            process.follower.follow()
        gc.collect()

        assert [ref() for ref in loaded] == [None] * 10
        assert len(process.pool._entries) == 1

    def test_an_object_in_use_goes_after_its_last_use(self, store: Store) -> None:
        process = Process(Named, store)
        process.predict()
        key = process.key()
        with process.pool.use(key) as (model, _):
            held = weakref.ref(model)
            del model
            store.promote("v1")
            process.follower.follow()
            gc.collect()
            assert held() is not None
            assert process.predict() == ("v1", "v1")
        gc.collect()

        assert held() is None

    def test_one_that_was_refused_leaves_nothing(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL, "lsml_bento")  # records hold tracebacks
        made: list[weakref.ref[Named]] = []

        class Failing(Named):
            def load(self, weights: Path | None) -> None:
                made.append(weakref.ref(self))
                super().load(weights)

        process = Process(Failing, store)
        process.predict()
        store.promote("v1", holds="bad predict")
        process.follower.follow()
        gc.collect()

        assert made[0]() is not None
        assert made[1]() is None

    def test_a_swap_drops_no_other_project(self, store: Store) -> None:
        model = counting()
        process = Process(model, store, max_models=4)
        process.predict(ONE, CONFIG)
        process.predict(ONE, OTHER_CONFIG)
        process.predict(TWO)
        process.predict(Project("3", 100))
        store.promote("v1", ONE)
        process.follower.follow()
        model.calls.clear()

        for project in (TWO, Project("3", 100), ONE):
            process.predict(project)

        assert len(process.pool._entries) == 4
        assert [call for call in model.calls if "load" in call] == []

    def test_a_request_during_a_swap_drops_no_other_project(self, store: Store) -> None:
        third = Project("3", 100)
        inside: list[Process] = []

        class Meanwhile(counting()):  # type: ignore[misc]
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                if self.loaded.name == "v1" and self.project_id == "1":
                    inside[0].predict(third)
                return super().predict(tasks)

        process = Process(Meanwhile, store, max_models=3)
        inside.append(process)
        for project in (TWO, ONE, third):
            process.predict(project)
        store.promote("v1", ONE)
        process.follower.follow()
        Meanwhile.calls.clear()

        process.predict(TWO)

        assert Meanwhile.calls == ["predict a with base"]


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Version]]:
    """A model store with ten versions."""
    store = Store(MemoryState(), tmp_path_factory.mktemp("models"))
    return store.directory, [store.version(f"v{number}") for number in range(10)]


class TestThreads:
    @pytest.mark.parametrize("threads", [1, 4])
    @pytest.mark.parametrize("is_safe", [False, True])
    def test_no_request_that_races_a_swap_fails_or_is_mixed(
        self, ten: tuple[Path, list[Version]], threads: int, *, is_safe: bool
    ) -> None:
        store = Store(MemoryState(), ten[0])

        class Model(Named):
            thread_safe = is_safe

        process = Process(Model, store, max_objects=threads)
        process.predict()
        before: Version | None = None
        seen: list[tuple[str, str]] = []
        stopping = threading.Event()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                while not stopping.is_set():
                    seen.append(process.predict())
                    time.sleep(0.0002)  # or the swapping thread starves
            except BaseException as error:  # noqa: BLE001 - shown below
                failures.append(error)

        workers = [threading.Thread(target=work) for _ in range(max(2, threads))]
        for worker in workers:
            worker.start()
        for version in ten[1] * 5:
            store.state.change(lambda c, v=version: promote(c, ONE, v))  # type: ignore[misc]
            process.follower.follow()
            if before is not None:  # nothing needs one that does not serve
                store.versions.delete(ONE, before.version)
            before = version
        time.sleep(0.02)
        stopping.set()
        for worker in workers:
            worker.join()

        assert failures == []
        assert [pair for pair in seen if pair[0] != pair[1]] == []
        assert seen[-1] == ("v9", "v9")
        assert len({pair[0] for pair in seen}) > 5
        assert len(process.pool._entries) == 1

    def test_a_request_with_a_key_from_before_a_swap_gets_the_new_version(
        self, store: Store
    ) -> None:
        process = Process(Named, store)
        process.predict()
        key = process.key()
        store.promote("v1")
        process.follower.follow()

        with process.pool.use(key) as (model, version):
            assert vars(model)["loaded"].name == version == "v1"
        assert process.pool.ensure(key) == "v1"
        assert process.pool.is_made(key)
        assert len(process.pool._entries) == 1

    def test_all_threads_swap_with_objects_of_their_own(self, store: Store) -> None:
        barrier = threading.Barrier(3, timeout=10)

        class Together(Named):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                if tasks[0]["data"]["text"] == "together":
                    barrier.wait()
                return super().predict(tasks)

        process = Process(Together, store, max_objects=3)
        process.predict()
        seen: list[tuple[str, str]] = []

        def ask() -> None:
            seen.append(process.predict(text="together"))

        for name in ("base", "v1"):
            if name != "base":
                process.predict()
                store.promote(name)
                process.follower.follow()
            workers = [threading.Thread(target=ask) for _ in range(3)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        assert seen == [("base", "base")] * 3 + [("v1", "v1")] * 3


class TestWhatAModelSees:
    def test_predict_and_setup_of_a_version_see_its_name(self, store: Store) -> None:
        seen: list[tuple[str, object, object]] = []

        class Looking(Named):
            def setup(self) -> None:
                super().setup()
                seen.append(("setup", self.get("model_version"), self.model_version))

            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                seen.append(("predict", self.get("model_version"), self.model_version))
                return super().predict(tasks)

        process = Process(Looking, store)
        process.predict()
        store.promote("v1")
        seen.clear()
        process.follower.follow()
        process.predict()

        assert seen == [
            ("setup", "v1", "v1"),
            ("predict", "v1", "v1"),
            ("predict", "v1", "v1"),
        ]

    def test_setup_names_the_base_only(self, process: Process, store: Store) -> None:
        process.predict()
        store.promote("v1")
        process.follower.follow()  # setup() has said "base" again
        process.predict(config=OTHER_CONFIG)  # and again

        assert store.state.read(ONE)["model_version"] == "base"
        assert process.setup() == "v1"
        assert process.predict() == ("v1", "v1")

    def test_predict_cannot_rename_a_version(self, store: Store) -> None:
        class Renaming(Named):
            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                self.set("model_version", "mine")
                return super().predict(tasks)

        process = Process(Renaming, store)
        store.promote("v1")

        assert process.predict() == ("v1", "v1")
        assert process.setup() == "v1"

    def test_values_of_a_fit_come_with_its_version(self, store: Store) -> None:
        class Threshold(LabelStudioMLBase):
            def setup(self) -> None:
                self.set("model_version", "base")

            def load(self, weights: Path | None) -> None:
                self.threshold = self.get("threshold")

            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                return [{"result": [choice(str(self.threshold))]}]

        process = Process(Threshold, store)
        assert process.predict() == ("None", "base")
        for number in (1, 2):
            store.promote_without_weights(f"v{number}", values={"threshold": number})
            process.follower.follow()
            assert process.predict() == (str(number), f"v{number}")
        store.versions.activate(ONE, "base")
        process.follower.follow()
        assert process.predict() == ("None", "base")


class TestWhatLoadSet:
    def test_objects_of_one_version_share_it(self, store: Store) -> None:
        model = counting()
        process = Process(model, store)
        process.predict(config=CONFIG)
        process.predict(config=OTHER_CONFIG)
        store.promote("v1")
        model.calls.clear()
        process.follower.follow()

        assert [c for c in model.calls if "load" in c] == ["load v1"]

    def test_those_of_different_versions_do_not(
        self, process: Process, store: Store
    ) -> None:
        process.predict()
        key = process.key()
        with process.pool.use(key) as (old, _):
            store.promote("v1")
            process.follower.follow()
            new_key = process.key()
            with process.pool.use(new_key) as (new, _):
                assert vars(new)["loaded"] is not vars(old)["loaded"]
                assert vars(old)["loaded"].name == "base"

    def test_those_of_one_version_name_in_two_projects_do_not(
        self, process: Process, store: Store
    ) -> None:
        store.promote("v1", ONE, holds="of one")
        store.promote("v1", TWO, holds="of two")

        assert process.predict(ONE) == ("of one", "v1")
        assert process.predict(TWO) == ("of two", "v1")


class TestANewLabelConfig:
    def test_the_weights_that_serve_are_tried_with_it(
        self, process: Process, store: Store
    ) -> None:
        store.promote("v1", label_config=CONFIG)
        process.predict()

        assert process.predict(config=OTHER_CONFIG) == ("v1", "v1")
        assert process.setup(config=OTHER_CONFIG) == "v1"

    @pytest.mark.parametrize("method", ["load", "predict"])
    def test_where_they_fail_the_base_serves_until_the_next_fit(
        self, store: Store, method: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fits(self: Any) -> bool:
            old = self.label_config == CONFIG
            return old or self.loaded.name in ("base", "v2")

        class Choosy(Named):
            share_loaded = False

            def load(self, weights: Path | None) -> None:
                super().load(weights)
                if method == "load" and not fits(self):
                    raise KeyError("Neutral")

            def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any:
                if method == "predict" and not fits(self):
                    raise KeyError("Neutral")
                return super().predict(tasks)

        process = Process(Choosy, store)
        annotate(store)
        store.promote("v1", label_config=CONFIG)
        assert process.predict() == ("v1", "v1")

        assert process.predict(config=OTHER_CONFIG) == ("base", "base")
        assert process.setup(config=OTHER_CONFIG) == "base"
        for _ in range(3):
            process.follower.follow()
            assert process.predict(config=OTHER_CONFIG) == ("base", "base")
        lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(lines) == 1
        assert "the base serves until the next fit" in caplog.text

        store.promote("v2", label_config=OTHER_CONFIG)
        process.follower.follow()
        assert process.predict(config=OTHER_CONFIG) == ("v2", "v2")
        assert process.setup(config=OTHER_CONFIG) == "v2"

    def test_objects_of_the_old_one_block_no_version(self, store: Store) -> None:
        class New(Named):
            share_loaded = False

            def load(self, weights: Path | None) -> None:
                super().load(weights)
                if self.loaded.name == "v2" and self.label_config == CONFIG:
                    raise KeyError("no such label any more")

        process = Process(New, store)
        store.promote("v1", label_config=CONFIG)
        process.predict(config=CONFIG)
        process.predict(config=OTHER_CONFIG)
        store.promote("v2", label_config=OTHER_CONFIG)

        process.follower.follow()

        assert process.predict(config=OTHER_CONFIG) == ("v2", "v2")


def annotate(store: Store, project: Project = ONE) -> None:
    """A stored annotation, whose task is a sample."""
    task = {"id": 7, "data": {"text": "x"}, "annotations": [{"id": 1, "result": []}]}
    store.state.change(lambda change: observe(change, project, [task]))


class TestAfterARestart:
    @pytest.mark.parametrize("what", ["gone", "cut", "other", "no store"])
    def test_without_its_weights_the_base_serves_and_the_log_says_so(
        self, store: Store, what: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        job = store.job()
        version = store.promote("v1", job=job)
        spoil(store, str(version.tag), what)
        process = Process(Named, Store(store.state, store.directory))
        if what == "no store":
            process.pool._factory._weights = None

        assert process.setup() == "base"
        assert process.predict() == ("base", "base")
        assert "Version not served: project=1.100 version=v1: " in caplog.text
        assert process.active == {ONE: None}

        process.follower.follow()
        assert process.predict() == ("base", "base")
        assert "still serves the base: " in str(store.error_of(job))

    def test_it_serves_when_they_are_back(
        self, store: Store, patience: Callable[[float], None]
    ) -> None:
        patience(0.05)
        version = store.promote("v1")
        path = store.weights.find(str(version.tag), version.manifest)
        away = store.directory / "away"
        shutil.copytree(path.parent, away)
        store.weights.delete(str(version.tag))
        process = Process(Named, Store(store.state, store.directory))
        assert process.predict() == ("base", "base")
        process.follower.follow()
        key = process.key()

        shutil.move(away, path.parent)
        time.sleep(0.06)
        with process.pool.use(key):  # a base in use when they come
            process.follower.follow()

        assert process.predict() == ("v1", "v1")
        assert process.setup() == "v1"
        assert process.active == {ONE: "v1"}

    def test_an_older_version_than_the_one_before_is_not_guessed(
        self, store: Store
    ) -> None:
        store.promote("v1")
        version = store.promote("v2")
        store.weights.delete(str(version.tag))

        assert Process(Named, store).predict() == ("base", "base")
        assert store.versions.pointer(ONE).version == "v2"


def spoil(store: Store, tag: str, what: str) -> None:
    path = store.directory.joinpath(*tag.split(":")) / "weights" / "name"
    if what == "gone":
        store.weights.delete(tag)
    elif what == "cut":
        path.write_text("v")
    elif what == "other":
        path.write_text("xx")
