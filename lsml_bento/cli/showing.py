"""Jobs and versions as a person reads them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lsml_bento.jobs import Job, JobStatus
from lsml_bento.naming import short_ids

_STYLES = {
    JobStatus.QUEUED: "cyan",
    JobStatus.RUNNING: "bold blue",
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "bold red",
    JobStatus.CANCELLED: "dim",
}
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))
_BAR = 12
_WIDE = 110
_METRICS = 3
_RICH_MOST = 500
"""Rows that rich lays out in some tenths of a second; more come without colours."""

Row = dict[str, RenderableType]
"""Cells by the titles of their columns."""


def console() -> Console:
    """What tables are printed on."""
    return Console(highlight=False)


def print_json(found: Mapping[str, Any]) -> None:
    """Print what the HTTP API answers."""
    click.echo(json.dumps(found, indent=2))


# Words


def ago(moment: float | str | None, now: float | None = None) -> str:
    """A moment as a person says it: ``"3 min ago"``, ``"in 2 s"``; ``"-"`` for none.

    Args:
        moment: seconds since the epoch, or as ``jobs.moment`` writes them.
        now: in seconds since the epoch.
    """
    if moment is None:
        return "-"
    passed = (time.time() if now is None else now) - seconds_of(moment)
    if abs(passed) < 1:
        return "now"
    return f"in {span(-passed)}" if passed < 0 else f"{span(passed)} ago"


def seconds_of(moment: float | str) -> float:
    """A moment in seconds since the epoch."""
    if isinstance(moment, str):
        return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
    return moment


def span(seconds: float) -> str:
    """A time in its largest unit: ``"42 s"``, ``"3 min"``."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return "0 s"


def took(job: Job, now: float) -> str:
    """How long the last run took until now, or until its end."""
    if job.started_at is None or job.status is JobStatus.QUEUED:
        return "-"
    return span((job.finished_at or now) - job.started_at)


def metrics_of(metrics: Mapping[str, float | None], most: int = _METRICS) -> str:
    """The first metrics, short: ``"f1 0.912, loss 1.2"``."""
    shown = [
        f"{name} {'-' if value is None else format(value, '.4g')}"
        for name, value in list(metrics.items())[:most]
    ]
    return ", ".join([*shown, ".."] if len(metrics) > most else shown)


def outcome(job: Job, now: float) -> str:
    """What there is to say of a job: its version, its error, or what it waits for."""
    if job.status is JobStatus.QUEUED:
        return job.note or waits_for(job, now)
    if job.status is JobStatus.RUNNING and job.cancel_requested:
        return "told to stop"
    return job.error or job.version or job.note or ""


def waits_for(job: Job, now: float) -> str:
    """What a queued job waits for."""
    if job.due_at is None:
        return f"for more annotations, {job.new_annotations} came"
    if job.due_at > now:
        return f"begins {ago(job.due_at, now)}"
    return f"for a worker, {ago(job.due_at, now)} due"


# Tables


def print_jobs(jobs: Sequence[Job]) -> None:
    """Print a line for each job."""
    _print(lambda width: _job_rows(jobs, width, time.time()), len(jobs))


def print_versions(listed: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each version, as ``overview.list_versions`` gives them."""
    _print(lambda width: _version_rows(listed, width), len(listed))


def _print(rows_of: Callable[[int], list[Row]], count: int) -> None:
    shown = console()
    if count <= _RICH_MOST:
        shown.print(_table(rows_of(shown.width)))
        return
    rows = rows_of(_WIDE)
    cells = [list(rows[0]), *([_plain(cell) for cell in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def jobs_table(jobs: Sequence[Job], width: int, now: float | None = None) -> Table:
    """A line for each job; a narrow one goes without what tells least."""
    return _table(_job_rows(jobs, width, time.time() if now is None else now))


def _job_rows(jobs: Sequence[Job], width: int, now: float) -> list[Row]:
    names = short_ids([job.id for job in jobs])
    left_out = {"event", "metrics"} if width < _WIDE else set()
    if not any(job.status is JobStatus.RUNNING for job in jobs):
        left_out.add("progress")
    return [_without(left_out, _job_row(job, names[job.id], now)) for job in jobs]


def _job_row(job: Job, name: str, now: float) -> Row:
    return {
        "job": name,
        "project": job.project,
        "event": job.event,
        "status": status_of(job),
        "progress": _bar(job),
        "created": ago(job.created_at, now),
        "took": took(job, now),
        "metrics": _one_line(metrics_of(job.metrics)),
        "result": _one_line(outcome(job, now), "red" if job.error else ""),
    }


def _version_rows(listed: Sequence[Mapping[str, Any]], width: int) -> list[Row]:
    names = short_ids([one["job"] for one in listed if one["job"]])
    left_out = {"weights"} if width < _WIDE else set()
    return [_without(left_out, _version_row(one, names)) for one in listed]


def _version_row(one: Mapping[str, Any], names: Mapping[str, str]) -> Row:
    pinned = ", pinned" if one.get("pinned") else ""
    return {
        "version": Text(one["version"], "bold" if one["active"] else ""),
        "serves": Text(f"yes{pinned}" if one["active"] else "", "green"),
        "created": ago(one["created_at"]) if one["created_at"] else "the base",
        "job": names.get(one["job"], ""),
        "metrics": _one_line(metrics_of(one["metrics"])),
        "weights": _one_line(one["tag"] or ""),
    }


def facts(rows: Mapping[str, RenderableType | None]) -> Table:
    """A line for each fact; what is None or empty is left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value not in (None, ""):
            table.add_row(name, Text(value) if isinstance(value, str) else value)
    return table


def status_of(job: Job) -> Text:
    """The status in its colour."""
    return Text(job.status.value, _STYLES[job.status])


def at(moment: str | None) -> str | None:
    """A moment in full, and how long ago it was."""
    return None if moment is None else f"{moment} ({ago(moment)})"


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in rows[0] if rows else ():
        # Where the terminal is too narrow, these give way and the others do not.
        table.add_column(title, no_wrap=title not in {"metrics", "result", "weights"})
    for row in rows:
        table.add_row(*row.values())
    return table


def _without(titles: Collection[str], row: Row) -> Row:
    return {title: cell for title, cell in row.items() if title not in titles}


def _plain(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _one_line(text: str, style: str = "") -> Text:
    return Text(" ".join(text.split()), style, no_wrap=True, overflow="ellipsis")


class _Bar:
    """How far a run is: a bar, and the share in percent."""

    def __init__(self, progress: float | None) -> None:
        self._progress = progress

    def __str__(self) -> str:
        return "" if self._progress is None else f"{self._progress:.0%}"

    def __rich__(self) -> Table:
        done = self._progress
        line = Table.grid(padding=(0, 1, 0, 0))
        bar = ProgressBar(1.0, done or 0.0, width=_BAR, pulse=done is None)
        line.add_row(bar, f"{self!s:>4}")
        return line


def _bar(job: Job) -> RenderableType:
    return _Bar(job.progress) if job.status is JobStatus.RUNNING else ""
