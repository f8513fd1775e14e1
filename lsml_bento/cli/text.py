"""Jobs and versions as text and JSON, without what it costs to import rich."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import click

from lsml_bento.contract import parse_time
from lsml_bento.jobs.job import Job, JobStatus
from lsml_bento.projects.lookup import short_ids

_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))
_METRICS = 3
_MAX_TABLE_ROWS = 500
"""Rich takes some tenths of a second for these; longer lists are printed plainly."""

Cells = dict[str, str]
"""One row of a table, by column title."""


def print_json(found: Mapping[str, Any]) -> None:
    """Print what the HTTP API answers."""
    import orjson

    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def print_jobs(jobs: Iterable[Job]) -> None:
    """Print one line per job."""
    rest = iter(jobs)
    first = list(islice(rest, _MAX_TABLE_ROWS + 1))
    if len(first) > _MAX_TABLE_ROWS:
        _print_lines(job_cells(chain(first, rest), time.time()))
        return
    from lsml_bento.cli.tables import console, jobs_table

    shown = console()
    shown.print(jobs_table(first, shown.width))


def print_versions(listed: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per version, as ``overview.list_versions`` returns them."""
    if len(listed) > _MAX_TABLE_ROWS:
        _print_lines(version_cells(listed))
        return
    from lsml_bento.cli.tables import console, versions_table

    shown = console()
    shown.print(versions_table(listed, shown.width))


def _print_lines(rows: Sequence[Cells]) -> None:
    titles = [title for title in rows[0] if any(row[title] for row in rows)]
    cells = [titles, *([row[title] for title in titles] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    line = "  ".join(f"{{:{width}}}" for width in widths)
    click.echo("\n".join(line.format(*row).rstrip() for row in cells))


def ago(moment: float | str | None, now: float | None = None) -> str:
    """A time relative to now: ``"3 min ago"``, ``"in 2 s"``, or ``"-"`` for none.

    Args:
        moment: seconds since the epoch, or a time that ``contract.iso_time`` wrote.
        now: seconds since the epoch.
    """
    if moment is None:
        return "-"
    seconds = parse_time(moment).timestamp() if isinstance(moment, str) else moment
    passed = (time.time() if now is None else now) - seconds
    if abs(passed) < 1:
        return "now"
    return f"in {span(-passed)}" if passed < 0 else f"{span(passed)} ago"


def at(moment: str | None) -> str | None:
    """A time in full, and how long ago it was."""
    return None if moment is None else f"{moment} ({ago(moment)})"


def span(seconds: float) -> str:
    """A duration in its largest unit: ``"42 s"``, ``"3 min"``."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return "0 s"


def took(job: Job, now: float) -> str:
    """How long the last attempt took, or has taken so far."""
    if job.started_at is None or job.status is JobStatus.QUEUED:
        return "-"
    return span((job.finished_at or now) - job.started_at)


def metrics_of(metrics: Mapping[str, float | None], most: int = _METRICS) -> str:
    """The first metrics, rounded: ``"f1 0.912, loss 1.2"``."""
    shown = [
        f"{name} {'-' if value is None else format(value, '.4g')}"
        for name, value in list(metrics.items())[:most]
    ]
    return ", ".join([*shown, ".."] if len(metrics) > most else shown)


def outcome(job: Job, now: float) -> str:
    """The version or the error of a job, or what it is waiting for."""
    if job.status is JobStatus.QUEUED:
        return job.note or waits_for(job, now)
    if job.status is JobStatus.RUNNING and job.cancel_requested:
        return "stopping"
    return job.error or job.version or job.note or ""


def waits_for(job: Job, now: float) -> str:
    """What a queued job is waiting for."""
    if job.due_at is None:
        return f"waiting for more annotations, {job.new_annotations} so far"
    if job.due_at > now:
        return f"starts {ago(job.due_at, now)}"
    return f"waiting for a worker, due {ago(job.due_at, now)}"


def job_cells(jobs: Iterable[Job], now: float) -> list[Cells]:
    """The rows of the list of jobs."""
    found = [_job_cells(job, now) for job in jobs]
    names = short_ids([cells["job"] for cells in found])
    for cells in found:
        cells["job"] = names[cells["job"]]
    return found


def _job_cells(job: Job, now: float) -> Cells:
    is_known = job.status is JobStatus.RUNNING and job.progress is not None
    return {
        "job": job.id,
        "project": job.project,
        "event": job.event,
        "status": job.status.value,
        "progress": f"{job.progress:.0%}" if is_known else "",
        "created": ago(job.created_at, now),
        "took": took(job, now),
        "metrics": _one_line(metrics_of(job.metrics)),
        "result": _one_line(outcome(job, now)),
    }


def version_cells(listed: Sequence[Mapping[str, Any]]) -> list[Cells]:
    """The rows of the list of versions, as ``overview.list_versions`` returns them."""
    names = short_ids([one["job"] for one in listed if one["job"]])
    return [_version_cells(one, names) for one in listed]


def _version_cells(one: Mapping[str, Any], names: Mapping[str, str]) -> Cells:
    pinned = ", pinned" if one.get("pinned") else ""
    return {
        "version": one["version"],
        "active": f"yes{pinned}" if one["active"] else "",
        "created": ago(one["created_at"]) if one["created_at"] else "base model",
        "job": names.get(one["job"], ""),
        "metrics": _one_line(metrics_of(one["metrics"])),
        "weights": _one_line(one["tag"] or ""),
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())
