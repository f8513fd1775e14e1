"""Predictions for a request: one slot per task, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lsml_bento.contract import PredictRequest, Project, Task
from lsml_bento.errors import DeadlineExceeded
from lsml_bento.model.invoke import EMPTY_SLOT, Slot, for_annotator
from lsml_bento.prediction.batcher import Batcher, Lane, Ticket
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.failures import for_client, log_failures
from lsml_bento.prediction.predictor import Group
from lsml_bento.state.store import State, resolve

log = logging.getLogger(__name__)

Disconnected = Callable[[], Awaitable[None]]
"""Returns when the client has disconnected."""

_WATCH_AFTER_S = 1.0
"""Seconds until a request's client is watched; most requests end sooner.

Watching sooner begins in the middle of batches: at 0.05 s and 64 clients of the
benchmark's transformer, the p99 of ``/health`` was 66 ms instead of 11 ms.
"""


@dataclass(eq=False)
class Predict:
    """Answers ``/predict``.

    Attributes:
        observe_tasks: gets tasks that carry annotations.
        deadline_s: seconds after which a request returns what is finished.
    """

    batcher: Batcher
    state: State
    state_threads: CallThreads
    observe_tasks: Callable[[Project, list[Task]], None]
    note_error: Callable[[Project, Exception], None]
    deadline_s: float

    async def __call__(
        self, request: PredictRequest, disconnected: Disconnected | None = None
    ) -> list[Slot]:
        """Predict one slot per task; ``[]`` for a task that failed.

        Args:
            request: tasks of one project.
            disconnected: awaited during the work; waiting tasks are dropped when it
                returns.

        Raises:
            LsmlError: if every task failed, with the first reason.
            DeadlineExceeded: if no task was reached in time.
            QueueFull: if too many tasks wait.
        """
        project = request.project
        if project.created_at is None:
            project = await self.state_threads.run(resolve, project, self.state)
        ticket = self._submit(request, project)

        has_disconnected = False

        def drop() -> None:
            nonlocal has_disconnected
            has_disconnected = True
            log.info(
                "Client disconnected: project=%s %s request of %d tasks dropped",
                project,
                ticket.lane.value,
                len(ticket.items),
            )
            self.batcher.withdraw(ticket)

        with watch_client(disconnected, drop):
            try:
                answers = await ticket.done()
            finally:
                self.batcher.withdraw(ticket)
        annotated = [task for task in request.tasks if task.get("annotations")]
        if annotated:
            self.observe_tasks(project, annotated)
        if has_disconnected:
            return [EMPTY_SLOT] * len(answers)
        return self._slots(ticket, project, answers)

    def _submit(self, request: PredictRequest, project: Project) -> Ticket:
        context = request.params.get("context")
        is_interactive = context is not None
        lane = Lane.BULK if len(request.tasks) > 1 else Lane.SINGLE
        return self.batcher.submit(
            Group.for_request(project, request.label_config, request.params, context),
            request.tasks,
            Lane.INTERACTIVE if is_interactive else lane,
            alone=is_interactive,
            deadline_s=self.deadline_s,
        )

    def _slots(
        self, ticket: Ticket, project: Project, answers: list[Any]
    ) -> list[Slot]:
        slots: list[Slot] = []
        failed: list[tuple[Any, Exception]] = []
        late = 0
        for task, answer in zip(ticket.items, answers, strict=True):
            if isinstance(answer, bytes):
                slots.append(answer)
                continue
            slots.append(EMPTY_SLOT)
            if answer is None:
                late += 1
            else:
                failed.append((task.get("id"), answer))
        if failed or late:
            self._explain(project, failed, late, len(answers))
        if ticket.lane is Lane.INTERACTIVE:
            return [for_annotator(slot) for slot in slots]
        return slots

    def _explain(
        self,
        project: Project,
        failed: list[tuple[Any, Exception]],
        late: int,
        total: int,
    ) -> None:
        """Log why tasks failed; raise the reason if no task succeeded."""
        if failed:
            self.note_error(project, for_client(failed[0][1]))
            log_failures(project, failed, total)
            if len(failed) + late == total:
                raise for_client(failed[0][1])
        elif late == total:
            raise DeadlineExceeded(
                f"none of {late} tasks was predicted within {self.deadline_s:g} s "
                "(LSML_PREDICT_DEADLINE_S): the model is slow or stuck"
            )
        if late:
            log.warning(
                "Deadline reached: project=%s %d of %d tasks not predicted within "
                "%g s; retrieve predictions again for the rest, or use "
                "`lsml-bento preannotate`",
                project,
                late,
                total,
                self.deadline_s,
            )


@contextmanager
def watch_client(
    disconnected: Disconnected | None, then: Callable[[], None]
) -> Iterator[None]:
    """Call ``then`` if a request's client disconnects while the block runs.

    Args:
        disconnected: None for a client that cannot be watched.
        then: called at most once.
    """
    if disconnected is None:
        yield
        return
    watching: list[asyncio.Task[None]] = []

    async def watch() -> None:
        await disconnected()
        then()

    loop = asyncio.get_running_loop()
    timer = loop.call_later(
        _WATCH_AFTER_S, lambda: watching.append(loop.create_task(watch()))
    )
    try:
        yield
    finally:
        timer.cancel()
        for task in watching:
            task.cancel()
