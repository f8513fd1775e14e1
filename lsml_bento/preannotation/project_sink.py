"""Predictions into a project of Label Studio: none twice, and none lost.

Label Studio itself says which tasks have a prediction: each page is read back before it
is predicted, before it is written, since people open tasks meanwhile, and after a POST
of which nobody knows whether it was carried out. What was being sent is noted before,
so that a run that comes after a kill waits until Label Studio has done with it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lsml_bento.preannotation.checkpoint import (
    ProjectCheckpoint,
    load_checkpoint,
    save_checkpoint,
)
from lsml_bento.preannotation.output_file import append, cut, row_of, writing
from lsml_bento.preannotation.selection import (
    Answer,
    Predicted,
    ProjectPredictions,
    Selection,
    predictions_of,
)
from lsml_bento.preannotation.sender import Group, Sender
from lsml_bento.preannotation.tally import Outcome, Page

_SETTLE_S = 10.0
"""How long Label Studio may still carry out a POST whose sender is gone."""


@dataclass(frozen=True)
class ProjectPage(Page):
    """Tasks to predict.

    Attributes:
        last: the id of the last task that was looked at.
        skipped: tasks that had a prediction before.
    """

    last: int = -1
    skipped: int = 0


class SelectedTasks:
    """The tasks to predict, by ascending id.

    Args:
        project: of Label Studio.
        selection: of its tasks.
        version: those that have a prediction of it are skipped; None to skip none.
        empty: those that the model is known to have no prediction for.
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
        """Pages of tasks of greater ids.

        Args:
            above: an id.
            limit: tasks to predict at most.
        """
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


class PredictionWriter:
    """Writes answers back, within a ``with`` block.

    Args:
        project: of Label Studio.
        home: where what is being sent, and the list of failures, are kept.
        name: the project's, made part of file names.
        begun: what the run is about, at its beginning.
        overwrite: predictions of the model version are deleted first.
        patience_s: how long predictions of unknown fate are sent again.

    Attributes:
        above: all tasks up to this id are done; -1 at the beginning.
        empty: the ids of tasks that the model had no prediction for.
        failed: the file that lists the failures of this run, if there are any.
        ended: to be set where all pages were read.

    Raises:
        PreannotationError: if ``home`` can not be written.
    """

    def __init__(
        self,
        project: ProjectPredictions,
        home: Path,
        name: str,
        begun: ProjectCheckpoint,
        *,
        overwrite: bool = False,
        patience_s: float = 3600.0,
        settle_s: float = _SETTLE_S,
    ) -> None:
        self._project = project
        self._overwrite = overwrite
        self._sender = Sender(project, patience_s)
        self._settle_s = settle_s
        self.ended = False
        self.empty: set[int] = set()
        self._is_cut = False
        self._path = home / f"{name}.json"
        self.failed = home / f"{name}.failed.jsonl"
        self._checkpoint = begun
        with writing(self._path):
            home.mkdir(parents=True, exist_ok=True)
            self._unsettled = found = load_checkpoint(self._path, ProjectCheckpoint)
            self._failed = cut(self.failed, 0)
        if overwrite and found is not None:
            about = (begun.selection, begun.model_version)
            if (found.selection, found.model_version) == about:
                self._checkpoint = begun.model_copy(update={"above": found.above})

    @property
    def above(self) -> int:
        """All tasks up to this id are done."""
        return self._checkpoint.above

    def write(self, page: ProjectPage, answers: Sequence[Answer]) -> Outcome:
        """Write the predictions of a page; a task that was not reached is left out.

        Raises:
            PreannotationError: if they can not be written.
        """
        self._settle()
        outcome = Outcome(skipped=page.skipped)
        self._is_cut = self._is_cut or None in answers
        version = self._checkpoint.model_version
        groups: dict[int, Group] = {}
        for task, answer in zip(page.tasks, answers, strict=True):
            task_id = task["id"]
            if isinstance(answer, Exception):
                self._list(outcome, task_id, answer)
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
            outcome.answered(found=bool(group))
            if not group:
                self.empty.add(task_id)
        self._store([group for group in groups.values() if group], outcome)
        above = self.above if self._is_cut else max(self.above, page.last)
        self._note(above=above, pending=[])
        return outcome

    def follow(self, version: str) -> None:
        """Write predictions of another model version from now on, of all tasks."""
        update = {"model_version": version, "above": -1}
        self._checkpoint = self._checkpoint.model_copy(update=update)
        self.empty.clear()

    def forget_failures(self) -> None:
        """Empty the list: a pass over all tasks begins, which tries them again."""
        with writing(self.failed):
            self._failed.seek(0)
            self._failed.truncate()

    def stop(self) -> None:
        """Wait no more for a Label Studio that is away."""
        self._sender.stop()

    def __enter__(self) -> PredictionWriter:
        """The writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget how far the run is, if it came to its end."""
        with writing(self._path), self._failed:
            if self.ended and not self._is_cut:
                self._path.unlink(missing_ok=True)
            if not self._failed.tell():
                self.failed.unlink(missing_ok=True)

    def _store(self, groups: list[Group], outcome: Outcome) -> None:
        if not groups:
            return
        self._note(above=self.above, pending=[group[0].task_id for group in groups])
        self._unsettled = self._checkpoint
        for task_id, error in self._sender.send(self._checkpoint.model_version, groups):
            outcome.predicted -= 1
            self._list(outcome, task_id, error)
        self._unsettled = None

    def _settle(self) -> None:
        """Wait until what a POST left open is there, or will not come any more."""
        if self._unsettled is None:
            return
        version, pending = self._unsettled.model_version, self._unsettled.pending
        # One that is away is waited for: its time begins when it answers.
        had = self._project.predicted(version, pending)
        until = time.monotonic() + self._settle_s
        while not had.issuperset(pending) and time.monotonic() < until:
            time.sleep(min(0.5, self._settle_s))
            had = self._project.predicted(version, pending)
        self._unsettled = None

    def _list(self, outcome: Outcome, task_id: int, error: Exception) -> None:
        failure = outcome.failed("", {"id": task_id}, error)
        with writing(self.failed):
            append(self._failed, [row_of(failure, None)])

    def _note(self, **update: object) -> None:
        self._checkpoint = self._checkpoint.model_copy(update=update)
        with writing(self._path):
            save_checkpoint(self._path, self._checkpoint)


def name_of(selection: Selection, *, overwrite: bool) -> str:
    """What tells a selection from another one."""
    text = json.dumps([asdict(selection), overwrite], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
