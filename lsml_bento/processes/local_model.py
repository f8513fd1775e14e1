"""The model of a directory, made and called in this process as a server would do it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from lsml_bento.adapters import label_studio_ml
from lsml_bento.backend_dir import find_target, service_target, with_class
from lsml_bento.contract import Context, Project, Task
from lsml_bento.diagnostics.check import Predict
from lsml_bento.model.invoke import Slot
from lsml_bento.model.loader import ModelClass, ModelSource
from lsml_bento.prediction.failures import for_client
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.predictor import Group, Predictor
from lsml_bento.processes.opening import load_env_file
from lsml_bento.processes.wiring import open_media
from lsml_bento.settings import Settings
from lsml_bento.state.memory import MemoryState

_Answer = TypeVar("_Answer")

_PROJECT = Project("0", 0)


def load_predict(directory: Path, label_config: str) -> tuple[ModelClass, str, Predict]:
    """The model's class, its version and its ``predict``.

    As in a server, the directory becomes the current one, and its ``.env`` is read.
    State is kept in memory.

    Raises:
        LsmlError: naming file and line, if the class cannot be imported or set up.
        SettingsError: if a variable of the environment is not valid.
    """
    label_studio_ml.install()
    os.chdir(directory)
    load_env_file(directory)
    target = service_target(directory) or with_class(find_target(directory), directory)
    source = ModelSource(target, directory)
    state = MemoryState()
    settings = Settings.from_env(os.environ)
    media = open_media(settings, settings.home or directory / ".lsml")
    predictor = Predictor(ModelPool(source, state, media), state)
    model_class = _in_thread(source.load)
    version = _in_thread(predictor.prepare, _PROJECT, label_config)

    def predict(tasks: list[Task], context: Context | None) -> list[Slot | Exception]:
        group = Group.for_request(_PROJECT, label_config, {}, context)
        try:
            return _in_thread(predictor.predict, group, tasks)
        except Exception as error:
            raise for_client(error) from error

    return model_class, version, predict


def _in_thread(function: Callable[..., _Answer], *arguments: object) -> _Answer:
    """Call a function outside of the main thread, where servers call user code."""
    future: Future[_Answer] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            future.set_exception(error)

    threading.Thread(target=run, name="predict", daemon=True).start()
    return future.result()
