"""``preannotate`` with tasks out of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lsml_bento.cli.bulk_run import BulkRun
from lsml_bento.cli.engines import opened
from lsml_bento.preannotation.checkpoint import FileCheckpoint, alone
from lsml_bento.preannotation.engine import Inference
from lsml_bento.preannotation.file_sink import PredictionFile
from lsml_bento.preannotation.output_file import Paths, first_failures, has_failed_tasks
from lsml_bento.preannotation.retry import SecondTry
from lsml_bento.preannotation.runner import FirstLook
from lsml_bento.preannotation.selection import PreannotationError
from lsml_bento.preannotation.task_file import Place, TaskFile


async def annotate_file(run: BulkRun, tasks: TaskFile) -> None:
    """Predict a file's tasks into another file, or only predict them.

    Raises:
        LsmlError: if it can not be done, or not to the end.
    """
    asked = run.asked
    label_config = _read(asked.label_config or Path("label_config.xml").absolute())
    with opened(run.place, None, asked.project, asked.backend) as (engine, project):
        async with run.inference(engine, project, label_config) as (inference, look):
            if asked.output is None:
                pages = tasks.pages(Place(), run.place.max_batch_size, asked.limit)
                await run.rehearse(inference, look, pages, tasks.size)
                return
            begun = FileCheckpoint(
                tasks=tasks.digest(),
                label_config=hashlib.sha256(label_config.encode()).hexdigest(),
                model_version=run.report.model_version,
            )
            with alone(Paths.of(asked.output).checkpoint):
                output = PredictionFile(
                    asked.output, begun, tasks.unit, overwrite=asked.overwrite
                )
                await _fill(run, inference, look, tasks, output)


async def _fill(
    run: BulkRun,
    inference: Inference,
    look: FirstLook,
    tasks: TaskFile,
    output: PredictionFile,
) -> None:
    """Go on with an output, or give the tasks that failed in it another try."""
    report, before = run.report, output.checkpoint
    size, limit = run.place.max_batch_size, run.asked.limit
    left = None if limit is None else max(0, limit - before.done)
    report.is_repeated = before.ended or left == 0
    now = before
    if not report.is_repeated:
        report.tally.at = before.offset
        with output:
            pages = tasks.pages(output.place, size, left)
            await run.go(inference, output, look, pages, tasks.size)
            output.ended = tasks.ended
        now = output.checkpoint
    elif has_failed_tasks(output.paths.failed):
        with SecondTry(output.paths.output, before) as second:
            failed = second.pages(size)
            await run.go(inference, second, look, failed, before.failures)
        now = second.checkpoint
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
            f"the label config {path} can not be read: {reason}; save your project's "
            "(Settings > Labeling Interface > Code) and name it with --label-config"
        ) from error
