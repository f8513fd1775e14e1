"""What the processes of a backend are put together from."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from lsml_bento.adapters.bentoml_models import BentoModels, default_store
from lsml_bento.adapters.huey_queue import HueyQueue
from lsml_bento.adapters.label_studio_api import LabelStudioMedia
from lsml_bento.adapters.label_studio_tasks import LabelStudioTasks
from lsml_bento.adapters.model_repository import ModelRepository
from lsml_bento.secret import secret_of
from lsml_bento.settings import Settings
from lsml_bento.spec import BackendSpec
from lsml_bento.weights import Weights


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


def open_media(settings: Settings, home: Path) -> LabelStudioMedia:
    """The files that task data names."""
    return LabelStudioMedia(
        settings.label_studio_url,
        settings.label_studio_api_key,
        settings.local_files_root,
        home / "media",
    )


def open_tasks(settings: Settings) -> LabelStudioTasks | None:
    """Label Studio's API; None where no credentials are set."""
    if settings.label_studio_url is None or settings.label_studio_api_key is None:
        return None
    return LabelStudioTasks(settings.label_studio_url, settings.label_studio_api_key)


def open_queue(settings: Settings, spec: BackendSpec) -> HueyQueue:
    """The queue that wakes workers.

    Raises:
        SettingsError: if the secret can be neither read nor made.
        QueueError: if ``REDIS_URL`` is no address.
    """
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
