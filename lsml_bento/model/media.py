"""Access to the files that task data refers to."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lsml_bento.errors import MediaError
from lsml_bento.settings import Settings

_FILE_PREFIXES = (
    "http://",
    "https://",
    "s3://",
    "gs://",
    "azure-blob://",
    "/data/",
    "upload/",
    "/upload/",
)


class Media(Protocol):
    """Opens files; implemented by ``adapters.label_studio_media``."""

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        """The path of a readable local copy.

        Args:
            url: from task data: ``/data/upload/...``, ``s3://...``, ``https://...``.
            task_id: Label Studio signs links to cloud storage per task.
            options: ``project_dir``, ``ls_host``, ``ls_access_token`` and others that
                HumanSignal's ``get_local_path`` accepts.

        Raises:
            MediaError: if the file cannot be read, or reading it is not allowed.
        """

    def access_token(self) -> str | None:
        """The API key of Label Studio, if one is set."""


class NoMedia:
    """Reads no files: for a class that is used without a server and its settings."""

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        raise MediaError(
            f"{url[:200]!r} cannot be read without a server and its settings: use "
            "lsml_bento.testing.client_for, or start a server"
        )

    def access_token(self) -> str | None:
        return None


class EnvironmentMedia:
    """Files and API key as the environment's settings say, without a server.

    For an object that a test or a script creates. Downloads are kept in ``LSML_HOME``,
    by default in a directory of ``~/.lsml``.
    """

    def __init__(self) -> None:
        self._opened: tuple[Settings, Media] | None = None

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        settings = Settings.from_env(os.environ)
        if self._opened is None or self._opened[0] != settings:
            # By its name, since that module knows every adapter and imports this one.
            wiring = import_module("lsml_bento.processes.wiring")
            home = settings.home or Path.home() / ".lsml" / ".without-server"
            self._opened = settings, wiring.open_media(settings, home)
        return self._opened[1].local_path(url, task_id=task_id, **options)

    def access_token(self) -> str | None:
        key = Settings.from_env(os.environ).label_studio_api_key
        return None if key is None else key.get_secret_value()


def names_a_file(value: str) -> bool:
    """Whether a text in task data is the URL or path of a file."""
    return value.startswith(_FILE_PREFIXES)
