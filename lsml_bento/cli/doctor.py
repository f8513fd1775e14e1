"""``lsml-bento doctor``: can Label Studio reach the backend, and the backend it?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsml_bento.cli.options import debug_option
from lsml_bento.errors import LsmlError

if TYPE_CHECKING:
    from lsml_bento.diagnostics.doctor import Check
    from lsml_bento.model.media import Media
    from lsml_bento.settings import Settings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


class DoctorError(LsmlError):
    """Nothing to look into."""


@click.command()
@click.option(
    "--label-studio",
    metavar="URL",
    help="Where Label Studio answers (LABEL_STUDIO_URL).",
)
@click.option(
    "--backend-url",
    metavar="URL",
    help="The backend's address as it is entered in Label Studio.",
)
@click.option(
    "--project",
    type=click.IntRange(1),
    help="The project's number; the first one with tasks by default.",
)
@click.option(
    "--label-config",
    type=click.Path(path_type=Path),
    help="What the backend is tried with where no project can be read.",
)
@debug_option()
def doctor(
    label_studio: str | None,
    backend_url: str | None,
    project: int | None,
    label_config: Path | None,
    debug: bool,
) -> None:
    """Try every hop between Label Studio and a backend.

    From here to Label Studio: reach, the kind of the token, one media file. From Label
    Studio to the backend: the calls that it makes, with its own time limits.

    The API key is read from LABEL_STUDIO_API_KEY, user and password from
    BASIC_AUTH_USER and BASIC_AUTH_PASS. The exit code is 1 if something fails.
    """
    from lsml_bento.diagnostics.doctor import diagnose
    from lsml_bento.settings import Settings

    environ = dict(os.environ)
    if label_studio:
        environ["LABEL_STUDIO_URL"] = label_studio
    settings = Settings.from_env(environ)
    if not settings.label_studio_url and not backend_url:
        raise DoctorError(
            "there is nothing to look into: name --label-studio URL, --backend-url URL "
            "or both"
        )
    with _media(settings) as media:
        checks = diagnose(
            settings.label_studio_url,
            api_key=settings.label_studio_api_key,
            media=media,
            backend_url=backend_url,
            project=project,
            label_config=_read(label_config),
            basic_auth=settings.basic_auth,
        )
        failed = _show(checks)
    if failed:
        raise SystemExit(1)


@contextmanager
def _media(settings: Settings) -> Iterator[Media]:
    """Reads files as a server does, but keeps none."""
    from lsml_bento.adapters.label_studio_media import LabelStudioMedia

    with tempfile.TemporaryDirectory(prefix="lsml-doctor-") as cache:
        media = LabelStudioMedia(
            settings.label_studio_url,
            settings.label_studio_api_key,
            settings.local_files_root,
            Path(cache),
        )
        try:
            yield media
        finally:
            media.close()


def _read(label_config: Path | None) -> str | None:
    if label_config is None:
        return None
    try:
        return label_config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DoctorError(
            f"the label config {label_config} can not be read: {error}"
        ) from error


def _show(checks: Iterator[Check]) -> int:
    """Print the table when all is known; how many checks failed."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(show_lines=True)
    for column in ("check", "", "what was found", "what to do"):
        table.add_column(column, overflow="fold")
    found: list[Check] = []
    with console.status("Trying every hop"):
        for check in checks:
            found.append(check)
            table.add_row(
                escape(check.name),
                f"[{_STYLES[check.status]}]{check.status}",
                escape(check.sentence),
                escape(check.remedy),
            )
    console.print(table)
    failed = sum(check.status == "fail" for check in found)
    warned = sum(check.status == "warn" for check in found)
    console.print(f"{len(found)} checks: {failed} failed, {warned} may trouble you")
    return failed
