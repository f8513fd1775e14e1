"""Follow a job until it ends: a progress bar, and the log lines of its run."""

from __future__ import annotations

import time

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
)

from lsml_bento.cli.tables import status_of
from lsml_bento.cli.text import metrics_of, outcome
from lsml_bento.errors import StateError
from lsml_bento.jobs.job import Job, JobStatus
from lsml_bento.jobs.job_store import JobStore

_POLL_S = 0.5
_TIMEOUT_S = 30.0
_INTERRUPTED = 130

patiently = Retrying(
    retry=retry_if_exception_type(StateError),
    wait=wait_fixed(_POLL_S),
    stop=stop_after_delay(_TIMEOUT_S),
    reraise=True,
)
"""Calls a function again while the state does not answer."""


def follow(job_store: JobStore, job: Job, console: Console, hint: str) -> Job:
    """Show the progress of a job until it ends.

    Args:
        job_store: that holds the job.
        job: to follow.
        console: shows a bar on a terminal, and log lines everywhere.
        hint: the command that follows the job again.

    Returns:
        The finished job.

    Raises:
        JobNotFound: if the job was deleted meanwhile.
        StateError: if the state did not answer for 30 seconds.
        SystemExit: after Ctrl-C, which does not cancel the job.
    """
    try:
        with _bar(console) as bar:
            return _watch(job_store, job, bar)
    except KeyboardInterrupt:
        if not job.status.is_end:
            click.echo(
                f"The job keeps running. Follow it again with `{hint}`.", err=True
            )
        raise SystemExit(_INTERRUPTED) from None


def verdict(job: Job) -> Text:
    """Return the result of a job in one line."""
    text = Text(f"job {job.id} ").append(status_of(job))
    if result := outcome(job, time.time()):
        text.append(f": {result}")
    if job.metrics and job.status is JobStatus.SUCCEEDED:
        text.append(f" ({metrics_of(job.metrics)})")
    return text


def fresh(old: list[str], new: list[str]) -> list[str]:
    """Return the lines of a log's tail that are not in an earlier tail."""
    for start in range(len(old)):
        if old[start:] == new[: len(old) - start]:
            return new[len(old) - start :]
    return new


def _watch(job_store: JobStore, job: Job, bar: Progress) -> Job:
    shown = bar.add_task("", total=1.0, metrics="")
    seen: list[str] = []
    printed = ""
    while True:
        job = patiently(job_store.find, job.id)
        tail = patiently(job_store.log_tail, job.id)
        for line in fresh(seen, tail):
            bar.console.print(Text(line), soft_wrap=True)
        seen = tail
        if job.status.is_end:
            return job
        bar.update(
            shown,
            description=_description(job),
            completed=job.progress or 0.0,
            total=None if _is_vague(job) else 1.0,
            metrics=metrics_of(job.metrics),
        )
        if bar.disable and printed != job.status.value:
            printed = job.status.value
            bar.console.print(Text(_description(job)), soft_wrap=True)
        time.sleep(_POLL_S)


def _is_vague(job: Job) -> bool:
    return job.status is JobStatus.RUNNING and job.progress is None


def _description(job: Job) -> str:
    result = outcome(job, time.time())
    return f"job {job.id} {job.status.value}" + (f": {result}" if result else "")


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[metrics]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
