"""``preannotate`` with the tasks of a project of Label Studio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass

import click

from lsml_bento.adapters.label_studio_tasks.predictions import LabelStudioPredictions
from lsml_bento.bulk import FirstLook
from lsml_bento.bulk_project import (
    PredictionWriter,
    ProjectPage,
    SelectedTasks,
    name_of,
)
from lsml_bento.checkpoint import ProjectCheckpoint, alone
from lsml_bento.cli.bulk_run import Asked, BulkRun
from lsml_bento.cli.engines import opened
from lsml_bento.inference import Engine, Inference
from lsml_bento.preannotation import (
    PreannotationError,
    ProjectPredictions,
    Selection,
    Unreachable,
)
from lsml_bento.settings import Settings
from lsml_bento.types import Project


async def annotate_project(run: BulkRun) -> None:
    """Predict a project's tasks, and write the predictions back.

    Raises:
        LsmlError: if it can not be done, or not to the end.
    """
    asked = run.asked
    with closing(_connected(asked, run.place.settings)) as predictions:
        project, label_config = predictions.project()
        with opened(run.place, project, None, asked.backend) as (engine, _):
            opening = run.inference(engine, project, label_config)
            async with opening as (inference, look):
                passes = _Passes(run, predictions, engine, inference, look)
                if asked.dry_run:
                    await passes.rehearse()
                else:
                    await passes.write(project)


@dataclass
class _Passes:
    """Passes over a project: one, or as long as it is watched."""

    run: BulkRun
    predictions: ProjectPredictions
    engine: Engine
    inference: Inference
    look: FirstLook

    async def rehearse(self) -> None:
        """Predict, and write nothing."""
        total = self._count(-1, self.run.asked.limit)
        pages = self._pages(-1, self.run.asked.limit)
        await self.run.rehearse(self.inference, self.look, pages, total)

    async def write(self, project: Project) -> None:
        """Predict, and write the predictions back."""
        run, asked, report = self.run, self.run.asked, self.run.report
        home = run.place.home / "preannotate"
        begun = ProjectCheckpoint(
            model_version=report.model_version,
            selection=name_of(self._selection(), overwrite=asked.overwrite),
        )
        home.mkdir(parents=True, exist_ok=True)
        with alone(home / str(project)):
            writer = PredictionWriter(
                self.predictions, home, str(project), begun, overwrite=asked.overwrite
            )
            with writer, run.interruption.stopping(writer.stop):
                while await self._pass(writer):
                    await self._renew(project)
        report.failed, report.failures = report.tally.failed, report.tally.failures
        report.failed_file = writer.failed if report.failed else None

    async def _pass(self, writer: PredictionWriter) -> bool:
        """Predict what is there; whether to look again."""
        run, asked, tally = self.run, self.run.asked, self.run.report.tally
        left = asked.limit
        if left is not None:
            left -= tally.predicted + tally.failed
        try:
            total = await run.apart(self._count, writer.above, left)
            pages = self._pages(writer.above, left)
            await run.go(self.inference, writer, self.look, pages, total)
        except asyncio.CancelledError:
            if run.interruption.signal is None:
                raise
        except Unreachable as error:
            if asked.watch_s is None:
                raise
            click.echo(f"lsml-bento: {error}", err=True)
        if run.interruption.signal is not None:
            return False
        writer.ended = True
        if asked.limit is not None and tally.predicted + tally.failed >= asked.limit:
            return False
        if asked.watch_s is None:
            return False
        return not await run.interruption.wait(asked.watch_s)

    async def _renew(self, project: Project) -> None:
        """Predict with the version and for the label config of now."""
        with suppress(Unreachable, asyncio.CancelledError):
            _, config = await self.run.apart(self.predictions.project)
            report = self.run.report
            report.model_version = await self.engine.prepare(project, config)

    def _selection(self) -> Selection:
        asked = self.run.asked
        missing = self.run.report.model_version if asked.only_missing else None
        return Selection(asked.filters, asked.view, missing)

    def _pages(self, above: int, limit: int | None) -> Iterator[ProjectPage]:
        version = None if self.run.asked.overwrite else self.run.report.model_version
        tasks = SelectedTasks(self.predictions, self._selection(), version)
        return tasks.pages(above, limit)

    def _count(self, above: int, limit: int | None) -> int | None:
        """Tasks that are ahead; nobody knows how many are behind an id."""
        if above >= 0:
            return None
        found = self.predictions.count(self._selection())
        return found if found is None or limit is None else min(found, limit)


def _connected(asked: Asked, settings: Settings) -> LabelStudioPredictions:
    url, key = settings.label_studio_url, settings.label_studio_api_key
    if url is None or key is None:
        missing = "LABEL_STUDIO_URL" if url is None else "LABEL_STUDIO_API_KEY"
        raise PreannotationError(
            f"{missing} is not set: Label Studio's address and an access token of "
            "yours lead to the project; or read --tasks from a file"
        )
    assert asked.project is not None, "checked before"  # noqa: S101
    return LabelStudioPredictions(url, key, asked.project)
