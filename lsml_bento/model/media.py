"""Access to the files that task data refers to."""

from __future__ import annotations

from typing import Any, Protocol

from lsml_bento.errors import MediaError

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


def names_a_file(value: str) -> bool:
    """Whether a text in task data is the URL or path of a file."""
    return value.startswith(_FILE_PREFIXES)
