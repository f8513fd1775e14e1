"""``lsml-bento preannotate``: predictions for many tasks, written in bulk."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsml_bento.cli.options import debug_option

if TYPE_CHECKING:
    from lsml_bento.cli.bulk_run import Asked, BulkRun, Report

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("target", metavar="[DIR]", required=False)
@click.option(
    "--project", metavar="N", help="Predict the tasks of a project of Label Studio."
)
@click.option(
    "--tasks",
    type=_FILE,
    help="Predict the tasks of a file: .json, a list; .jsonl, one on each line. "
    "--project names whose model version predicts.",
)
@click.option(
    "--label-config",
    type=_FILE,
    help="The label config's XML, with --tasks; label_config.xml in DIR by default.",
)
@click.option(
    "--output", type=_FILE, help="The file (.jsonl) of tasks with their predictions."
)
@click.option(
    "--backend",
    metavar="URL",
    help="Have a backend predict that runs there (with BASIC_AUTH_USER and "
    "BASIC_AUTH_PASS), in place of one in DIR.",
)
@click.option(
    "--filter",
    "filters",
    metavar="JSON",
    help="Only tasks that the Data Manager's filters name: a file, or the JSON itself.",
)
@click.option("--view", type=int, help="Only tasks of this tab of the Data Manager.")
@click.option(
    "--only-missing",
    is_flag=True,
    help="Have Label Studio leave out tasks with a prediction of the model version. "
    "Such tasks never get a second one, but without this they are read.",
)
@click.option("--limit", type=click.IntRange(1), help="Tasks to predict at most.")
@click.option("--dry-run", is_flag=True, help="Predict, and write nothing.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Put predictions in the place of those of the same model version; begin the "
    "output anew.",
)
@click.option(
    "--watch",
    "watch_s",
    type=click.FloatRange(min=0, min_open=True),
    is_flag=False,
    flag_value=10.0,
    metavar="[SECONDS]",
    help="Go on: look for new tasks every so many seconds (10).",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Tasks in one call of predict at most (LSML_MAX_BATCH_SIZE; 32).",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print what came of it as JSON at the end."
)
@debug_option()
def preannotate(as_json: bool, debug: bool, **options: Any) -> None:
    """Predict many tasks with the backend in DIR, or with a class "module:Class".

    The same command again goes on where it was interrupted, and gives tasks that failed
    another try. The exit code is 1 if a task failed, or the run.
    """
    asked = _asked(**options)
    import asyncio

    from rich.console import Console

    from lsml_bento.cli.bulk_run import BulkRun
    from lsml_bento.cli.engines import find_place
    from lsml_bento.cli.file_run import annotate_file
    from lsml_bento.cli.project_run import annotate_project
    from lsml_bento.preannotation.task_file import TaskFile

    _log_warnings(debug)
    tasks = None if asked.tasks is None else TaskFile(asked.tasks)
    console = Console(stderr=True, highlight=False)
    with redirect_stdout(sys.stderr):  # what the model prints is no part of the answer
        place = find_place(asked.target, asked.batch_size)
        run = BulkRun(asked, place, console)
        annotating = (
            annotate_project(run) if tasks is None else annotate_file(run, tasks)
        )
        try:
            asyncio.run(annotating)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except asyncio.CancelledError:
            if run.interruption.signal is None:
                raise
            # Before anything was predicted: there is nothing to sum up.
            raise SystemExit(128 + run.interruption.signal) from None
    _conclude(run, as_json=as_json)


def _asked(filters: str | None, **options: Any) -> Asked:
    """What was asked for, if it makes sense."""
    given = {name for name, value in options.items() if value not in (None, False)}
    given |= {"filters"} if filters else set()
    if not given & {"target", "backend"}:
        raise click.UsageError("name a backend's DIR, or --backend URL")
    if {"target", "backend"} <= given:
        raise click.UsageError("name DIR or --backend URL, not both")
    if "tasks" not in given and "project" not in given:
        raise click.UsageError("name --project N, or --tasks FILE")
    _check_modes(given)
    project = options["project"]
    if project is not None and "tasks" not in given and not project.isdecimal():
        raise click.UsageError(f"--project {project!r}: a project's id is a number")
    for name in ("tasks", "label_config", "output"):
        if options[name] is not None:
            # The backend's directory becomes the current one.
            options[name] = options[name].expanduser().absolute()
    if options["dry_run"]:
        options["output"] = None
    options["filters"] = _filters(filters)
    from lsml_bento.cli.bulk_run import Asked

    return Asked(**options)


def _check_modes(given: set[str]) -> None:
    if "tasks" in given:
        wrong = given & {"filters", "view", "only_missing", "watch_s"}
        if "output" not in given and "dry_run" not in given:
            raise click.UsageError("name the --output FILE that tasks go to")
        if "backend" in given and "label_config" not in given:
            raise click.UsageError("name the --label-config FILE of the tasks")
        where = "a project of Label Studio, not with --tasks"
    else:
        wrong = given & {"output", "label_config"}
        where = "--tasks FILE"
    if wrong:
        names = {"filters": "filter", "watch_s": "watch"}
        first = sorted(names.get(name, name).replace("_", "-") for name in wrong)[0]
        raise click.UsageError(f"--{first} goes with {where}")


def _filters(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).expanduser().read_text(encoding="utf-8")
        found = json.loads(text)
    except OSError as error:
        raise click.UsageError(f"--filter {text}: {error.strerror}") from error
    except ValueError as error:
        raise click.UsageError(f"--filter is no JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("items"), list):
        raise click.UsageError(
            '--filter takes the Data Manager\'s {"conjunction": "and", "items": [..]}'
        )
    return found


def _log_warnings(debug: bool) -> None:
    """Say what lasts, as a wait for Label Studio, above the progress bar."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.ERROR,
        format="%(levelname)s: %(message)s",
        handlers=[_Above()],
    )
    if not debug:
        logging.getLogger("lsml_bento").setLevel(logging.WARNING)


class _Above(logging.Handler):
    """Writes to what is the error output then, which a bar takes the place of."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        click.echo(self.format(record), err=True)


# What came of it


def _conclude(run: BulkRun, *, as_json: bool) -> None:
    report, signal = run.report, run.interruption.signal
    if as_json:
        click.echo(json.dumps(_as_json(run), indent=2))
    else:
        click.echo(_summary(run))
        _list_failures(report)
    if signal is not None:
        click.echo(
            "Interrupted: the same command goes on where this one ended.", err=True
        )
        raise SystemExit(128 + signal)
    if report.failed:
        raise SystemExit(1)


def _summary(run: BulkRun) -> str:
    asked, report, tally = run.asked, run.report, run.report.tally
    tasks = tally.predicted + tally.failed
    if report.is_repeated and not tasks:
        return f"Nothing is left to do: {asked.output} has every task."
    rate = f"{tasks / report.seconds:,.0f} tasks/s" if report.seconds else "at once"
    parts = [
        f"{tally.predicted:,} tasks predicted by {report.model_version} ({rate})",
        *([f"{tally.empty:,} of them without a prediction"] if tally.empty else []),
        *([f"{tally.skipped:,} had one before"] if tally.skipped else []),
        *([f"{report.failed:,} failed"] if report.failed else []),
    ]
    if asked.dry_run:
        where = "nothing was written"
    elif asked.output is None:
        where = f"written to project {asked.project}"
    else:
        where = str(asked.output)
    return f"{', '.join(parts)}: {where}"


def _list_failures(report: Report) -> None:
    for failure in report.failures:
        click.echo(f"  {failure}", err=True)
    if report.failed > len(report.failures):
        click.echo(f"  and {report.failed - len(report.failures):,} more", err=True)
    if report.failed_file is not None:
        click.echo(f"All that failed: {report.failed_file}", err=True)


def _as_json(run: BulkRun) -> dict[str, Any]:
    report, tally = run.report, run.report.tally
    output, failed_file = run.asked.output, report.failed_file
    return {
        "model_version": report.model_version,
        "predicted": tally.predicted,
        "empty": tally.empty,
        "skipped": tally.skipped,
        "failed": report.failed,
        "seconds": round(report.seconds, 3),
        "output": None if output is None else str(output),
        "failures": [failure._asdict() for failure in report.failures],
        "failed_file": None if failed_file is None else str(failed_file),
    }
