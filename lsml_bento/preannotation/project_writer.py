"""Write predictions into a Label Studio project: none twice, and none lost.

Label Studio is asked which tasks have a prediction: before a page is predicted, before
it is written (people may open tasks meanwhile), and after a POST whose result is
unknown. A checkpoint names what is being sent, so that the next run after a kill waits
until Label Studio is done with it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lsml_bento.preannotation.durable_files import (
    Checkpoint,
    append,
    cut,
    load_checkpoint,
    save_checkpoint,
    writing,
)
from lsml_bento.preannotation.engine import Answer
from lsml_bento.preannotation.pipeline import Outcome, Page, predictions_of
from lsml_bento.preannotation.prediction_file import row_of
from lsml_bento.preannotation.selection import (
    Predicted,
    ProjectPredictions,
    Selection,
)
from lsml_bento.preannotation.sender import Group, Sender

_SETTLE_S = 10.0
"""How long Label Studio may still carry out a POST of a run that was killed."""


class ProjectCheckpoint(Checkpoint):
    """How far predictions into a project are.

    Attributes:
        model_version: that predicts.
        selection: digest of which tasks are selected.
        above: the greatest id up to which predictions were overwritten.
        pending: tasks whose predictions are being sent; empty once they are stored.
    """

    model_version: str
    selection: str
    above: int = -1
    pending: list[int] = []  # noqa: RUF012 - pydantic copies it


@dataclass(frozen=True)
class ProjectPage(Page):
    """Tasks to predict.

    Attributes:
        last: the id of the last task that was read.
        skipped: tasks that already had a prediction.
    """

    last: int = -1
    skipped: int = 0


class SelectedTasks:
    """The tasks to predict, by ascending id.

    Args:
        version: skip tasks with a prediction of this version; None to skip none.
        empty: ids of tasks for which the model returned no prediction.
    """

    def __init__(
        self,
        project: ProjectPredictions,
        selection: Selection,
        version: str | None,
        empty: Collection[int] = (),
    ) -> None:
        self._project = project
        self._selection = selection
        self._version = version
        self._empty = empty

    def pages(self, above: int = -1, limit: int | None = None) -> Iterator[ProjectPage]:
        """Yield pages of at most ``limit`` tasks with greater ids than ``above``."""
        seen, left = 0, limit
        if left == 0:
            return
        for tasks in self._project.pages(self._selection, above):
            had: set[int] = set()
            if self._version is not None:
                ids = [task["id"] for task in tasks]
                had = self._project.predicted(self._version, ids)
            seen += len(tasks)
            wanted = [
                task
                for task in tasks
                if task["id"] not in had and task["id"] not in self._empty
            ]
            last = tasks[-1]["id"]
            if left is not None and len(wanted) >= left:
                wanted = wanted[:left]
                last = wanted[-1]["id"]
            yield ProjectPage(wanted, seen, last=last, skipped=len(had))
            if left is not None:
                left -= len(wanted)
                if not left:
                    return


class ProjectWriter:
    """Writes predictions to a project. Use it in a ``with`` block.

    Args:
        home: directory of the checkpoint and the list of failures.
        name: of the project, for file names.
        start: the checkpoint of a run that has not begun.
        overwrite: delete predictions of the model version first.
        timeout_s: how long predictions with an unknown result are sent again.
        settle_s: how long a POST of a run that was killed may take.

    Attributes:
        empty: ids of tasks for which the model returned no prediction.
        failed: the file that lists the failures of this run, if there are any.
        ended: set it when all pages were read.
    """

    def __init__(
        self,
        project: ProjectPredictions,
        home: Path,
        name: str,
        start: ProjectCheckpoint,
        *,
        overwrite: bool = False,
        timeout_s: float = 3600.0,
        settle_s: float = _SETTLE_S,
    ) -> None:
        self._project = project
        self._overwrite = overwrite
        self._sender = Sender(project, timeout_s)
        self._settle_s = settle_s
        self.ended = False
        self.empty: set[int] = set()
        self._is_cut = False
        self._path = home / f"{name}.json"
        self.failed = home / f"{name}.failed.jsonl"
        self._checkpoint = start
        with writing(self._path):
            home.mkdir(parents=True, exist_ok=True)
            self._unsettled = found = load_checkpoint(self._path, ProjectCheckpoint)
            self._failed = cut(self.failed, 0)
        if overwrite and found is not None:
            about = (start.selection, start.model_version)
            if (found.selection, found.model_version) == about:
                self._checkpoint = start.model_copy(update={"above": found.above})

    @property
    def above(self) -> int:
        """All tasks up to this id are done; -1 at the beginning."""
        return self._checkpoint.above

    def write(self, page: ProjectPage, answers: Sequence[Answer]) -> Outcome:
        """Write the predictions of a page, without tasks that were not reached."""
        self._settle()
        outcome = Outcome(skipped=page.skipped)
        self._is_cut = self._is_cut or None in answers
        version = self._checkpoint.model_version
        groups: dict[int, Group] = {}
        for task, answer in zip(page.tasks, answers, strict=True):
            task_id = task["id"]
            if isinstance(answer, Exception):
                self._add_failure(outcome, task_id, answer)
            elif answer is not None:
                found = predictions_of(answer, version)
                groups[task_id] = [Predicted(task_id, one) for one in found]
        if self._overwrite and groups:
            self._project.delete(version, list(groups))
        elif not self._overwrite:
            ids = [task_id for task_id, group in groups.items() if group]
            had = self._project.predicted(version, ids)
            groups = {key: group for key, group in groups.items() if key not in had}
            outcome.skipped += len(had)
        for task_id, group in groups.items():
            outcome.add_prediction(is_empty=not group)
            if not group:
                self.empty.add(task_id)
        self._store([group for group in groups.values() if group], outcome)
        above = self.above if self._is_cut else max(self.above, page.last)
        self._save(above=above, pending=[])
        return outcome

    def switch_to(self, version: str) -> None:
        """Write predictions of another model version, for all tasks."""
        update = {"model_version": version, "above": -1}
        self._checkpoint = self._checkpoint.model_copy(update=update)
        self.empty.clear()

    def forget_failures(self) -> None:
        """Empty the list of failures, before a pass that predicts those tasks again."""
        with writing(self.failed):
            self._failed.seek(0)
            self._failed.truncate()

    def stop(self) -> None:
        """Stop waiting for Label Studio."""
        self._sender.stop()

    def __enter__(self) -> ProjectWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the checkpoint if the run is complete."""
        with writing(self._path), self._failed:
            if self.ended and not self._is_cut:
                self._path.unlink(missing_ok=True)
            if not self._failed.tell():
                self.failed.unlink(missing_ok=True)

    def _store(self, groups: list[Group], outcome: Outcome) -> None:
        if not groups:
            return
        self._save(above=self.above, pending=[group[0].task_id for group in groups])
        self._unsettled = self._checkpoint
        for task_id, error in self._sender.send(self._checkpoint.model_version, groups):
            outcome.predicted -= 1
            self._add_failure(outcome, task_id, error)
        self._unsettled = None

    def _settle(self) -> None:
        """Wait until the predictions of an unfinished POST are stored."""
        if self._unsettled is None:
            return
        version, pending = self._unsettled.model_version, self._unsettled.pending
        # The time starts when Label Studio answers.
        had = self._project.predicted(version, pending)
        until = time.monotonic() + self._settle_s
        while not had.issuperset(pending) and time.monotonic() < until:
            time.sleep(min(0.5, self._settle_s))
            had = self._project.predicted(version, pending)
        self._unsettled = None

    def _add_failure(self, outcome: Outcome, task_id: int, error: Exception) -> None:
        failure = outcome.add_failure("", {"id": task_id}, error)
        with writing(self.failed):
            append(self._failed, [row_of(failure, None)])

    def _save(self, **update: object) -> None:
        self._checkpoint = self._checkpoint.model_copy(update=update)
        with writing(self._path):
            save_checkpoint(self._path, self._checkpoint)


def digest_of(selection: Selection, *, overwrite: bool) -> str:
    """Return a digest of a selection."""
    text = json.dumps([asdict(selection), overwrite], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
