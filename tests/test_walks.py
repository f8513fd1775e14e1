"""How many modules one call enters, from its first line of ours to its answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from lsml_bento.testing import client_for
from tests.doubles import Echo, texts

PACKAGE = Path(__file__).parents[1] / "lsml_bento"


class Entered(NamedTuple):
    """A function of the package that was called."""

    module: str
    function: str
    thread: int


class Walk:
    """The functions called while ``watching``, by threads started while ``spied``."""

    def __init__(self) -> None:
        self.entered: list[Entered] = []
        self._is_on = False

    @property
    def modules(self) -> list[str]:
        """In the order in which they were entered first."""
        return list(dict.fromkeys(entry.module for entry in self.entered))

    @contextmanager
    def spied(self) -> Iterator[None]:
        threading.setprofile(self._note)
        try:
            yield
        finally:
            threading.setprofile(None)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if not self._is_on or event != "call" or not file.startswith(f"{PACKAGE}/"):
            return
        parts = Path(file).relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        # The client of this test and its imports come before the first line of ours.
        if self.entered or name == "adapters.edge":
            function, thread = frame.f_code.co_name, threading.get_ident()
            self.entered.append(Entered(name, function, thread))


def test_a_warm_prediction_enters_at_most_twelve_modules() -> None:
    walk = Walk()
    body = texts("a")
    with walk.spied():
        client = client_for(Echo, environ={})
    with client:
        assert client.post("/predict", json=body).status_code == 200
        with walk.watching():
            answer = client.post("/predict", json=body)

    assert answer.json()["results"][0]["model_version"] == "echo-1"
    assert set(walk.modules) == {
        "adapters.edge",
        "adapters.label_studio_http",
        "contract",
        "backend.predict",
        "prediction.batcher",
        "prediction.call_threads",
        "prediction.predictor",
        "state.store",
        "adapters.sqlite_state",
        "prediction.model_pool",
        "model.invoke",
    }
    assert len(walk.modules) <= 12
    crossings = [
        entry.function
        for entry in walk.entered
        if entry.module == "prediction.call_threads"
        and entry.function in ("run", "answer_from_thread")
    ]
    assert crossings == ["run", "answer_from_thread"]
    assert len({entry.thread for entry in walk.entered}) == 2
