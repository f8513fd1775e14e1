"""``lsml-bento jobs``: list, show, cancel and retry training jobs."""

from __future__ import annotations

import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsml_bento.cli.options import backend_options, command_line, dispatch, open_backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from lsml_bento.jobs.job import Job
    from lsml_bento.state.store import State

STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
"""The values of ``JobStatus``, whose import would slow down every command."""

_WATCH_S = 1.0
_ROWS_AROUND = 4


@click.group()
def jobs() -> None:
    """List, show, cancel and retry training jobs.

    ID is the id of a job, or its beginning or end.
    """


@jobs.command("list")
@click.option("--project", metavar="PROJECT", help="Show only this project's jobs.")
@click.option(
    "--status",
    type=click.Choice(STATUSES),
    metavar="STATUS",
    help="Show only jobs with this status.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Show at most N jobs.",
    metavar="N",
)
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
@backend_options
def list_(
    directory: Path,
    project: str | None,
    status: str | None,
    limit: int,
    watch: bool,
    as_json: bool,
) -> None:
    """List jobs, newest first.

    STATUS is queued, running, succeeded, failed or cancelled.
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json cannot be combined")
    with open_backend(directory) as backend:
        from lsml_bento.cli.text import print_jobs, print_json
        from lsml_bento.jobs.job import JobStatus
        from lsml_bento.jobs.job_store import JobStore

        job_store = JobStore(backend.state)
        wanted = JobStatus(status) if status else None
        if watch:
            _watch(lambda most: job_store.jobs(project, wanted, min(limit, most)))
            return
        found = job_store.each_job(project, wanted, limit)
        if as_json:
            print_json({"jobs": [job.public() for job in found]})
        elif (newest := next(found, None)) is not None:
            print_jobs(chain([newest], found))
        else:
            click.echo("No jobs found." if project or status else _NO_JOBS)


_NO_JOBS = "No jobs yet. Annotate in Label Studio or run `lsml-bento train`."


def _watch(read: Callable[[int], list[Job]]) -> None:
    from functools import partial

    from rich.live import Live

    from lsml_bento.cli.following import patiently
    from lsml_bento.cli.tables import console, jobs_table

    shown = console()
    with Live(console=shown, refresh_per_second=8) as live:
        try:
            while True:
                rows = max(1, shown.height - _ROWS_AROUND)
                live.update(jobs_table(patiently(partial(read, rows)), shown.width))
                time.sleep(_WATCH_S)
        except KeyboardInterrupt:
            return


@jobs.command()
@click.argument("job", metavar="ID")
@click.option(
    "--follow",
    is_flag=True,
    help="Wait for the end of the job; exit with 0 if it succeeded.",
)
@backend_options
def show(job: str, directory: Path, follow: bool, as_json: bool) -> None:
    """Show the details of a job and the end of its log."""
    with open_backend(directory) as backend:
        from lsml_bento.projects.lookup import job_called

        found = job_called(backend.state, job)
        if follow:
            hint = command_line(directory, "jobs", "show", found.id, "--follow")
            follow_job(backend.state, found, as_json=as_json, hint=hint)
        elif as_json:
            _print_details(backend.state, found)
        else:
            _print_facts(found, backend.state)


def follow_job(state: State, job: Job, *, as_json: bool, hint: str) -> None:
    """Follow a job to its end.

    Raises:
        SystemExit: with 1 unless it succeeded.
    """
    from rich.console import Console

    from lsml_bento.cli.following import follow, verdict
    from lsml_bento.cli.tables import console
    from lsml_bento.jobs.job import JobStatus
    from lsml_bento.jobs.job_store import JobStore

    # With --json, stdout holds nothing but the JSON.
    shown = Console(highlight=False, stderr=True) if as_json else console()
    ended = follow(JobStore(state), job, shown, hint)
    if as_json:
        _print_details(state, ended)
    else:
        shown.print(verdict(ended), soft_wrap=True)
    if ended.status is not JobStatus.SUCCEEDED:
        raise SystemExit(1)


@jobs.command()
@click.argument("job", metavar="ID")
@backend_options
def cancel(job: str, directory: Path, as_json: bool) -> None:
    """Cancel a queued job, or stop a running one."""
    with open_backend(directory) as backend:
        from lsml_bento.cli.text import print_json
        from lsml_bento.jobs.job_store import JobStore
        from lsml_bento.projects.lookup import job_called

        before = job_called(backend.state, job)
        found = JobStore(backend.state).cancel(before.id)
        if as_json:
            print_json(found.public())
        elif not found.status.is_end:
            click.echo(f"Stopping job {found.id}; it is killed after 5 s.")
        elif before.status.is_end:
            click.echo(f"Job {found.id} has already ended: {found.status.value}.")
        else:
            click.echo(f"Cancelled job {found.id}.")


@jobs.command()
@click.argument("job", metavar="ID")
@backend_options
def retry(job: str, directory: Path, as_json: bool) -> None:
    """Queue a failed or cancelled job again."""
    with open_backend(directory) as backend:
        from lsml_bento.cli.text import print_json
        from lsml_bento.jobs.job import JobStatus
        from lsml_bento.jobs.job_store import JobStore
        from lsml_bento.projects.lookup import job_called

        wanted = job_called(backend.state, job).id
        found = JobStore(backend.state).retry(wanted)
        if as_json:
            print_json(found.public())
        elif found.id != wanted:
            click.echo(
                f"Job {found.id} of this project was already queued and starts now."
            )
        elif found.status is JobStatus.QUEUED:
            click.echo(f"Queued job {found.id} again.")
        else:
            click.echo(
                f"Job {found.id} is {found.status.value}: only failed or cancelled "
                "jobs can be retried."
            )
        if found.status is JobStatus.QUEUED:
            dispatch(backend, found, directory)


def _print_details(state: State, job: Job) -> None:
    from lsml_bento.cli.text import print_json
    from lsml_bento.jobs.job_store import JobStore

    print_json({**job.details(), "log": JobStore(state).log_tail(job.id)})


def _print_facts(job: Job, state: State) -> None:
    from rich.text import Text

    from lsml_bento.cli.tables import console, facts, status_of
    from lsml_bento.cli.text import at, metrics_of, took, waits_for
    from lsml_bento.jobs.job import JobStatus
    from lsml_bento.jobs.job_store import JobStore

    shown = console()
    rows: dict[str, Any] = {"job": job.id, "project": job.project, "event": job.event}
    rows["status"] = status_of(job)
    if job.status is JobStatus.QUEUED:
        rows["queue"] = waits_for(job, time.time())
    if job.cancel_requested and not job.status.is_end:
        rows["stopping"] = "yes"
    rows |= {
        "progress": None if job.progress is None else f"{job.progress:.0%}",
        "metrics": metrics_of(job.metrics, most=len(job.metrics)),
        "version": job.version,
        "error": None if job.error is None else Text(job.error, "red"),
        "note": job.note,
        "collected": f"{job.events} events, {job.new_annotations} annotations",
        "tasks from": job.source,
        "attempts": str(job.attempts),
        "worker": job.worker,
    }
    details, times = job.details(), ["created", "due", "started", "finished"]
    if job.status.is_end:
        times.remove("due")
    rows |= {name: at(details[f"{name}_at"]) for name in times}
    if job.started_at:
        rows["took"] = took(job, time.time())
    shown.print(facts(rows))
    for title, lines in (
        ("traceback", (job.traceback or "").splitlines()),
        ("log", JobStore(state).log_tail(job.id)),
    ):
        if lines:
            shown.print(Text(f"\n{title}", "dim"))
            shown.print(Text("\n".join(lines)), soft_wrap=True)
