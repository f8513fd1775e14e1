"""What the processes of a backend are put together from.

A command that only looks at the state must start fast, so libraries that take long to
import are imported by the function that needs them.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lsml_bento.adapters.sqlite_state import SqliteState
from lsml_bento.backend_dir import bento_of
from lsml_bento.backend_spec import BackendSpec, service_name
from lsml_bento.errors import StateError, StateTaken
from lsml_bento.log_format import configure_log
from lsml_bento.settings import Settings
from lsml_bento.state.store import State

if TYPE_CHECKING:
    from pydantic import SecretStr

    from lsml_bento.adapters.huey_queue import HueyQueue
    from lsml_bento.adapters.label_studio_api import LabelStudioTasks
    from lsml_bento.adapters.label_studio_media import LabelStudioMedia
    from lsml_bento.versions.weights import Weights


log = logging.getLogger(__name__)


def default_home(directory: Path, name: str) -> Path:
    """``.lsml`` in a backend's directory, else ``~/.lsml/NAME``.

    A directory inside a bento cannot hold state: it is read-only in an image.
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
        ValueError: if BentoML does not accept the name.
    """
    name = service_name(name)
    home = settings.home or default_home(directory, name)
    return BackendSpec(target, str(directory), name, str(home.absolute()))


def claim_home(home: Path, name: str) -> None:
    """Make ``home`` the backend's, unless its state cannot be used yet.

    Raises:
        StateTaken: if it belongs to another backend.
    """
    try:
        SqliteState(home / "state.db", owner=name).close()
    except StateTaken:
        raise
    except StateError as error:
        log.debug("State not claimed: %s", error)


def open_state(settings: Settings, home: Path, name: str) -> State:
    """The state that all processes of a backend share.

    Raises:
        StateError: if ``home`` cannot be used or belongs to another backend, or Redis
            does not answer.
    """
    # A home belongs to one backend on Redis too: it holds the locks and the inbox.
    state = SqliteState(home / "state.db", owner=name)
    if settings.redis_url is None:
        return state
    state.close()
    from lsml_bento.adapters.redis_state import RedisState  # noqa: PLC0415 - 100 ms

    return RedisState(settings.redis_url.get_secret_value(), owner=name)


def open_weights(settings: Settings) -> Weights:
    """The model store of a backend's versions, the same in all of its processes.

    Raises:
        WeightsError: if ``LSML_MODEL_REPO`` cannot be opened.
    """
    from lsml_bento.adapters.bentoml_models import (  # noqa: PLC0415 - 1 s
        BentoModels,
        default_store,
    )

    store = settings.model_store or default_store(os.environ)
    repository = None
    if settings.model_repo is not None:
        from lsml_bento.adapters.model_repository import (  # noqa: PLC0415 - 50 ms
            ModelRepository,
        )

        repository = ModelRepository(settings.model_repo)
    return BentoModels(store, repository)


def open_queue(settings: Settings, spec: BackendSpec) -> HueyQueue:
    """The queue of fits.

    Raises:
        QueueError: if ``REDIS_URL`` is not a valid address.
    """
    # With redis, 200 ms that the start of a server must not cost.
    from lsml_bento.adapters.huey_queue import HueyQueue  # noqa: PLC0415

    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        return HueyQueue(name=spec.name, redis_url=url)
    return HueyQueue(name=spec.name, path=spec.home_path / "huey.db")


def open_media(settings: Settings, home: Path) -> LabelStudioMedia:
    """The files that task data names."""
    from lsml_bento.adapters.label_studio_media import (  # noqa: PLC0415 - 1 s
        LabelStudioMedia,
    )

    return LabelStudioMedia(
        settings.label_studio_url,
        settings.label_studio_api_key,
        settings.local_files_root,
        home / "media",
        late_access=partial(label_studio_access, settings),
    )


def label_studio_access(settings: Settings) -> tuple[str | None, SecretStr | None]:
    """Label Studio's URL and API key, as far as they are set.

    The user's module may set variables when it is imported, after ``settings`` were
    read. They count where ``settings`` have no value.
    """
    late = Settings.from_env(os.environ)
    return (
        settings.label_studio_url or late.label_studio_url,
        settings.label_studio_api_key or late.label_studio_api_key,
    )


def open_tasks(settings: Settings) -> LabelStudioTasks | None:
    """Label Studio's API; None where no credentials are set."""
    url, key = label_studio_access(settings)
    if url is None or key is None:
        return None
    from lsml_bento.adapters.label_studio_api import (  # noqa: PLC0415 - 1 s
        LabelStudioTasks,
    )

    return LabelStudioTasks(url, key)


def log_to_stderr(settings: Settings) -> None:
    """Send this process's log to the standard error."""
    configure_log(settings.log_level, settings.log_format)
    # BentoML writes the access log; uvicorn would write a second one.
    logging.getLogger("uvicorn.access").propagate = False
