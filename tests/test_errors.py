"""The tree of errors is as ``errors.py`` draws it."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import lsml_bento
from lsml_bento import errors
from lsml_bento.errors import LsmlError, WrongCount

BRANCH = re.compile(r"^ {4}(?P<indent>[ |]*)(?:\+-- )?(?P<name>\w+) +(?P<status>\d{3})")


def drawn() -> dict[str, tuple[str, int]]:
    """Parent and status of each class, as the docstring draws them."""
    assert errors.__doc__ is not None
    tree: dict[str, tuple[str, int]] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
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
    *("lsml_bento.cli", "lsml_bento.scaffold.create", "lsml_bento.scaffold.wheel"),
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
