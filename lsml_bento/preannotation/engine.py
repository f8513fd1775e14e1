"""What predicts in a run: the interface, and a model in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from lsml_bento.contract import Project, Task
from lsml_bento.errors import DeviceLost
from lsml_bento.model.invoke import Slot
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import Media
from lsml_bento.preannotation.selection import PreannotationError
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.predictor import Group, Predictor
from lsml_bento.prediction.version_follower import NoteOnJob, VersionFollower
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import Change, State, below, identify
from lsml_bento.versions.registry import pointer_key
from lsml_bento.versions.weights import Weights


class Engine(Protocol):
    """A model in this process, or a running backend.

    Attributes:
        calls: concurrent calls that keep it busy.
    """

    calls: int

    async def prepare(self, project: Project, label_config: str) -> str:
        """Get ready for a project and its label config.

        Returns:
            The model version that predicts.

        Raises:
            LsmlError: if the engine cannot predict.
        """

    async def predict(self, tasks: list[Task]) -> Sequence[Slot | Exception]:
        """Return an answer or an error for each task.

        Raises:
            PreannotationError: if the run cannot continue.
            Exception: if the whole batch failed; parts of it may succeed.
        """

    async def close(self) -> None:
        """Close threads and connections."""


class LocalEngine:
    """A model in this process, created and called as a server does it.

    Args:
        source: of the user's class.
        state: names the active version of a project.
        media: given to the model.
        weights: of versions; None if there are no versions.
        threads: concurrent calls of ``predict``.
        any_task: returns a task of a project, to test a version with that was made for
            another label config.
        note_on_job: notes on a version's job that the version does not load.
    """

    def __init__(
        self,
        source: ModelSource,
        state: State,
        media: Media,
        weights: Weights | None = None,
        threads: int = 1,
        any_task: Callable[[Project], Task | None] = lambda _: None,
        note_on_job: NoteOnJob = lambda *_: None,
    ) -> None:
        pool = ModelPool(source, state, media, weights, any_task, max_objects=threads)
        self._follower = VersionFollower(pool, state, note_on_job)
        self._predictor = Predictor(pool, state)
        self._threads = CallThreads(threads, "predict")
        self._group: Group | None = None
        # One more than there are threads, so that no thread waits for its next call.
        self.calls = threads + 1

    async def prepare(self, project: Project, label_config: str) -> str:
        """Create the model object of the active version."""
        await self._threads.run(self._follower.follow)
        prepare = self._predictor.prepare
        version = await self._threads.run(prepare, project, label_config)
        self._group = Group.of(project, label_config, {}, None)
        return version

    async def predict(self, tasks: list[Task]) -> Sequence[Slot | Exception]:
        """Call the model's ``predict`` once."""
        assert self._group is not None, "call prepare() first"  # noqa: S101
        predict = self._predictor.predict
        try:
            return await self._threads.run(predict, self._group, tasks)
        except DeviceLost as error:
            raise PreannotationError(f"{error}; run the same command again") from error

    async def close(self) -> None:
        """End the threads after their calls, without waiting for them."""
        self._threads.close()


def snapshot(state: State, project: Project) -> MemoryState:
    """Copy a project's state, so that a run over a file does not change the original.

    A model writes values and its label config while it is created.
    """
    identity = identify(project)
    pairs = [
        *state.scan(below("value", *identity)),
        *state.scan(below("version", *identity)),
    ]
    pointer = pointer_key(project)
    if (found := state.get(pointer)) is not None:
        pairs.append((pointer, found))

    def copy(change: Change) -> None:
        for key, value in pairs:
            change.put(key, value)

    copied = MemoryState()
    copied.change(copy)
    return copied
