"""``preannotate`` with the tasks of a project of Label Studio."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass

import click

from lsml_bento.adapters.label_studio_api.predictions import LabelStudioPredictions
from lsml_bento.cli.bulk_run import Asked, BulkRun
from lsml_bento.cli.engines import opened
from lsml_bento.contract import Project
from lsml_bento.errors import LsmlError
from lsml_bento.preannotation.checkpoint import ProjectCheckpoint, alone
from lsml_bento.preannotation.engine import Engine, Inference
from lsml_bento.preannotation.output_file import writing
from lsml_bento.preannotation.project_sink import (
    PredictionWriter,
    SelectedTasks,
    name_of,
)
from lsml_bento.preannotation.runner import FirstLook
from lsml_bento.preannotation.selection import (
    PreannotationError,
    ProjectPredictions,
    Selection,
    Unreachable,
    VersionChanged,
)
from lsml_bento.settings import Settings

_LOOK_BACK_S = 600.0
"""How often a watch looks at tasks that it has passed: they may have failed, meet the
filters only now, or have come late with a lower id."""


async def annotate_project(run: BulkRun) -> None:
    """Predict a project's tasks, and write the predictions back.

    Raises:
        LsmlError: if it can not be done, or not to the end.
    """
    asked = run.asked
    with closing(_connected(asked, run.place.settings)) as predictions:
        project, label_config = await run.apart(predictions.project)
        with opened(run.place, project, None, asked.backend) as (engine, _):
            opening = run.inference(engine, project, label_config)
            async with opening as (inference, look):
                passes = Passes(run, predictions, engine, inference, look)
                if asked.dry_run:
                    await passes.rehearse()
                else:
                    await passes.write(project)


@dataclass
class Passes:
    """Passes over a project: one, or as long as it is watched.

    Attributes:
        looked_back: when the last pass began that saw all tasks, on the monotonic
            clock; None before its end.
        told: the last trouble that was told.
    """

    run: BulkRun
    predictions: ProjectPredictions
    engine: Engine
    inference: Inference
    look: FirstLook
    looked_back: float | None = None
    told: str = ""

    async def rehearse(self) -> None:
        """Predict, and write nothing."""
        run, limit, selection = self.run, self.run.asked.limit, self._selection()
        total = await run.apart(self._count, selection, -1, limit)
        version = None if run.asked.overwrite else run.report.model_version
        tasks = SelectedTasks(self.predictions, selection, version)
        await run.rehearse(self.inference, self.look, tasks.pages(-1, limit), total)

    async def write(self, project: Project) -> None:
        """Predict, and write the predictions back."""
        run, asked, report = self.run, self.run.asked, self.run.report
        home = run.place.home / "preannotate"
        begun = ProjectCheckpoint(
            model_version=report.model_version,
            selection=name_of(self._selection(), overwrite=asked.overwrite),
        )
        with writing(home):
            home.mkdir(parents=True, exist_ok=True)
        with alone(home / str(project)):
            writer = PredictionWriter(
                self.predictions, home, str(project), begun, overwrite=asked.overwrite
            )
            with writer, run.interruption.stopping(writer.stop):
                while await self._pass(writer):
                    if not await self._renew(writer, project):
                        break
        report.failed, report.failures = report.tally.failed, report.tally.failures
        report.failed_file = writer.failed if report.failed else None

    async def _pass(self, writer: PredictionWriter) -> bool:
        """Predict what is there; whether to look again."""
        run, asked, tally = self.run, self.run.asked, self.run.report.tally
        began, looked_back = time.monotonic(), self.looked_back
        is_again = (
            looked_back is not None
            and not asked.overwrite
            and began - looked_back >= _LOOK_BACK_S
        )
        if is_again:
            self._forget_failures(writer)
        writer.ended = False
        try:
            await self._predict(writer, is_again=is_again)
            if is_again or looked_back is None:
                self.looked_back = began
            writer.ended = run.interruption.signal is None
        except asyncio.CancelledError:
            if run.interruption.signal is None:
                raise
        except (Unreachable, VersionChanged) as error:
            if asked.watch_s is None:
                raise
            self._tell(error)
        if run.interruption.signal is not None:
            return False
        if asked.limit is not None and tally.predicted + tally.failed >= asked.limit:
            return False
        if asked.watch_s is None:
            return False
        return not await run.interruption.wait(asked.watch_s)

    async def _predict(self, writer: PredictionWriter, *, is_again: bool) -> None:
        """Predict the tasks that are new, or again all that have no prediction."""
        run, asked, tally = self.run, self.run.asked, self.run.report.tally
        version = None if asked.overwrite else run.report.model_version
        selection = self._selection(is_again=is_again)
        above = -1 if is_again else writer.above
        limit = asked.limit
        if limit is not None:
            limit -= tally.predicted + tally.failed
        total = await run.apart(self._count, selection, above, limit)
        tasks = SelectedTasks(self.predictions, selection, version, writer.empty)
        pages = tasks.pages(above, limit)
        await run.go(self.inference, writer, self.look, pages, total)

    async def _renew(self, writer: PredictionWriter, project: Project) -> bool:
        """Predict with the version and for the label config of now.

        Returns:
            False if a signal came before there was one.
        """
        run, watch_s = self.run, self.run.asked.watch_s
        try:
            while (version := await self._prepared(project)) is None:
                if await run.interruption.wait(watch_s or 0.0):
                    return False
        except asyncio.CancelledError:
            if run.interruption.signal is None:
                raise
            return False
        if version != run.report.model_version:
            run.report.model_version = version
            writer.follow(version)
            self._forget_failures(writer)
            self.looked_back = None
        return True

    async def _prepared(self, project: Project) -> str | None:
        """The version that predicts now; None while it does not."""
        try:
            _, config = await self.run.apart(self.predictions.project)
        except Unreachable as error:
            self._tell(error)
            return None
        try:
            version = await self.run.until_signal(self.engine.prepare(project, config))
        except LsmlError as error:
            self._tell(error)
            return None
        self.told = ""
        return version

    def _tell(self, error: LsmlError) -> None:
        """Say what a watch waits for, once."""
        if str(error) != self.told:
            self.told = str(error)
            click.echo(f"lsml-bento: {error}", err=True)

    def _forget_failures(self, writer: PredictionWriter) -> None:
        """What failed is tried again, and told again if it fails again."""
        tally = self.run.report.tally
        tally.failed, tally.failures, tally.at = 0, [], 0
        writer.forget_failures()

    def _selection(self, *, is_again: bool = False) -> Selection:
        run, asked = self.run, self.run.asked
        is_missing = asked.only_missing or is_again
        missing = run.report.model_version if is_missing else None
        return Selection(asked.filters, asked.view, missing)

    def _count(self, selection: Selection, above: int, limit: int | None) -> int | None:
        """Tasks that are ahead; nobody knows how many are behind an id."""
        if above >= 0:
            return None
        found = self.predictions.count(selection)
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
