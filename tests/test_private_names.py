"""The private names of libraries that the code uses, all of them.

An upgrade that changes one fails here first, and the name says where it is used.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import lsml_bento

# BentoML warns of its own use of pkg_resources and others when its parts are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PACKAGE = Path(lsml_bento.__file__).parent
TOOLS = "label_studio_sdk._extensions.label_studio_tools.core"
IMPORTED = {
    # adapters/bentoml_service: the image of a bento
    "bentoml._internal.bento.bento": ["ImageInfo"],
    "bentoml._internal.bento.build_config": ["BentoEnvSchema"],
    # adapters/bentoml_service: options of create_service
    "_bentoml_sdk.service.config": ["ServiceConfig", "validate"],
    # adapters/bentoml_service: the supervisor replaces dead processes
    "bentoml._internal.utils": ["circus"],
    # adapters/bentoml_models: the store's format
    "bentoml._internal.models": ["ModelContext", "ModelStore"],
    "bentoml._internal.models.model": ["ModelInfo"],
    "bentoml._internal.tag": ["Tag"],
    # model/label_config, adapters/label_studio_ml
    f"{TOOLS}.label_config": ["parse_config"],
    f"{TOOLS}.utils": ["io"],
    f"{TOOLS}.utils.params": ["get_env"],
}
"""Names that are imported from a private module."""

MEMBERS = {
    "bentoml._internal.utils.circus:Arbiter": ["iter_watchers", "manage_watchers"],
    "bentoml.images:Image": ["freeze", "build_include", "python_packages"],
    "bentoml:Service": ["add_asgi_middleware", "mount_asgi_app", "openapi_spec"],
    f"{TOOLS}.utils:io": [
        *("VERIFY_SSL", "get_local_path", "http_session", "local_files_resolver")
    ],
    "huey.consumer:Consumer": ["_set_signal_handlers"],
    "huey.storage:SqliteStorage": ["initialize_schema", "close"],
}
"""Members that no documentation promises."""

ARGUMENTS = {
    "bentoml.images:Image.freeze": ["bento_fs", "envs", "platform_"],
    "huey.storage:SqliteStorage.__init__": ["strict_fifo", "create_tables"],
    "huey.storage:PriorityRedisStorage.__init__": ["connection_pool", "read_timeout"],
    "huey.consumer:Consumer.__init__": [
        *("workers", "periodic", "max_delay", "backoff", "shutdown_timeout")
    ],
}

ASSIGNED = {
    "circus.arbiter:Arbiter": ["_restarting", "_exclusive_running_command"],
    "huey.storage:RedisStorage": ["pool"],
}
"""Attributes that their methods set."""


def private_imports() -> Iterator[tuple[str, str]]:
    """What the package imports from private modules of these libraries."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            root, *parts = node.module.split(".")
            library = root.removeprefix("_bentoml").removeprefix("bentoml")
            is_private = root.startswith("_bentoml") or any(p[0] == "_" for p in parts)
            if is_private and library in {"", "_sdk", "_impl", "label_studio_sdk"}:
                yield from ((node.module, alias.name) for alias in node.names)


def found(place: str) -> object:
    """What ``module:name.name`` names."""
    module, _, names = place.partition(":")
    value: object = importlib.import_module(module)
    for name in names.split("."):
        value = getattr(value, name)
    return value


def test_every_private_import_is_listed() -> None:
    listed = {(module, name) for module, names in IMPORTED.items() for name in names}

    assert set(private_imports()) == listed


@pytest.mark.parametrize("module", IMPORTED)
def test_the_libraries_have_the_private_names(module: str) -> None:
    imported = importlib.import_module(module)
    for name in IMPORTED[module]:
        if not hasattr(imported, name):
            importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("place", MEMBERS)
def test_the_libraries_have_the_members(place: str) -> None:
    missing = [name for name in MEMBERS[place] if not hasattr(found(place), name)]

    assert missing == []


@pytest.mark.parametrize("place", ARGUMENTS)
def test_the_libraries_take_the_arguments(place: str) -> None:
    taken = inspect.signature(found(place)).parameters  # type: ignore[arg-type]

    assert {*ARGUMENTS[place]} <= {*taken}


@pytest.mark.parametrize("place", ASSIGNED)
def test_the_libraries_set_the_attributes(place: str) -> None:
    source = inspect.getsource(found(place))  # type: ignore[arg-type]

    assert [name for name in ASSIGNED[place] if f"self.{name} = " not in source] == []
