"""``lsml-bento preannotate``: predict many tasks in bulk."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import deque
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsml_bento.cli.options import debug_option

if TYPE_CHECKING:
    from rich.console import Console

    from lsml_bento.preannotation.pipeline import Totals
    from lsml_bento.preannotation.run import LabelConfigCheck, Options, Report, Run
    from lsml_bento.processes.preannotation import Setup

_FILE = click.Path(path_type=Path)
_UPDATE_EVERY_S = 0.25
_LINE_EVERY_S = 10.0
_WINDOW_S = 30.0


@click.command()
@click.argument("target", metavar="[DIR]", required=False)
@click.option("--project", metavar="N", help="Predict the tasks of project N.")
@click.option(
    "--tasks",
    type=_FILE,
    help="Predict the tasks in a file: a .json list, a .csv or .tsv table, or a .jsonl "
    "file with a task on each line. The active version of --project predicts them.",
)
@click.option(
    "--label-config",
    type=_FILE,
    help="Read the label config of --tasks from an XML file (default: "
    "label_config.xml in DIR).",
)
@click.option(
    "--output", type=_FILE, help="Write tasks with predictions to this .jsonl file."
)
@click.option(
    "--backend",
    metavar="URL",
    help="Call a running backend instead of a model in DIR. Set BASIC_AUTH_USER and "
    "BASIC_AUTH_PASS if it asks for them.",
)
@click.option(
    "--filter",
    "filters",
    metavar="JSON",
    help="Predict only tasks that match Data Manager filters: a file, or JSON.",
)
@click.option(
    "--view", type=int, help="Predict only tasks in this tab of the Data Manager."
)
@click.option(
    "--only-missing",
    is_flag=True,
    help="Read only tasks without a prediction of the model version. Without this "
    "option all tasks are read, and those with a prediction are skipped.",
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Predict at most N tasks."
)
@click.option("--dry-run", is_flag=True, help="Predict and write nothing.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace predictions of the same model version, or an existing output.",
)
@click.option(
    "--watch",
    "watch_s",
    type=click.FloatRange(min=0, min_open=True),
    is_flag=False,
    flag_value=10.0,
    metavar="[SECONDS]",
    help="Keep running; check for new tasks every N seconds (default: 10).",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    metavar="N",
    help="Call predict with at most N tasks (default: LSML_MAX_BATCH_SIZE, or 32).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@debug_option()
def preannotate(as_json: bool, debug: bool, **given: Any) -> None:
    """Predict the tasks of a project or a file in bulk.

    DIR is the directory of a backend, or a class "module:Class".

    Run the same command again to continue after an interruption, or to retry tasks that
    failed. The exit code is 1 if a task or the run failed, or if predictions do not fit
    the label config.
    """
    options = _options(**given)
    import asyncio

    from rich.console import Console

    from lsml_bento.preannotation.run import Run
    from lsml_bento.preannotation.task_file import TaskFile
    from lsml_bento.processes.preannotation import preannotate

    _log_warnings(debug)
    tasks = None if options.tasks is None else TaskFile(options.tasks)
    console = Console(stderr=True, highlight=False)
    with redirect_stdout(sys.stderr):  # What the model prints is not the result.
        setup = _find(options.target, options.batch_size)
        size, home = setup.max_batch_size, setup.home
        run = Run(options, size, home, partial(show, console), _say)
        try:
            asyncio.run(preannotate(run, setup, tasks))
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except asyncio.CancelledError:
            if run.signal is None:
                raise
            # Nothing was predicted yet, so there is no result to print.
            raise SystemExit(128 + run.signal) from None
    _print_result(run, as_json=as_json)


def _find(target: str | None, batch_size: int | None) -> Setup:
    """Find the backend of a directory, which becomes the current one, or a class."""
    from lsml_bento.processes.opening import (
        absolute_paths,
        find_backend,
        named_backend,
    )
    from lsml_bento.processes.preannotation import setup_of

    if target is None:
        return setup_of(None, batch_size)
    if ":" not in target or Path(target).exists():
        spec = find_backend(Path(target).expanduser().resolve())
        return setup_of(spec, batch_size)
    os.environ.update(absolute_paths(os.environ))
    return setup_of(named_backend(target), batch_size, is_class=True)


def _options(filters: str | None, **options: Any) -> Options:
    """Check the options, and make paths absolute."""
    given = {name for name, value in options.items() if value not in (None, False)}
    given |= {"filters"} if filters else set()
    if not given & {"target", "backend"}:
        raise click.UsageError("pass the DIR of a backend, or --backend URL")
    if {"target", "backend"} <= given:
        raise click.UsageError("pass DIR or --backend URL, not both")
    if "tasks" not in given and "project" not in given:
        raise click.UsageError("pass --project N or --tasks FILE")
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
    from lsml_bento.preannotation.run import Options

    return Options(**options)


def _check_modes(given: set[str]) -> None:
    if "tasks" in given:
        wrong = given & {"filters", "view", "only_missing", "watch_s"}
        if "output" not in given and "dry_run" not in given:
            raise click.UsageError("pass the --output FILE to write the tasks to")
        if "backend" in given and "label_config" not in given:
            raise click.UsageError("pass the --label-config FILE of the tasks")
        where = "requires a Label Studio project and cannot be used with --tasks"
    else:
        wrong = given & {"output", "label_config"}
        where = "requires --tasks FILE"
    if wrong:
        names = {"filters": "filter", "watch_s": "watch"}
        first = sorted(names.get(name, name).replace("_", "-") for name in wrong)[0]
        raise click.UsageError(f"--{first} {where}")


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
        raise click.UsageError(f"--filter: invalid JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("items"), list):
        raise click.UsageError(
            '--filter must be of the form {"conjunction": "and", "items": [..]}, as in '
            "the Data Manager"
        )
    return found


def _say(message: str) -> None:
    click.echo(message, err=True)


def _log_warnings(debug: bool) -> None:
    """Print warnings, e.g. of a wait for Label Studio, above the progress bar."""
    from lsml_bento.log_format import log_apart

    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.ERROR, handlers=[handler]
    )
    log_apart(handler, logging.DEBUG if debug else logging.WARNING)


class _StderrHandler(logging.Handler):
    """Writes to the current ``sys.stderr``, which a progress bar replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(self.format(record))


# The progress: a bar on a terminal, else a line now and then


class Meter:
    """Rates over the last half minute; ``total`` may be unknown."""

    def __init__(self, totals: Totals, total: int | None) -> None:
        self.totals = totals
        self.total = total
        self._seen: deque[tuple[float, int, int]] = deque()

    def read(self, now: float) -> str:
        """Return e.g. ``"1,200 tasks, 410 tasks/s, 46 s left, 3 failed"``."""
        from lsml_bento.cli.text import span

        totals = self.totals
        self._seen.append((now, totals.tasks, totals.at))
        while now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        then, tasks_then, at_then = self._seen[0]
        passed = max(now - then, 1e-9)
        rate = (totals.tasks - tasks_then) / passed
        parts = [f"{totals.tasks:,} tasks", f"{rate:,.0f} tasks/s"]
        speed = (totals.at - at_then) / passed
        if self.total is not None and speed:
            parts.append(f"{span(max(0, self.total - totals.at) / speed)} left")
        if totals.skipped:
            parts.append(f"{totals.skipped:,} skipped")
        if totals.failed:
            parts.append(f"{totals.failed:,} failed")
        return ", ".join(parts)

    @property
    def share(self) -> float | None:
        """The part that is done, from 0 to 1; None if unknown."""
        return min(1.0, self.totals.at / self.total) if self.total else None


async def show(console: Console, totals: Totals, total: int | None) -> None:
    """Show the progress until cancelled; without a terminal, by a line every 10 s."""
    import asyncio

    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    meter = Meter(totals, total)
    with Progress(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        shown = bar.add_task("", total=None)
        line_at = time.monotonic() + _LINE_EVERY_S
        while True:
            now = time.monotonic()
            text, share = meter.read(now), meter.share
            bar.update(
                shown,
                description=text,
                completed=share or 0.0,
                total=None if share is None else 1.0,
                refresh=True,
            )
            if bar.disable and now >= line_at:
                line_at = now + _LINE_EVERY_S
                percent = "" if share is None else f"{share:.0%}: "
                console.print(percent + text, markup=False, soft_wrap=True)
            await asyncio.sleep(_UPDATE_EVERY_S)


# The result


def _print_result(run: Run, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_as_json(run), indent=2))
    else:
        click.echo(_summary(run))
        _list_failures(run.report)
    if run.signal is not None:
        _say("Interrupted. Run the same command again to continue.")
        raise SystemExit(128 + run.signal)
    if run.report.failed or (run.report.check and run.report.check.misfits):
        raise SystemExit(1)


def _summary(run: Run) -> str:
    options, report, totals = run.options, run.report, run.report.totals
    if report.was_complete and not totals.tasks:
        return f"Nothing to do: {options.output} already has every task."
    rate = totals.tasks / report.seconds if report.seconds else 0
    check = report.check
    parts = [
        f"{totals.predicted:,} tasks predicted by {report.model_version} "
        f"({rate:,.0f} tasks/s)",
        *([f"{totals.empty:,} without a prediction"] if totals.empty else []),
        *([f"{totals.skipped:,} skipped: already predicted"] if totals.skipped else []),
        *([f"{report.failed:,} failed"] if report.failed else []),
        *([_misfits(check)] if check and check.misfits else []),
        *([f"{check.warned:,} with warnings"] if check and check.warned else []),
    ]
    if options.dry_run:
        where = "nothing was written"
    elif options.output is None:
        where = f"written to project {options.project}"
    else:
        where = str(options.output)
    return f"{', '.join(parts)}: {where}"


def _misfits(check: LabelConfigCheck) -> str:
    return f"{check.misfits:,} of {check.checked:,} checked do not fit the label config"


def _list_failures(report: Report) -> None:
    for failure in report.failures:
        _say(f"  {failure}")
    if report.failed > len(report.failures):
        _say(f"  and {report.failed - len(report.failures):,} more")
    if report.failed_file is not None:
        _say(f"All failures: {report.failed_file}")
    if check := report.check:
        for example in check.examples:
            _say(f"  does not fit: {example}")
        if check.misfits > len(check.examples):
            _say(f"  and {check.misfits - len(check.examples):,} more")
        if check.misfits:
            _say("Test model and label config with `lsml-bento check`.")


def _as_json(run: Run) -> dict[str, Any]:
    report, totals = run.report, run.report.totals
    output, failed_file = run.options.output, report.failed_file
    check = report.check
    return {
        "model_version": report.model_version,
        "predicted": totals.predicted,
        "empty": totals.empty,
        "skipped": totals.skipped,
        "failed": report.failed,
        "checked": check.checked if check else 0,
        "misfits": check.misfits if check else 0,
        "warned": check.warned if check else 0,
        "seconds": round(report.seconds, 3),
        "output": None if output is None else str(output),
        "failures": [failure._asdict() for failure in report.failures],
        "failed_file": None if failed_file is None else str(failed_file),
    }
