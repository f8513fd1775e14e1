"""``lsml-bento check``: does the model answer its label config?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsml_bento.cli.options import debug_option, directory_argument, quiet, resolve

if TYPE_CHECKING:
    from lsml_bento.contract import Task
    from lsml_bento.diagnostics.check import ModelReport

_MOST_TASKS = 20
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


@click.command()
@directory_argument
@click.option(
    "--label-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Label config (default: label_config.xml in DIR).",
)
@click.option(
    "--tasks",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Predict the first {_MOST_TASKS} tasks of a .json, .jsonl, .csv or .tsv file "
    "in place of sample tasks.",
)
@debug_option()
def check(
    directory: Path,
    root_dir: Path | None,
    label_config: Path | None,
    tasks: Path | None,
    debug: bool,
) -> None:
    """Check that Label Studio accepts what a model predicts.

    Predicts sample tasks, or some of your own, and reports what Label Studio would hide
    or reject. The exit code is 1 if there is an error.
    """
    from lsml_bento.processes.opening import check_serves, read_label_config

    directory = resolve(directory, root_dir)
    check_serves(directory)
    config = read_label_config(label_config or directory / "label_config.xml")
    own = None if tasks is None else _read(tasks)
    from lsml_bento.diagnostics.check import check_model
    from lsml_bento.processes.local_model import load_predict

    quiet(debug)
    model_class, version, predict = load_predict(directory, config)
    report = check_model(config, predict, own, model_class=model_class)
    _print(f"{model_class.__name__}, model version {version}", report)
    if not report.ok:
        raise SystemExit(1)


def _read(path: Path) -> list[Task]:
    """The first tasks of a file."""
    from lsml_bento.preannotation.task_file import Position, TaskFile, TaskFileError

    for page in TaskFile(path).pages(Position(), _MOST_TASKS, _MOST_TASKS):
        if page.unread:
            raise TaskFileError(f"{path}, {page.unread[0]}")
        return page.tasks
    raise TaskFileError(f"{path} has no tasks: name a file with at least one")


def _print(title: str, report: ModelReport) -> None:
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
        "one task": report.single_s,
        f"{report.tasks} tasks in one call": report.batch_s,
    }
    for row, seconds in rows.items():
        table.add_row(row, "-" if seconds is None else f"{seconds * 1000:.1f} ms")
    console.print(table)
    for finding in report.findings:
        style = _STYLES[finding.severity]
        message = escape(finding.message)
        console.print(f"[{style}]{finding.severity}[/{style}] {message}")
    counts = (
        f"{report.tasks} tasks, {report.predictions} predictions, "
        f"{report.regions} regions"
    )
    verdict = (
        "[green]Label Studio accepts all of them[/green]"
        if report.ok
        else "[bold red]Label Studio would hide or reject some of them[/bold red]"
    )
    console.print(f"{counts}: {verdict}")
