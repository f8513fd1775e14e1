"""What reads Label Studio: files that task data names, and annotated tasks."""

from __future__ import annotations

from pathlib import Path

from lsml_bento.adapters.label_studio_api import LabelStudioTasks
from lsml_bento.adapters.label_studio_media import LabelStudioMedia
from lsml_bento.settings import Settings


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
