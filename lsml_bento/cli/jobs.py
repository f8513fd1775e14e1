"""``lsml-bento jobs``: what is trained, was trained, and waits for it."""

from __future__ import annotations

import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsml_bento.cli.opening import opened
from lsml_bento.cli.options import backend_option, debug_option, json_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from lsml_bento.jobs.job import Job
    from lsml_bento.state.store import State

STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
"""``JobStatus``, without what importing it costs."""

_LIMIT = 100
_WATCH_S = 1.0
_ROWS_AROUND = 4


@click.group()
def jobs() -> None:
    """List, show, cancel and retry training jobs.

    A job is named by its id, or by the beginning or the end of it.
    """


@jobs.command("list")
@backend_option
@click.option("--project", metavar="PROJECT", help="Only the jobs of this project.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those of a status.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=_LIMIT,
    show_default=True,
    help="The newest so many.",
)
@click.option("--watch", is_flag=True, help="Show it anew each second, until Ctrl-C.")
@json_option
@debug_option()
def list_(
    directory: Path,
    project: str | None,
    status: str | None,
    limit: int,
    watch: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """List jobs, the newest first."""
    if watch and as_json:
        raise click.UsageError("--watch is for people: leave out --json")
    with opened(directory) as backend:
        from lsml_bento.cli.printing import print_jobs, print_json
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
            click.echo("There are no such jobs." if project or status else _NONE)


_NONE = (
    "There are no jobs: an annotation in Label Studio makes one, or `lsml-bento train`."
)


def _watch(read: Callable[[int], list[Job]]) -> None:
    from functools import partial

    from rich.live import Live

    from lsml_bento.cli.following import patiently
    from lsml_bento.cli.showing import console, jobs_table

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
@backend_option
@click.option(
    "--follow",
    is_flag=True,
    help="Stay until it ends; the exit code is 0 if it succeeded.",
)
@json_option
@debug_option()
def show(job: str, directory: Path, follow: bool, as_json: bool, debug: bool) -> None:
    """Show all that is known of a job, with the end of its log."""
    with opened(directory) as backend:
        from lsml_bento.projects.lookup import job_called

        found = job_called(backend.state, job)
        if follow:
            hint = backend.command("jobs", "show", found.id, "--follow")
            see_through(backend.state, found, as_json=as_json, hint=hint)
        elif as_json:
            _print_details(backend.state, found)
        else:
            _show(found, backend.state)


def see_through(state: State, job: Job, *, as_json: bool, hint: str) -> None:
    """Follow a job to its end.

    Raises:
        SystemExit: with 1 unless it succeeded.
    """
    from rich.console import Console

    from lsml_bento.cli.following import follow, verdict
    from lsml_bento.cli.showing import console
    from lsml_bento.jobs.job import JobStatus
    from lsml_bento.jobs.job_store import JobStore

    # JSON alone goes to the output.
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
@backend_option
@json_option
@debug_option()
def cancel(job: str, directory: Path, as_json: bool, debug: bool) -> None:
    """Take a job off the queue, or tell its run to stop."""
    with opened(directory) as backend:
        from lsml_bento.cli.printing import print_json
        from lsml_bento.jobs.job_store import JobStore
        from lsml_bento.projects.lookup import job_called

        before = job_called(backend.state, job)
        found = JobStore(backend.state).cancel(before.id)
        if as_json:
            print_json(found.public())
        elif not found.status.is_end:
            click.echo(f"Job {found.id} is told to stop: it has 5 seconds.")
        elif before.status.is_end:
            click.echo(f"Job {found.id} has ended already: {found.status.value}.")
        else:
            click.echo(f"Job {found.id} is cancelled.")


@jobs.command()
@click.argument("job", metavar="ID")
@backend_option
@json_option
@debug_option()
def retry(job: str, directory: Path, as_json: bool, debug: bool) -> None:
    """Queue a job again that failed or was cancelled."""
    with opened(directory) as backend:
        from lsml_bento.cli.printing import print_json
        from lsml_bento.jobs.job import JobStatus
        from lsml_bento.jobs.job_store import JobStore
        from lsml_bento.projects.lookup import job_called

        wanted = job_called(backend.state, job).id
        found = JobStore(backend.state).retry(wanted)
        if as_json:
            print_json(found.public())
        elif found.id != wanted:
            click.echo(f"Job {found.id} of the project waits already, and begins now.")
        elif found.status is JobStatus.QUEUED:
            click.echo(f"Job {found.id} is queued again.")
        else:
            click.echo(
                f"Job {found.id} is {found.status.value}: only one that failed or was "
                "cancelled is queued again."
            )
        if found.status is JobStatus.QUEUED:
            backend.dispatch(found)


def _print_details(state: State, job: Job) -> None:
    from lsml_bento.cli.printing import print_json
    from lsml_bento.jobs.job_store import JobStore

    print_json({**job.details(), "log": JobStore(state).log_tail(job.id)})


def _show(job: Job, state: State) -> None:
    from rich.text import Text

    from lsml_bento.cli.showing import console, facts, status_of
    from lsml_bento.cli.words import metrics_of, waits_for
    from lsml_bento.jobs.job import JobStatus
    from lsml_bento.jobs.job_store import JobStore

    shown = console()
    rows: dict[str, Any] = {"job": job.id, "project": job.project, "event": job.event}
    rows["status"] = status_of(job)
    if job.status is JobStatus.QUEUED:
        rows["waits"] = waits_for(job, time.time())
    if job.cancel_requested and not job.status.is_end:
        rows["told to stop"] = "yes"
    rows |= {
        "progress": None if job.progress is None else f"{job.progress:.0%}",
        "metrics": metrics_of(job.metrics, most=len(job.metrics)),
        "version": job.version,
        "error": None if job.error is None else Text(job.error, "red"),
        "note": job.note,
        "gathered": f"{job.events} events, {job.new_annotations} annotations",
        "learns from": job.source,
        "attempts": str(job.attempts),
        "worker": job.worker,
    }
    shown.print(facts({**rows, **_times(job)}))
    for title, lines in (
        ("traceback", (job.traceback or "").splitlines()),
        ("log", JobStore(state).log_tail(job.id)),
    ):
        if lines:
            shown.print(Text(f"\n{title}", "dim"))
            shown.print(Text("\n".join(lines)), soft_wrap=True)


def _times(job: Job) -> dict[str, str | None]:
    from lsml_bento.cli.words import at, took

    told = job.details()
    return {
        "created": at(told["created_at"]),
        "due": at(told["due_at"]) if not job.status.is_end else None,
        "started": at(told["started_at"]),
        "finished": at(told["finished_at"]),
        "took": took(job, time.time()) if job.started_at else None,
    }
