"""What is known of jobs and versions, in words: the cells of their tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from lsml_bento.jobs.job import Job, JobStatus
from lsml_bento.projects.lookup import short_ids

_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))
_METRICS = 3

Cells = dict[str, str]
"""What a table says of one thing, by the titles of its columns."""


def ago(moment: float | str | None, now: float | None = None) -> str:
    """A moment as a person says it: ``"3 min ago"``, ``"in 2 s"``; ``"-"`` for none.

    Args:
        moment: seconds since the epoch, or as ``contract.iso_time`` writes them.
        now: in seconds since the epoch.
    """
    if moment is None:
        return "-"
    passed = (time.time() if now is None else now) - seconds_of(moment)
    if abs(passed) < 1:
        return "now"
    return f"in {span(-passed)}" if passed < 0 else f"{span(passed)} ago"


def at(moment: str | None) -> str | None:
    """A moment in full, and how long ago it was."""
    return None if moment is None else f"{moment} ({ago(moment)})"


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


def job_cells(jobs: Iterable[Job], now: float) -> list[Cells]:
    """What the list of jobs says of each."""
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
    """What the list of versions says of each; they are ``overview.list_versions``'."""
    names = short_ids([one["job"] for one in listed if one["job"]])
    return [_version_cells(one, names) for one in listed]


def _version_cells(one: Mapping[str, Any], names: Mapping[str, str]) -> Cells:
    pinned = ", pinned" if one.get("pinned") else ""
    return {
        "version": one["version"],
        "serves": f"yes{pinned}" if one["active"] else "",
        "created": ago(one["created_at"]) if one["created_at"] else "the base",
        "job": names.get(one["job"], ""),
        "metrics": _one_line(metrics_of(one["metrics"])),
        "weights": _one_line(one["tag"] or ""),
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())
