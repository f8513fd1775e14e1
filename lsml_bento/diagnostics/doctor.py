"""Check the connection between Label Studio and a backend, in both directions."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import SecretStr

from lsml_bento.diagnostics.backend_calls import check_backend
from lsml_bento.diagnostics.check import sample_tasks
from lsml_bento.diagnostics.connection import Check, SampleProject
from lsml_bento.diagnostics.label_studio import check_label_studio
from lsml_bento.errors import LabelConfigError
from lsml_bento.model.media import Media


def diagnose(
    label_studio_url: str | None,
    *,
    api_key: str | SecretStr | None = None,
    media: Media | None = None,
    backend_url: str | None = None,
    project: int | None = None,
    label_config: str | None = None,
    basic_auth: tuple[str, str] | None = None,
    in_container: bool | None = None,
) -> Iterator[Check]:
    """Yield the checks, each after those that it depends on.

    Args:
        label_studio_url: ``LABEL_STUDIO_URL``. Without it, only the backend is checked.
        api_key: ``LABEL_STUDIO_API_KEY``.
        media: downloads one file of the project, as the backend would.
        backend_url: the backend's URL as entered in Label Studio. It may contain
            ``user:password@``.
        project: its number in Label Studio (default: the first one with tasks).
        label_config: used for ``/setup`` and ``/predict`` if no project can be read.
        basic_auth: user and password as entered in Label Studio for the backend.
        in_container: whether this process runs in a container (default: detected).
    """
    if isinstance(api_key, SecretStr):
        api_key = api_key.get_secret_value()
    found = None
    if label_studio_url:
        key = (api_key or "").strip()
        found = yield from check_label_studio(
            label_studio_url, key, media, project, in_container
        )
    if not backend_url:
        return
    if label_config and not (found and found.tasks):
        backends = found.backends if found else None
        try:
            tasks = sample_tasks(label_config, 1)
            found = SampleProject("doctor.0", label_config, tasks, backends)
        except LabelConfigError as error:
            yield Check("label config", "fail", str(error))
    yield from check_backend(backend_url, label_studio_url, basic_auth, found)
