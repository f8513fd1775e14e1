"""Lists and answers on the standard output."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import click
import orjson

from lsml_bento.cli.words import Cells, job_cells, version_cells
from lsml_bento.jobs.job import Job

_TABLE_MOST = 500
"""Rows that rich lays out in some tenths of a second; more come without colours."""


def print_json(found: Mapping[str, Any]) -> None:
    """Print what the HTTP API answers."""
    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def print_jobs(jobs: Iterable[Job]) -> None:
    """Print a line for each job."""
    rest = iter(jobs)
    first = list(islice(rest, _TABLE_MOST + 1))
    if len(first) > _TABLE_MOST:
        _print_lines(job_cells(chain(first, rest), time.time()))
        return
    from lsml_bento.cli.showing import console, jobs_table

    shown = console()
    shown.print(jobs_table(first, shown.width))


def print_versions(listed: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each version, as ``overview.list_versions`` gives them."""
    if len(listed) > _TABLE_MOST:
        _print_lines(version_cells(listed))
        return
    from lsml_bento.cli.showing import console, versions_table

    shown = console()
    shown.print(versions_table(listed, shown.width))


def _print_lines(rows: Sequence[Cells]) -> None:
    titles = [title for title in rows[0] if any(row[title] for row in rows)]
    cells = [titles, *([row[title] for title in titles] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    line = "  ".join(f"{{:{width}}}" for width in widths)
    click.echo("\n".join(line.format(*row).rstrip() for row in cells))
