"""Predictions into a project of Label Studio: none twice, and none lost.

Label Studio itself says which tasks have a prediction: each page is read back before it
is predicted, and after a POST of which nobody knows whether it was carried out. What
was being sent is noted before, so that a run that comes after a kill waits until Label
Studio has done with it.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from lsml_bento.checkpoint import ProjectCheckpoint, load_checkpoint, save_checkpoint
from lsml_bento.outcomes import Outcome, Page
from lsml_bento.output_files import append, cut, row_of, writing
from lsml_bento.preannotation import (
    Answer,
    FateUnknown,
    Predicted,
    ProjectPredictions,
    Refused,
    Selection,
    Unreachable,
    predictions_of,
)

MOST = 500
"""Predictions in a POST, but for those of one task: more are no one transaction."""

_SETTLE_S = 10.0
"""How long Label Studio may still carry out a POST whose sender is gone."""

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)


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
    """

    def __init__(
        self, project: ProjectPredictions, selection: Selection, version: str | None
    ) -> None:
        self._project = project
        self._selection = selection
        self._version = version

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
            wanted = [task for task in tasks if task["id"] not in had]
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
        self._patience_s = patience_s
        self._settle_s = settle_s
        self.ended = False
        self._is_cut = False
        self._stopping = threading.Event()
        self._path = home / f"{name}.json"
        self.failed = home / f"{name}.failed.jsonl"
        with writing(self._path):
            home.mkdir(parents=True, exist_ok=True)
            found = load_checkpoint(self._path, ProjectCheckpoint)
            resumes = (
                overwrite
                and found is not None
                and (found.selection, found.model_version)
                == (begun.selection, begun.model_version)
            )
            self._failed = cut(self.failed, 0)
        self._checkpoint = begun
        if found is not None:
            self._settle(found)
        if found is not None and resumes:
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
        outcome = Outcome(skipped=page.skipped)
        self._is_cut = self._is_cut or None in answers
        groups: list[list[Predicted]] = []
        done: list[int] = []
        for task, answer in zip(page.tasks, answers, strict=True):
            if isinstance(answer, Exception):
                self._list(outcome, task["id"], answer)
            elif answer is not None:
                found = predictions_of(answer, self._checkpoint.model_version)
                outcome.answered(found=bool(found))
                done.append(task["id"])
                groups.append([Predicted(task["id"], one) for one in found])
        if self._overwrite and done:
            self._project.delete(self._checkpoint.model_version, done)
        for part in _parts([group for group in groups if group]):
            self._store(part, outcome)
        if not self._is_cut:
            self._note(above=page.last, pending=[])
        return outcome

    def stop(self) -> None:
        """Wait no more for a Label Studio that is away."""
        self._stopping.set()

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

    def _store(self, groups: list[list[Predicted]], outcome: Outcome) -> None:
        """Send predictions, one group per task, until all are there or refused."""
        self._note(
            above=self.above,
            pending=[group[0].task_id for group in groups],
            sent_at=time.time(),
        )
        deadline = time.monotonic() + self._patience_s
        for number in count():
            try:
                self._project.write([one for group in groups for one in group])
            except Refused as error:
                self._store_apart(groups, outcome, error)
                return
            except FateUnknown as error:
                pause = _PAUSES_S[min(number, len(_PAUSES_S) - 1)]
                if self._stopping.is_set() or time.monotonic() + pause > deadline:
                    raise Unreachable(
                        f"{error}; the same command again finds out and goes on"
                    ) from error
                self._stopping.wait(pause)
            else:
                return
            had = self._had(groups)
            groups = [group for group in groups if group[0].task_id not in had]
            if not groups:
                return

    def _store_apart(
        self, groups: list[list[Predicted]], outcome: Outcome, error: Refused
    ) -> None:
        """Find those that Label Studio refuses by halving."""
        if len(groups) > 1:
            middle = len(groups) // 2
            self._store(groups[:middle], outcome)
            self._store(groups[middle:], outcome)
            return
        outcome.predicted -= 1
        self._list(outcome, groups[0][0].task_id, error)

    def _had(self, groups: list[list[Predicted]]) -> set[int]:
        """The tasks whose predictions are there."""
        by_version: dict[str, list[int]] = defaultdict(list)
        for group in groups:
            version = str(group[0].prediction["model_version"])
            by_version[version].append(group[0].task_id)
        return {
            task_id
            for version, ids in by_version.items()
            for task_id in self._project.predicted(version, ids)
        }

    def _settle(self, found: ProjectCheckpoint) -> None:
        """Wait until what a killed run sent is there, or will not come any more."""
        pending = found.pending
        until = min(found.sent_at, time.time()) + self._settle_s
        while pending and time.time() < until:
            had = self._project.predicted(found.model_version, pending)
            if had.issuperset(pending):
                return
            time.sleep(min(0.5, self._settle_s))

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


def _parts(groups: list[list[Predicted]]) -> Iterator[list[list[Predicted]]]:
    """Tasks whose predictions make one POST."""
    part: list[list[Predicted]] = []
    size = 0
    for group in groups:
        if part and size + len(group) > MOST:
            yield part
            part, size = [], 0
        part.append(group)
        size += len(group)
    if part:
        yield part
