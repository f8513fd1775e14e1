"""The errors, their HTTP statuses and how they derive from each other."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import lsml_bento
from lsml_bento.errors import LsmlError, WrongCount

TREE = """
LsmlError                   500
+-- BadRequest              422  an invalid request
|   +-- MalformedBody       400  invalid JSON
|   +-- UnsupportedMedia    415  not sent as JSON
|   +-- BodyTooLarge        413
|   +-- LabelConfigError    422  an invalid label config
+-- QueueFull               503  too many tasks are waiting
+-- ShuttingDown            503
+-- NotReady                503  no model version is known yet
+-- DeadlineExceeded        504  no task was predicted in time
+-- ModelError              500  the user's class failed
|   +-- ModelImportError    500  ... to import
|   +-- ModelSetupError     500  ... in setup() or load()
|   +-- OutOfMemory         500  the device's memory does not hold the batch
|   +-- DeviceLost          500  the GPU failed for as long as the process lives
|   +-- WrongCount          500  ... to return one slot per task
|   +-- PredictionError     500  ... to return something that can be rendered
+-- StateError              503  the state did not answer in time
|   +-- NameTaken           503  another class serves under the backend's name
|   +-- StateTaken          503  the state belongs to another backend
+-- QueueError              503  the queue of fits did not answer
+-- NotFound                404  what was named does not exist
|   +-- JobNotFound         404
|   +-- VersionNotFound     404
+-- VersionInUse            409  the serving version cannot be deleted
+-- StillRunning            409  a job of the project does not stop
+-- NotTraining             500  called outside of a job's fit
+-- LeaseLost               500  the worker does not hold the job's lease any more
+-- WeightsError            500  weights are damaged, or cannot be read or written
+-- TrainingError           500  a fit or the check of its version failed
+-- MediaError              500  a task's file cannot be read
+-- SettingsError           500  an invalid environment variable
"""

BRANCH = re.compile(r"^(?P<indent>[ |]*)(?:\+-- )?(?P<name>\w+) +(?P<status>\d{3})")


def drawn() -> dict[str, tuple[str, int]]:
    """Parent and status of each class, as ``TREE`` draws them."""
    tree: dict[str, tuple[str, int]] = {}
    path: list[str] = []
    for line in TREE.splitlines():
        found = BRANCH.match(line)
        if found is None:
            continue
        depth = len(found["indent"]) // 4 + ("+--" in line)
        path[depth:] = [found["name"]]
        parent = path[depth - 1] if depth else "Exception"
        tree[found["name"]] = parent, int(found["status"])
    return tree


def subclasses(root: type[LsmlError]) -> list[type[LsmlError]]:
    return [root, *(leaf for c in root.__subclasses__() for leaf in subclasses(c))]


COMMANDS = (
    *("lsml_bento.cli", "lsml_bento.scaffold.source", "lsml_bento.scaffold.wheel"),
    *("lsml_bento.preannotation.selection", "lsml_bento.preannotation.run"),
    "lsml_bento.processes.opening",
    *("lsml_bento.preannotation.durable_files", "lsml_bento.preannotation.task_file"),
)
"""Errors of these end a command; no client of a server ever gets one."""

NOT_IMPORTED = (
    "lsml_bento.template",
    "lsml_bento.processes.bentoml_target",
    "lsml_bento.adapters.bentoml_service.image",
)
"""Files to copy, a module that serves the current directory, and one that has BentoML
load all that it builds with, which warns."""


def served_errors() -> list[type[LsmlError]]:
    """Every error that a client can get, wherever it is defined."""
    for module in pkgutil.walk_packages(lsml_bento.__path__, "lsml_bento."):
        if not module.name.startswith((*COMMANDS, *NOT_IMPORTED)):
            importlib.import_module(module.name)
    return [
        error
        for error in subclasses(LsmlError)
        if error.__module__.startswith("lsml_bento.")
        and not error.__module__.startswith(COMMANDS)
    ]


@pytest.mark.filterwarnings("ignore:bentoml.metrics:DeprecationWarning")
def test_the_drawn_tree_contains_every_error_with_parent_and_status() -> None:
    found = {c.__name__: (c.__bases__[0].__name__, c.status) for c in served_errors()}

    assert found == drawn()


@pytest.mark.filterwarnings("ignore:bentoml.metrics:DeprecationWarning")
def test_every_error_is_in_errors_and_documented() -> None:
    for error in served_errors():
        assert error.__module__ == "lsml_bento.errors", error
        assert error.__doc__


def test_temporary_errors_have_a_retry_after() -> None:
    waits = {c.__name__: c.retry_after_s for c in subclasses(LsmlError)}

    assert {name for name, wait in waits.items() if wait} == {
        "QueueFull",
        "ShuttingDown",
        "NotReady",
        "StateError",
    }


def test_a_wrong_count_says_what_to_do() -> None:
    assert str(WrongCount(4, 3)) == (
        "predict() got 4 tasks and returned 3 predictions: return one per task, in "
        "order, [] for none"
    )
