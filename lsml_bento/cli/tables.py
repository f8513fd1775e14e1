"""Jobs and versions as coloured tables."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lsml_bento.cli.text import Cells, job_cells, version_cells
from lsml_bento.jobs.job import Job, JobStatus

_STYLES = {
    JobStatus.QUEUED: "cyan",
    JobStatus.RUNNING: "bold blue",
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "bold red",
    JobStatus.CANCELLED: "dim",
}
_BAR = 12
_WIDE = 110

Row = Mapping[str, RenderableType]
"""One row of a table, by column title."""


def console() -> Console:
    """The console that tables are printed on."""
    return Console(highlight=False)


def jobs_table(jobs: Sequence[Job], width: int, now: float | None = None) -> Table:
    """One line per job; narrow tables have fewer columns."""
    cells = job_cells(jobs, time.time() if now is None else now)
    left_out = {"event", "metrics"} if width < _WIDE else set()
    if not any(job.status is JobStatus.RUNNING for job in jobs):
        left_out.add("progress")
    return _table(list(map(_job_row, jobs, cells)), left_out)


def _job_row(job: Job, cells: Cells) -> Row:
    is_running = job.status is JobStatus.RUNNING
    return {
        **cells,
        "status": status_of(job),
        "progress": _bar(job.progress, cells["progress"]) if is_running else "",
        "metrics": _short(cells["metrics"]),
        "result": _short(cells["result"], "red" if job.error else ""),
    }


def versions_table(listed: Sequence[Mapping[str, Any]], width: int) -> Table:
    """One line per version, as ``overview.list_versions`` returns them."""
    left_out = {"weights"} if width < _WIDE else set()
    return _table(list(map(_version_row, listed, version_cells(listed))), left_out)


def _version_row(one: Mapping[str, Any], cells: Cells) -> Row:
    return {
        **cells,
        "version": Text(cells["version"], "bold" if one["active"] else ""),
        "active": Text(cells["active"], "green"),
        "metrics": _short(cells["metrics"]),
        "weights": _short(cells["weights"]),
    }


def _table(rows: Sequence[Row], left_out: Collection[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    titles = [title for title in (rows[0] if rows else ()) if title not in left_out]
    for title in titles:
        # In a narrow terminal only these columns are wrapped or shortened.
        table.add_column(title, no_wrap=title not in {"metrics", "result", "weights"})
    for row in rows:
        table.add_row(*(_cell(row[title]) for title in titles))
    return table


def _cell(value: RenderableType) -> RenderableType:
    return Text(value) if isinstance(value, str) else value


def _short(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _bar(progress: float | None, share: str) -> Table:
    line = Table.grid(padding=(0, 1, 0, 0))
    bar = ProgressBar(1.0, progress or 0.0, width=_BAR, pulse=progress is None)
    line.add_row(bar, f"{share:>4}")
    return line


def facts(rows: Mapping[str, RenderableType | None]) -> Table:
    """One line per fact, without those that are None or empty."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value not in (None, ""):
            table.add_row(name, _cell(value))
    return table


def status_of(job: Job) -> Text:
    """The status of a job in its colour."""
    return Text(job.status.value, _STYLES[job.status])
