"""All errors, each with the HTTP status of the response.

``tests/test_errors.py`` draws their tree. A message says what happened, where, and what
to do. The client gets it as ``{"error": message}``. The traceback goes to the log.
"""

from __future__ import annotations


class LsmlError(Exception):
    """Base class of all errors that lsml-bento raises deliberately."""

    status = 500
    retry_after_s: int | None = None


class BadRequest(LsmlError):
    """A request with JSON that does not follow Label Studio's contract."""

    status = 422


class MalformedBody(BadRequest):
    """A body that is not valid JSON."""

    status = 400


class UnsupportedMedia(BadRequest):
    """A body sent as something other than JSON."""

    status = 415


class BodyTooLarge(BadRequest):
    """A body over ``LSML_MAX_BODY_MIB``, or one of unknown size where that is needed.

    Args:
        limit_mib: the limit in MiB.
        has_length: whether the request declared its size.
    """

    status = 413

    def __init__(self, limit_mib: float, *, has_length: bool = True) -> None:
        problem = "is" if has_length else "has no Content-Length and may be"
        super().__init__(
            f"the body {problem} over {limit_mib:g} MiB: send fewer tasks, or raise "
            "LSML_MAX_BODY_MIB"
        )


class LabelConfigError(BadRequest):
    """A label config that Label Studio's own parser rejects."""


class QueueFull(LsmlError):
    """More tasks are waiting than ``LSML_QUEUE_SIZE`` allows."""

    status = 503
    retry_after_s = 5


class ShuttingDown(LsmlError):
    """The server is shutting down and accepts no new work."""

    status = 503
    retry_after_s = 5


class NotReady(LsmlError):
    """The model is still loading, and no version of it is known."""

    status = 503
    retry_after_s = 2


class DeadlineExceeded(LsmlError):
    """No task of a request was predicted within ``LSML_PREDICT_DEADLINE_S``."""

    status = 504


class ModelError(LsmlError):
    """The user's class failed."""


class ModelImportError(ModelError):
    """The module of the user's class cannot be imported, or lacks the class."""


class ModelSetupError(ModelError):
    """``__init__``, ``setup`` or ``load`` of the user's class raised."""


class OutOfMemory(ModelError):
    """The GPU's memory is too small for the batch."""


class DeviceLost(ModelError):
    """The GPU failed, and this process can no longer use it."""


class WrongCount(ModelError):
    """The number of predictions differs from the number of tasks.

    Attributes:
        expected: number of tasks.
        found: number of predictions.
    """

    def __init__(self, expected: int, found: int) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"predict() got {expected} tasks and returned {found} predictions: "
            "return one per task, in order, [] for none"
        )


class PredictionError(ModelError):
    """``predict`` returned something that is not a prediction."""


class StateError(LsmlError):
    """The state could not be read or written in time."""

    status = 503
    retry_after_s: int | None = 2


class QueueError(LsmlError):
    """The queue of fits could not be read or written; no job is lost."""

    status = 503


class MediaError(LsmlError):
    """A file of a task cannot be read, or reading it is not allowed."""


class SettingsError(LsmlError):
    """An environment variable has an invalid value."""


class NameTaken(StateError):
    """Another class runs under the backend's name."""

    retry_after_s = None


class StateTaken(StateError):
    """The state belongs to another backend."""

    retry_after_s = None


class NotFound(LsmlError):
    """Something that a request refers to does not exist."""

    status = 404


class JobNotFound(NotFound):
    """There is no job with that id."""


class VersionNotFound(NotFound):
    """A project has no such model version."""


class VersionInUse(LsmlError):
    """The serving version cannot be deleted."""

    status = 409


class StillRunning(LsmlError):
    """A job of the project is running and does not stop."""

    status = 409


class NotTraining(LsmlError):
    """A method was called that works only in the ``fit`` of a job."""


class LeaseLost(LsmlError):
    """A worker updated a job whose lease it no longer holds."""


class WeightsError(LsmlError):
    """Weights are damaged, or cannot be read or written."""


class TrainingError(LsmlError):
    """A ``fit`` failed, or the version that it created cannot predict."""
