"""``lsml-bento check``: does the model answer its label config?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsml_bento.backend_dir import serves
from lsml_bento.cli.options import debug_option, directory_argument, quiet, resolve
from lsml_bento.errors import LsmlError

if TYPE_CHECKING:
    from lsml_bento.diagnostics.check import Report

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


class CheckError(LsmlError):
    """A directory that can not be checked."""


@click.command()
@directory_argument
@click.option(
    "--label-config",
    type=click.Path(path_type=Path),
    help="The label config's XML; label_config.xml in DIR by default.",
)
@debug_option()
def check(
    directory: Path, root_dir: Path | None, label_config: Path | None, debug: bool
) -> None:
    """Predict sample tasks, and say what Label Studio would hide or refuse.

    The exit code is 1 if there is an error.
    """
    directory = resolve(directory, root_dir)
    config = _read(directory, label_config)
    from lsml_bento.cli.loading import load_predict
    from lsml_bento.diagnostics.check import check_model

    quiet(debug)
    name, version, predict = load_predict(directory, config)
    report = check_model(config, predict)
    _show(f"{name}, model version {version}", report)
    if not report.ok:
        raise SystemExit(1)


def _read(directory: Path, label_config: Path | None) -> str:
    if not directory.is_dir() or not serves(directory):
        raise CheckError(
            f"{directory} has neither a model.py nor a service.py with svc: name the "
            "directory of a backend"
        )
    path = label_config or directory / "label_config.xml"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckError(
            f"the label config {path} can not be read: {error}; save your project's "
            "(Settings > Labeling Interface > Code) and name it with --label-config"
        ) from error


def _show(title: str, report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(title)}[/bold]")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "first task": report.first_s,
        "a task alone": report.single_s,
        f"{report.tasks} tasks in one call": report.batch_s,
    }
    for row, seconds in rows.items():
        table.add_row(row, "-" if seconds is None else f"{seconds * 1000:.1f} ms")
    console.print(table)
    for finding in report.findings:
        style = _STYLES[finding.severity]
        sentence = escape(finding.sentence)
        console.print(f"[{style}]{finding.severity}[/{style}] {sentence}")
    counted = f"{report.tasks} tasks, {report.predictions} predictions, " + (
        f"{report.regions} regions"
    )
    verdict = (
        "[green]Label Studio takes all of it[/green]"
        if report.ok
        else "[bold red]Label Studio would hide or refuse some of it[/bold red]"
    )
    console.print(f"{counted}: {verdict}")
