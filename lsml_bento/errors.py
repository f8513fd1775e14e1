"""What can go wrong, each with the HTTP status that a client gets for it.

::

    LsmlError                   500
    +-- BadRequest              422  a request that can not be understood
    |   +-- MalformedBody       400  not JSON at all
    |   +-- UnsupportedMedia    415  not sent as JSON
    |   +-- BodyTooLarge        413
    |   +-- LabelConfigError    422  a label config that does not parse
    +-- QueueFull               503  more tasks wait than the queue holds
    +-- ShuttingDown            503
    +-- NotReady                503  no model version is known yet
    +-- DeadlineExceeded        504  not one task was predicted in time
    +-- ModelError              500  the user's class failed
    |   +-- ModelImportError    500  ... to import
    |   +-- ModelSetupError     500  ... in setup() or load()
    |   +-- OutOfMemory         500  the device's memory does not hold the batch
    |   +-- DeviceLost          500  the GPU failed for as long as the process lives
    |   +-- WrongCount          500  ... to return one slot per task
    |   +-- PredictionError     500  ... to return something that can be rendered
    +-- StateError              503  the state did not answer in time
    |   +-- NameTaken           503  another class serves under the backend's name
    +-- QueueError              503  the queue that wakes workers did not answer
    +-- NotFound                404  what was named does not exist
    |   +-- JobNotFound         404
    |   +-- VersionNotFound     404
    +-- VersionInUse            409  a version that serves can not be deleted
    +-- StillRunning            409  a project whose job does not stop
    +-- NotTraining             500  what is there in the fit of a job only
    +-- LeaseLost               500  a run that does not hold its job any more
    +-- WeightsError            500  weights that can not be written, or are not whole
    +-- TrainingError           500  a fit or its version failed
    +-- MediaError              500  a file that a task names can not be read
    +-- SettingsError           500  an environment variable that means nothing

Every message says what was asked, what was found and what to do; it is what the client
gets, as ``{"error": message}``. The traceback goes to the log.
"""

from __future__ import annotations


class LsmlError(Exception):
    """Root of the errors that lsml-bento raises on purpose."""

    status = 500
    retry_after_s: int | None = None


class BadRequest(LsmlError):
    """A request that is JSON but does not follow the contract."""

    status = 422


class MalformedBody(BadRequest):
    """A body that is not JSON."""

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
    """A label config that Label Studio's own parser refuses."""


class QueueFull(LsmlError):
    """More tasks wait than ``LSML_QUEUE_SIZE`` allows."""

    status = 503
    retry_after_s = 5


class ShuttingDown(LsmlError):
    """The server is going down and takes no new work."""

    status = 503
    retry_after_s = 5


class NotReady(LsmlError):
    """The model is still being made and no version of it is known."""

    status = 503
    retry_after_s = 2


class DeadlineExceeded(LsmlError):
    """Not one task of a request was predicted within ``LSML_PREDICT_DEADLINE_S``."""

    status = 504


class ModelError(LsmlError):
    """The user's class failed."""


class ModelImportError(ModelError):
    """The module of the user's class does not import, or lacks the class."""


class ModelSetupError(ModelError):
    """``__init__``, ``setup`` or ``load`` of the user's class raised."""


class OutOfMemory(ModelError):
    """The device's memory does not hold the batch."""


class DeviceLost(ModelError):
    """The GPU failed, and no call in this process can use it any more."""


class WrongCount(ModelError):
    """``predict`` returned another number of predictions than it got tasks.

    Attributes:
        expected: how many tasks it got.
        found: how many predictions it returned.
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
    """The queue that wakes workers could not be read or written; jobs are safe."""

    status = 503


class MediaError(LsmlError):
    """A file that a task's data names can not be read, or must not be."""


class SettingsError(LsmlError):
    """A setting in the environment that can not be understood."""


class NameTaken(StateError):
    """Another class serves under the backend's name."""

    retry_after_s = None


class NotFound(LsmlError):
    """Something that a request names does not exist."""

    status = 404


class JobNotFound(NotFound):
    """There is no job of that id."""


class VersionNotFound(NotFound):
    """A project has no such model version."""


class VersionInUse(LsmlError):
    """A version that serves, or is pinned, can not be deleted."""

    status = 409


class StillRunning(LsmlError):
    """A job of the project runs, and does not stop."""

    status = 409


class NotTraining(LsmlError):
    """Something was called that is there in the ``fit`` of a job only."""


class LeaseLost(LsmlError):
    """A run wrote to a job that is not its own any more."""


class WeightsError(LsmlError):
    """Weights that can not be written or read, or that are not whole."""


class TrainingError(LsmlError):
    """A ``fit`` failed, or the version that it made does not predict."""
