"""``lsml-bento doctor``: can Label Studio reach the backend, and the backend it?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsml_bento.cli.options import debug_option
from lsml_bento.errors import LsmlError

if TYPE_CHECKING:
    from lsml_bento.diagnostics.connection import Check

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


class DoctorError(LsmlError):
    """Nothing to check."""


@click.command()
@click.option(
    "--label-studio", metavar="URL", help="Address of Label Studio (LABEL_STUDIO_URL)."
)
@click.option(
    "--backend-url",
    metavar="URL",
    help="Address of the backend, as entered in Label Studio.",
)
@click.option(
    "--project",
    type=click.IntRange(1),
    metavar="ID",
    help="Project (default: the first with tasks).",
)
@click.option(
    "--label-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Label config if no project can be read.",
)
@debug_option(expose=False)
def doctor(
    label_studio: str | None,
    backend_url: str | None,
    project: int | None,
    label_config: Path | None,
) -> None:
    """Check the connection between Label Studio and a backend.

    Checks of Label Studio: its address, the kind of API key, one media file. Checks of
    the backend: the calls that Label Studio makes, with the same time limits.

    The API key is read from LABEL_STUDIO_API_KEY, user and password from
    BASIC_AUTH_USER and BASIC_AUTH_PASS. The exit code is 1 if a check fails.
    """
    from lsml_bento.adapters.label_studio_media import LabelStudioMedia
    from lsml_bento.diagnostics.doctor import diagnose
    from lsml_bento.processes.opening import read_label_config
    from lsml_bento.settings import Settings

    environ = dict(os.environ)
    if label_studio:
        environ["LABEL_STUDIO_URL"] = label_studio
    settings = Settings.from_env(environ)
    url, key = settings.label_studio_url, settings.label_studio_api_key
    if not url and not backend_url:
        raise DoctorError(
            "there is nothing to check: pass --label-studio URL, --backend-url URL or "
            "both"
        )
    config = None if label_config is None else read_label_config(label_config)
    with tempfile.TemporaryDirectory(prefix="lsml-doctor-") as cache:
        media = LabelStudioMedia(url, key, settings.local_files_root, Path(cache))
        try:
            checks = diagnose(
                url,
                api_key=key,
                media=media,
                backend_url=backend_url,
                project=project,
                label_config=config,
                basic_auth=settings.basic_auth,
            )
            failed = _print(checks)
        finally:
            media.close()
    if failed:
        raise SystemExit(1)


def _print(checks: Iterator[Check]) -> int:
    """Print the table once all is known. Returns how many checks failed."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(show_lines=True)
    for column in ("check", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    statuses: list[str] = []
    with console.status("Checking the connection"):
        for check in checks:
            statuses.append(check.status)
            table.add_row(
                escape(check.name),
                f"[{_STYLES[check.status]}]{check.status}",
                escape(check.message),
                escape(check.remedy),
            )
    console.print(table)
    failed = statuses.count("fail")
    console.print(
        f"{len(statuses)} checks: {failed} failed, {statuses.count('warn')} warnings"
    )
    return failed
