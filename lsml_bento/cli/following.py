"""A job followed to its end: a progress bar, and the lines that its run writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from lsml_bento.cli.showing import status_of
from lsml_bento.cli.words import metrics_of, outcome
from lsml_bento.errors import StateError
from lsml_bento.jobs.job import Job, JobStatus
from lsml_bento.jobs.job_store import JobStore

_LOOK_S = 0.5
_PATIENCE_S = 30.0
_INTERRUPTED = 130

_Answer = TypeVar("_Answer")


def follow(job_store: JobStore, job: Job, console: Console, hint: str) -> Job:
    """Show how far a job is until it ends.

    Args:
        job_store: where it is.
        job: to follow.
        console: with a terminal, a bar is shown; lines are printed on any.
        hint: the command that follows it again.

    Returns:
        The job as it ended.

    Raises:
        JobNotFound: if it was forgotten meanwhile.
        StateError: if the state did not answer for half a minute.
        SystemExit: after Ctrl-C, which leaves the job alone.
    """
    try:
        with _bar(console) as bar:
            return _watch(job_store, job, bar)
    except KeyboardInterrupt:
        if not job.status.is_end:
            click.echo(f"The job goes on: `{hint}` shows it again.", err=True)
        raise SystemExit(_INTERRUPTED) from None


def verdict(job: Job) -> Text:
    """How a job ended, in a line."""
    said = Text(f"job {job.id} ").append(status_of(job))
    if told := outcome(job, time.time()):
        said.append(f": {told}")
    if job.metrics and job.status is JobStatus.SUCCEEDED:
        said.append(f" ({metrics_of(job.metrics)})")
    return said


def fresh(old: list[str], new: list[str]) -> list[str]:
    """The lines of a log's tail that an earlier tail did not have."""
    for start in range(len(old)):
        if old[start:] == new[: len(old) - start]:
            return new[len(old) - start :]
    return new


def _watch(job_store: JobStore, job: Job, bar: Progress) -> Job:
    shown = bar.add_task("", total=1.0, metrics="")
    seen: list[str] = []
    said = ""
    while True:
        job = patiently(partial(job_store.find, job.id))
        tail = patiently(partial(job_store.log_tail, job.id))
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
        if bar.disable and said != job.status.value:
            said = job.status.value
            bar.console.print(Text(_description(job)), soft_wrap=True)
        time.sleep(_LOOK_S)


def patiently(read: Callable[[], _Answer]) -> _Answer:
    """What the state says, asked again for half a minute.

    Raises:
        StateError: if it did not answer then.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return read()
        except StateError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_S)


def _is_vague(job: Job) -> bool:
    return job.status is JobStatus.RUNNING and job.progress is None


def _description(job: Job) -> str:
    told = outcome(job, time.time())
    return f"job {job.id} {job.status.value}" + (f": {told}" if told else "")


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
