"""The files that task data names, as paths on this machine."""

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
    """Finds or fetches a file; filled by ``adapters.label_studio_media``."""

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        """The path of a readable local copy.

        Args:
            url: as stored in task data: ``/data/upload/..``, ``s3://..``, ``https://..``.
            task_id: Label Studio signs links to cloud storages per task.
            options: ``project_dir``, ``ls_host``, ``ls_access_token`` and what else
                HumanSignal's ``get_local_path`` takes.

        Raises:
            MediaError: if the file can not be read or must not be.
        """

    def access_token(self) -> str | None:
        """The API key of Label Studio, if one is set."""


class NoMedia:
    """Refuses every file: for a class used alone, without a server's settings."""

    def local_path(self, url: str, *, task_id: int | str | None, **options: Any) -> str:
        """Refuse."""
        raise MediaError(
            f"no settings say how to read {url[:200]!r}: run under a server"
        )

    def access_token(self) -> str | None:
        """None."""
        return None


def names_a_file(value: str) -> bool:
    """Whether a text in task data is the address of a file."""
    return value.startswith(_FILE_PREFIXES)
