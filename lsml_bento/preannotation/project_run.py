"""Predict the tasks of a Label Studio project, once or as long as it is watched."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from lsml_bento.contract import Project
from lsml_bento.errors import LsmlError
from lsml_bento.preannotation.durable_files import locked, writing
from lsml_bento.preannotation.engine import Batches, Engine
from lsml_bento.preannotation.project_writer import (
    ProjectCheckpoint,
    ProjectWriter,
    SelectedTasks,
    digest_of,
)
from lsml_bento.preannotation.run import LabelConfigCheck, Run
from lsml_bento.preannotation.selection import (
    ProjectPredictions,
    Selection,
    Unreachable,
    VersionChanged,
)

_FULL_PASS_EVERY_S = 600.0
"""How often a watch reads all tasks again: some may have failed, match the filters only
now, or have been added with a lower id."""


async def predict_project(
    run: Run,
    predictions: ProjectPredictions,
    engine: Engine,
    project: Project,
    label_config: str,
) -> None:
    """Predict a project's tasks, and write the predictions to the project."""
    check = LabelConfigCheck(label_config)
    async with run.batches(engine, project, label_config) as batches:
        project_run = ProjectRun(run, predictions, engine, batches, check)
        if run.options.dry_run:
            await project_run.predict_only()
        else:
            await project_run.write(project)


@dataclass
class ProjectRun:
    """Passes over the tasks of a project.

    Attributes:
        full_pass_at: when the last pass over all tasks began, on the monotonic clock;
            None before one was complete.
        last_problem: the last one that was printed.
    """

    run: Run
    predictions: ProjectPredictions
    engine: Engine
    batches: Batches
    check: LabelConfigCheck
    full_pass_at: float | None = None
    last_problem: str = ""

    async def predict_only(self) -> None:
        """Predict and write nothing."""
        run, limit, selection = self.run, self.run.options.limit, self._selection()
        total = await run.in_thread(self._count, selection, -1, limit)
        version = None if run.options.overwrite else run.report.model_version
        tasks = SelectedTasks(self.predictions, selection, version)
        pages = tasks.pages(-1, limit)
        await run.predict_only(self.batches, self.check, pages, total)

    async def write(self, project: Project) -> None:
        """Predict and write the predictions to the project."""
        run, options, report = self.run, self.run.options, self.run.report
        home = run.home / "preannotate"
        start = ProjectCheckpoint(
            model_version=report.model_version,
            selection=digest_of(self._selection(), overwrite=options.overwrite),
        )
        with writing(home):
            home.mkdir(parents=True, exist_ok=True)
        with locked(home / str(project)):
            writer = ProjectWriter(
                self.predictions, home, str(project), start, overwrite=options.overwrite
            )
            with writer, run.on_signal(writer.stop):
                while await self._pass(writer):
                    if not await self._prepare_again(writer, project):
                        break
        report.failed, report.failures = report.totals.failed, report.totals.failures
        report.failed_file = writer.failed if report.failed else None

    async def _pass(self, writer: ProjectWriter) -> bool:
        """Predict the tasks that are there; return whether to look again."""
        run, options, totals = self.run, self.run.options, self.run.report.totals
        started, full_pass_at = time.monotonic(), self.full_pass_at
        is_full_again = (
            full_pass_at is not None
            and not options.overwrite
            and started - full_pass_at >= _FULL_PASS_EVERY_S
        )
        if is_full_again:
            self._forget_failures(writer)
        writer.ended = False
        try:
            await self._predict(writer, is_full_again=is_full_again)
            if is_full_again or full_pass_at is None:
                self.full_pass_at = started
            writer.ended = run.signal is None
        except asyncio.CancelledError:
            if run.signal is None:
                raise
        except (Unreachable, VersionChanged) as error:
            if options.watch_s is None:
                raise
            self._say(error)
        is_over = options.limit is not None and totals.tasks >= options.limit
        if run.signal is not None or is_over or options.watch_s is None:
            return False
        return not await run.wait_for_signal(options.watch_s)

    async def _predict(self, writer: ProjectWriter, *, is_full_again: bool) -> None:
        """Predict the tasks that are new, or all that have no prediction."""
        run, options, totals = self.run, self.run.options, self.run.report.totals
        version = None if options.overwrite else run.report.model_version
        selection = self._selection(is_full_again=is_full_again)
        above = -1 if is_full_again else writer.above
        limit = None if options.limit is None else options.limit - totals.tasks
        total = await run.in_thread(self._count, selection, above, limit)
        tasks = SelectedTasks(self.predictions, selection, version, writer.empty)
        pages = tasks.pages(above, limit)
        await run.predict(self.batches, writer, self.check, pages, total)

    async def _prepare_again(self, writer: ProjectWriter, project: Project) -> bool:
        """Switch to the current model version; return False if a signal came first."""
        run, watch_s = self.run, self.run.options.watch_s
        try:
            while (version := await self._prepared(project)) is None:
                if await run.wait_for_signal(watch_s or 0.0):
                    return False
        except asyncio.CancelledError:
            if run.signal is None:
                raise
            return False
        if version != run.report.model_version:
            run.report.model_version = version
            writer.switch_to(version)
            self._forget_failures(writer)
            self.full_pass_at = None
        return True

    async def _prepared(self, project: Project) -> str | None:
        """Return the current model version; None while there is none."""
        try:
            _, config = await self.run.in_thread(self.predictions.project)
        except Unreachable as error:
            self._say(error)
            return None
        try:
            version = await self.run.until_signal(self.engine.prepare(project, config))
        except LsmlError as error:
            self._say(error)
            return None
        self.last_problem = ""
        return version

    def _say(self, error: LsmlError) -> None:
        """Print what a watch waits for, once."""
        if str(error) != self.last_problem:
            self.last_problem = str(error)
            self.run.say(f"lsml-bento: {error}")

    def _forget_failures(self, writer: ProjectWriter) -> None:
        """Forget tasks that failed, since they are predicted again."""
        totals = self.run.report.totals
        totals.failed, totals.failures, totals.at = 0, [], 0
        writer.forget_failures()

    def _selection(self, *, is_full_again: bool = False) -> Selection:
        options = self.run.options
        is_missing = options.only_missing or is_full_again
        missing = self.run.report.model_version if is_missing else None
        return Selection(options.filters, options.view, missing)

    def _count(self, selection: Selection, above: int, limit: int | None) -> int | None:
        """Return the number of tasks to read; unknown for tasks above an id."""
        if above >= 0:
            return None
        found = self.predictions.count(selection)
        return found if found is None or limit is None else min(found, limit)
