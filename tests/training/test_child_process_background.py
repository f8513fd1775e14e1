"""What ``fit`` left running: the job waits for it, and says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lsml_bento.errors import TrainingError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.state.memory import MemoryState
from lsml_bento.training.child_process import Background
from tests.fits import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, MemoryState())


class Model(LabelStudioMLBase):
    """Does in fit what a test asks for."""

    does: ClassVar[Callable[[Any], object]]

    def setup(self) -> None:
        self.set("model_version", "base")

    def fit(self, event: str, data: Any, **kwargs: Any) -> Any:
        type(self).does(self)


def model(does: Callable[[Any], object]) -> type[Model]:
    return type("Model", (Model,), {"does": staticmethod(does)})


def test_the_version_has_what_a_thread_set_after_fit_returned(home: Home) -> None:
    def train(model: Any) -> None:
        time.sleep(0.2)
        model.set("words", ["a"])

    def start(model: Any) -> None:
        threading.Thread(target=train, args=(model,), name="train").start()

    home.train(model(start))

    assert home.active.values == {"words": ["a"]}
    note = "fit left thread 'train' running, and the job waited for it"
    assert home.reports == [{"note": note}]


def test_an_idle_executor_is_not_waited_for(home: Home) -> None:
    with ThreadPoolExecutor(2) as executor:
        home.train(model(lambda _: executor.submit(int).result()))

        assert home.reports == []


def test_a_busy_executor_is_waited_for(home: Home) -> None:
    with ThreadPoolExecutor(2, thread_name_prefix="pool") as executor:
        home.train(model(lambda _: executor.submit(time.sleep, 0.2)))

    [report] = home.reports
    assert report["note"].startswith("fit left thread 'pool_0' running")


def test_a_job_that_is_stopped_meanwhile_names_what_was_left(home: Home) -> None:
    may_end = threading.Event()

    def start(_: object) -> None:
        threading.Thread(target=may_end.wait, name="endless").start()
        home.context.should_stop = True

    with pytest.raises(TrainingError, match="stopped while it waited for thread 'endl"):
        home.train(model(start))
    may_end.set()

    last = home.reports[-1]["note"]
    assert last.endswith("; thread 'endless' was still running and was killed")


def test_a_daemon_thread_of_the_directory_is_named_and_not_waited_for() -> None:
    may_end = threading.Event()

    def train() -> None:
        may_end.wait()

    background = Background()
    threading.Thread(target=train, name="train", daemon=True).start()

    assert background.running() == []
    assert background.daemons_of(Path(__file__).parent) == ["daemon thread 'train'"]
    assert background.daemons_of(Path(__file__).parent / "other") == []
    may_end.set()
