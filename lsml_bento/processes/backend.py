"""The wiring of a backend's use cases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lsml_bento.backend.backend import Backend
from lsml_bento.backend.predict import Predict
from lsml_bento.backend.setup import Setup
from lsml_bento.backend.status import Status
from lsml_bento.backend.training import KnownRules, Training
from lsml_bento.jobs.annotations import AnnotationStore
from lsml_bento.jobs.event_writer import EventWriter
from lsml_bento.jobs.job import Job
from lsml_bento.jobs.job_store import JobStore
from lsml_bento.model.loader import ModelSource
from lsml_bento.model.media import Media
from lsml_bento.prediction.batcher import Batcher, Observer
from lsml_bento.prediction.call_threads import CallThreads
from lsml_bento.prediction.model_pool import ModelPool
from lsml_bento.prediction.predictor import Predictor
from lsml_bento.prediction.version_follower import VersionFollower
from lsml_bento.settings import Settings
from lsml_bento.state.heartbeat import Heartbeat
from lsml_bento.state.store import State
from lsml_bento.versions.weights import Weights


def build_backend(
    source: ModelSource,
    state: State,
    media: Media,
    settings: Settings,
    observer: Observer | None = None,
    *,
    weights: Weights | None = None,
    inbox: Path | None = None,
    enqueue: Callable[[Job], None] = lambda _: None,
    measure_event: Callable[[float], None] | None = None,
) -> Backend:
    """The backend of one serving process.

    There are no versions without ``weights``. The directory ``inbox`` keeps events that
    the state does not accept; without one they are refused. ``enqueue`` gets jobs that
    are due or will be, and returns at once. ``measure_event`` gets the seconds that an
    event took.
    """
    threads = settings.threads or 1
    call_threads = CallThreads(threads, "predict")
    setup_threads = CallThreads(2, "setup")
    state_threads = CallThreads(4, "state")
    job_threads = CallThreads(2, "jobs")
    job_store = JobStore(state)
    pool = ModelPool(
        *(source, state, media, weights, AnnotationStore(state).any_task),
        max_models=settings.max_models,
        max_objects=threads,
    )
    predictor = Predictor(pool, state)
    batcher = Batcher(
        partial(call_threads.run, predictor.predict),
        max_batch_size=settings.max_batch_size or 32,
        max_calls=threads,
        queue_size=settings.queue_size,
        observer=observer,
    )
    rules = KnownRules(source, state)
    events = EventWriter(state, rules.current, enqueue, inbox)
    status = Status(source.name, batcher, pool, state, state_threads)
    note_error = status.note_error
    deadline_s = settings.predict_deadline_s
    return Backend(
        predict=Predict(
            *(batcher, state, state_threads, events.observe, note_error, deadline_s)
        ),
        setup=Setup(
            *(source.name, predictor, pool, state),
            *(setup_threads, state_threads, note_error),
        ),
        status=status,
        training=Training(events, state, job_threads, weights, enqueue, measure_event),
        rules=rules,
        heartbeat=Heartbeat(state, source.name),
        source=source,
        state=state,
        batcher=batcher,
        events=events,
        follower=VersionFollower(pool, state, job_store.set_version_error),
        setup_threads=setup_threads,
        other_threads=[call_threads, state_threads, job_threads],
        deadline_s=deadline_s,
    )
