"""Predict the tasks of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lsml_bento.contract import Project
from lsml_bento.preannotation.durable_files import locked
from lsml_bento.preannotation.engine import Engine
from lsml_bento.preannotation.pipeline import Batches
from lsml_bento.preannotation.prediction_file import (
    FileCheckpoint,
    Paths,
    PredictionFile,
    first_failures,
    has_failed_tasks,
)
from lsml_bento.preannotation.retry import Retry
from lsml_bento.preannotation.run import LabelConfigCheck, Run
from lsml_bento.preannotation.selection import PreannotationError
from lsml_bento.preannotation.task_file import Position, TaskFile


async def predict_file(
    run: Run, tasks: TaskFile, engine: Engine, project: Project
) -> None:
    """Predict a file's tasks into another file, or only predict them.

    Raises:
        LsmlError: if the run cannot start or continue.
    """
    options = run.options
    label_config = _read(options.label_config or Path("label_config.xml").absolute())
    check = LabelConfigCheck(label_config)
    async with run.batches(engine, project, label_config) as batches:
        if options.output is None:
            pages = tasks.pages(Position(), run.batch_size, options.limit)
            await run.predict_only(batches, check, pages, tasks.size)
            return
        start = FileCheckpoint(
            tasks=tasks.digest(),
            label_config=hashlib.sha256(label_config.encode()).hexdigest(),
            model_version=run.report.model_version,
        )
        with locked(Paths.of(options.output).checkpoint):
            output = PredictionFile(
                options.output, start, tasks.unit, overwrite=options.overwrite
            )
            await _fill(run, batches, check, tasks, output)


async def _fill(
    run: Run,
    batches: Batches,
    check: LabelConfigCheck,
    tasks: TaskFile,
    output: PredictionFile,
) -> None:
    """Continue an output, or retry the tasks that failed in a complete one."""
    report, before = run.report, output.checkpoint
    size, limit = run.batch_size, run.options.limit
    left = None if limit is None else max(0, limit - before.done)
    report.was_complete = before.ended or left == 0
    now = before
    if not report.was_complete:
        report.totals.at = before.offset
        with output:
            pages = tasks.pages(output.position, size, left)
            await run.predict(batches, output, check, pages, tasks.size)
            output.ended = tasks.ended
        now = output.checkpoint
    elif has_failed_tasks(output.paths.failed):
        with Retry(output.paths.output, before) as retry:
            failed = retry.pages(size)
            await run.predict(batches, retry, check, failed, before.failures)
        now = retry.checkpoint
    report.failed = now.failures
    if now.failures:
        report.failed_file = output.paths.failed
        report.failures = first_failures(output.paths.failed)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PreannotationError(
            f"the label config {path} cannot be read: {reason}; save your project's "
            "(Settings > Labeling Interface > Code) and pass it with --label-config"
        ) from error
