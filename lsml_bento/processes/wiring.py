"""What the processes of a backend are put together from: model store, queue, log.

The state is in ``home``, what reads Label Studio in ``label_studio``: a worker needs
neither label configs nor media, whose libraries take a second to import.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from lsml_bento.adapters.bentoml_models import BentoModels, default_store
from lsml_bento.adapters.model_repository import ModelRepository
from lsml_bento.backend_spec import BackendSpec
from lsml_bento.jobs.secret import secret_of
from lsml_bento.settings import Settings
from lsml_bento.versions.weights import Weights

if TYPE_CHECKING:
    from lsml_bento.adapters.huey_queue import HueyQueue


def open_weights(settings: Settings) -> Weights:
    """The model store of a backend's versions, the same in all of its processes.

    Raises:
        WeightsError: if ``LSML_MODEL_REPO`` names nothing that can be opened.
    """
    store = settings.model_store or default_store(os.environ)
    repository = None
    if settings.model_repo is not None:
        repository = ModelRepository(settings.model_repo)
    return BentoModels(store, repository)


def open_queue(settings: Settings, spec: BackendSpec) -> HueyQueue:
    """The queue that wakes workers.

    Raises:
        SettingsError: if the secret can be neither read nor made.
        QueueError: if ``REDIS_URL`` is no address.
    """
    # With redis, which it brings, 200 ms that a server need not spend at its start.
    from lsml_bento.adapters.huey_queue import HueyQueue  # noqa: PLC0415

    secret = secret_of(settings.secret_key, spec.home_path)
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        return HueyQueue(name=spec.name, secret=secret, redis_url=url)
    return HueyQueue(name=spec.name, secret=secret, path=spec.home_path / "huey.db")


def log_to_stderr(level: str) -> None:
    """Send this process's log to where people look for it."""
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    # BentoML writes the access log; uvicorn would write a second one.
    logging.getLogger("uvicorn.access").propagate = False
