"""Where a backend lives: its name, its directory for state, and the state itself.

Apart from ``wiring``, since commands that only look need nothing else of it.
"""

from __future__ import annotations

import os
from pathlib import Path

from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.backend_dir import bento_of
from lsml_bento.backend_spec import BackendSpec, service_name
from lsml_bento.settings import Settings
from lsml_bento.state.store import State


def default_home(directory: Path, name: str) -> Path:
    """``.lsml`` in a backend's directory, else ``~/.lsml/NAME``.

    A directory inside a bento is no place for state: it is read-only in an image.
    """
    if bento_of(directory) is None and os.access(directory, os.W_OK):
        return directory / ".lsml"
    return Path.home() / ".lsml" / name


def settle(name: str, target: str, directory: Path, settings: Settings) -> BackendSpec:
    """What every process of a backend calls it, and where its state is.

    Args:
        name: the service's, or its class's.
        target: the class, ``"module:Class"``.
        directory: where the class's module is.
        settings: what the environment decides.

    Raises:
        ValueError: if the name is not one that BentoML takes.
    """
    name = service_name(name)
    home = settings.home or default_home(directory, name)
    return BackendSpec(target, str(directory), name, str(home.absolute()))


def open_state(settings: Settings, home: Path, name: str) -> State:
    """The state that all processes of a backend share.

    Raises:
        StateError: if ``home`` can not be used or belongs to another backend, or Redis
            does not answer.
    """
    # The home is one backend's on Redis too: locks and the inbox are in it.
    state = SqliteState(home / "state.db", owner=name)
    if settings.redis_url is None:
        return state
    state.close()
    from lsml_bento.adapters.redis_state import RedisState  # noqa: PLC0415 - 100 ms

    return RedisState(settings.redis_url.get_secret_value(), owner=name)
