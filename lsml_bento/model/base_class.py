"""``LabelStudioMLBase``, the base class of a user's model."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

from label_studio_sdk.label_interface import LabelInterface
from semver import Version

from lsml_bento.contract import Context, Project, Task
from lsml_bento.errors import TrainingError
from lsml_bento.model.label_config import EMPTY, parse_label_config, parse_tags
from lsml_bento.model.media import EnvironmentMedia, Media, NoMedia, names_a_file
from lsml_bento.model.response import ModelResponse
from lsml_bento.model.training_policy import (
    NoRun,
    Run,
    TrainingEvent,
    TrainingPolicy,
    TrainingRules,
)
from lsml_bento.state.memory import MemoryState
from lsml_bento.state.store import State

PREDICT_MARK = "__lsml_predict_fn__"
UPDATE_MARK = "__lsml_update_fn__"

FIT_SHAPE = "fit(self, event, data, **kwargs)"
"""How ``fit`` should be written."""

_OLD_NAMES = frozenset({"annotations", "completions", "tasks"})
"""The first parameter of ``fit`` in label_studio_ml 1.0."""

# Weak, since a function keeps the globals of its module alive.
_known: WeakKeyDictionary[Any, frozenset[str] | None] = WeakKeyDictionary()

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Value = TypeVar("_Value")


def predict_fn(function: _Function) -> _Function:
    """Decorate ``function(tasks, context, helper=model)`` to use it as ``predict``."""
    setattr(function, PREDICT_MARK, True)
    return function


def update_fn(function: _Function) -> _Function:
    """Decorate ``function(event, data, helper=model)`` to use it as ``fit``."""
    setattr(function, UPDATE_MARK, True)
    return function


@dataclass(frozen=True)
class ModelRuntime:
    """What the process provides to a model object.

    Attributes:
        project: whose tasks it predicts.
        state: where its values are stored.
        media: opens the files that task data refers to.
        version: the model version it was made for; None for the base version.
        run: the job in which ``fit`` runs.
    """

    project: Project
    state: State = field(default_factory=MemoryState)
    media: Media = field(default_factory=NoMedia)
    version: str | None = None
    run: Run = field(default_factory=NoRun)


current_runtime: ContextVar[ModelRuntime | None] = ContextVar("runtime", default=None)
"""The runtime of the user code that this thread is running."""


@contextmanager
def use_runtime(runtime: ModelRuntime) -> Iterator[None]:
    """Give this runtime to model objects that are created inside the block.

    The constructor cannot take it: its arguments are HumanSignal's, and users override
    it.
    """
    token = current_runtime.set(runtime)
    try:
        yield
    finally:
        current_runtime.reset(token)


def current_media() -> Media | None:
    """The media of the runtime that code runs in; None outside of a server."""
    runtime = current_runtime.get()
    return None if runtime is None else runtime.media


class _Replaceable(Generic[_Value]):
    """A property that an attribute of the object hides.

    A class written for ``label_studio_ml`` may use its name for something else.
    """

    def __init__(self, read: Callable[[Any], _Value]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    def __get__(self, model: object, owner: type | None = None) -> _Value:
        if model is None:
            return self  # type: ignore[return-value]  # the class has no value
        return self._read(model)


class LabelStudioMLBase:
    """A model for Label Studio: subclass it and write ``predict``.

    An object serves one project with one label config and is kept between requests.
    ``setup`` runs once when the object is created, then ``load``, then ``predict`` for
    each batch of tasks.

    Attributes:
        project_id: the project's id as Label Studio shows it.
        label_interface: the parsed label config.
    """

    INITIAL_MODEL_VERSION: ClassVar[str] = "0.0.1"

    TRAIN_EVENTS: ClassVar[tuple[str, ...]] = (
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATION_DELETED",
        "START_TRAINING",
    )

    training: ClassVar[TrainingPolicy] = TrainingPolicy()
    """When annotations lead to a ``fit``."""

    thread_safe: ClassVar[bool] = False
    """Whether several threads may call ``predict`` of one object at the same time."""

    share_loaded: ClassVar[bool] = True
    """Whether objects with the same weights share the attributes that ``load`` sets.

    Turn it off if ``load`` depends on the project or its label config, or modifies
    objects that ``setup`` created.
    """

    label_interface: LabelInterface

    _lsml_predict: ClassVar[Callable[..., Any] | None] = None
    _lsml_update: ClassVar[Callable[..., Any] | None] = None

    def __init__(
        self,
        project_id: str | None = None,
        label_config: str | None = None,
        **_: Any,
    ) -> None:
        """Called by the server.

        An object that you create yourself keeps its state in memory, and reads files
        with the settings of its environment.

        Args:
            project_id: the project's id.
            label_config: the XML of its label config.
            _: arguments of older versions of the class; ignored.

        Raises:
            LabelConfigError: if the label config does not parse.
        """
        self._lsml = current_runtime.get() or ModelRuntime(
            Project(str(project_id or ""), 0), media=EnvironmentMedia()
        )
        self.project_id = project_id or ""
        self.use_label_config(label_config or EMPTY)
        self.setup()
        # Stored last: until setup() has run, a new project has no known version.
        stored = self._lsml.state.read(self._lsml.project).get("model_version")
        self.set("model_version", stored or self.INITIAL_MODEL_VERSION)

    # What a user writes

    def setup(self) -> None:
        """Prepare the object; ``self.set("model_version", ...)`` names its version."""

    def load(self, weights: Path | None) -> None:
        """Load the weights of the serving version.

        Args:
            weights: the version's directory; None before the first training.
        """

    def predict(
        self, tasks: list[Task], context: Context | None = None, **kwargs: Any
    ) -> ModelResponse | list[Any] | None:
        """Predict the tasks, in their order.

        Args:
            tasks: B tasks of one project; you may modify the list and its tasks.
            context: ``{"result": [region, ...]}`` when an annotator waits for a
                suggestion, else None.
            kwargs: the other entries of Label Studio's ``params``, such as ``login``.

        Returns:
            A ``ModelResponse``, or a list of B entries: each a prediction (a dict or a
            ``PredictionValue``), a list of predictions, or None for no prediction. None
            in place of the list means no predictions at all.
        """
        function = type(self)._lsml_predict
        if function is None:
            return None
        named = accepted(function, {"helper": self, **kwargs})
        returned: ModelResponse | list[Any] | None = function(tasks, context, **named)
        return returned

    def fit(self, event: str, data: dict[str, Any], **kwargs: Any) -> Any:
        """Learn from annotations. Runs in its own process, one at a time per project.

        Values that ``set`` stores here become visible when the job succeeds. The return
        value is discarded: write weights into the directory of ``save_weights``.

        Args:
            event: the action of a webhook, such as ``"ANNOTATION_CREATED"``.
            data: the webhook's body without ``action``.
            kwargs: ``job_id``.
        """
        function = type(self)._lsml_update
        if function is None:
            return None
        return function(event, data, **accepted(function, {"helper": self, **kwargs}))

    @_Replaceable
    def train_output(self) -> dict[str, Any]:
        """What a ``fit`` of label_studio_ml 1.0 returned for the serving version."""
        return self._lsml.state.read(self._lsml.project).get("train_output") or {}

    # What fit uses

    def annotated_tasks(self) -> Iterator[Task]:
        """Iterate over the project's annotated tasks.

        They come from Label Studio's API if ``LABEL_STUDIO_URL`` and
        ``LABEL_STUDIO_API_KEY`` are set, else from the stored annotations of its
        webhooks. A task is ``{"id", "data", "annotations": [{"id", "result",
        "updated_at", ...}]}``. Skipped annotations are left out, and so are tasks
        without any other annotation.

        Raises:
            NotTraining: outside of a job's ``fit``.
            TrainingError: if Label Studio cannot be read.
        """
        return self._lsml.run.annotated_tasks()

    def report(self, progress: float | None = None, **metrics: float) -> None:
        """Report the job's progress and metrics.

        Args:
            progress: 0 to 1.
            metrics: numbers by name; a later number replaces an earlier one.

        Raises:
            TypeError: if a metric is not a number.
        """
        done = None if progress is None else min(1.0, max(0.0, float(progress)))
        self._lsml.run.report(done, _numbers(metrics))

    @_Replaceable
    def should_stop(self) -> bool:
        """Whether the job was cancelled; its process is killed a few seconds later.

        Check it in long loops, then return.
        """
        return self._lsml.run.should_stop

    @_Replaceable
    def events(self) -> list[TrainingEvent]:
        """The (action, annotation id) of all events that the job combines."""
        return self._lsml.run.events

    def save_weights(
        self, metrics: Mapping[str, float] | None = None
    ) -> AbstractContextManager[Path]:
        """A directory to write the weights of a new version into.

        ``with self.save_weights(metrics={"f1": 0.91}) as directory: ...``. When ``fit``
        returns, the weights are loaded and predict a sample, then the version serves.
        If ``fit`` uses several blocks, the last one counts. A block that raises saves
        nothing.

        Args:
            metrics: of the version, shown in lists.

        Raises:
            NotTraining: outside of a job's ``fit``.
            WeightsError: if the block wrote no file, or the disk is full.
            TypeError: if a metric is not a number.
        """
        return self._lsml.run.save_weights(_numbers(metrics or {}))

    # State

    def get(self, key: str) -> Any:
        """The value of a key in this project's state; None if it was never set.

        Raises:
            StateError: if the state did not respond.
        """
        if key == "label_config":
            return self._lsml_label_config
        if key == "parsed_label_config":
            return json.dumps(self.parsed_label_config)
        value = self._lsml.state.read(self._lsml.project).get(key)
        if key == "model_version":
            return self._lsml.version or value or self.INITIAL_MODEL_VERSION
        return value

    def set(self, key: str, value: Any) -> None:
        """Set a key in this project's state; every process sees it at once.

        Raises:
            StateError: if the state could not be written.
            TypeError: if JSON cannot hold the value.
        """
        if key == "model_version":
            value = "" if value is None else str(value)
        project = self._lsml.project
        if (
            not isinstance(value, str)
            or self._lsml.state.read(project).get(key) != value
        ):
            self._lsml.state.write(project, {key: value})

    def has(self, key: str) -> bool:
        """Whether a key of this project's state was ever set."""
        return self.get(key) is not None

    # The label config

    def use_label_config(self, label_config: str) -> None:
        """Parse a label config and use it for this object.

        Raises:
            LabelConfigError: if it does not parse.
        """
        self.label_interface = parse_label_config(label_config)
        self._lsml_label_config = label_config
        project = self._lsml.project
        if self._lsml.state.read(project).get("label_config") != label_config:
            self._lsml.state.write(project, {"label_config": label_config})

    @property
    def label_config(self) -> str:
        return self._lsml_label_config

    @property
    def parsed_label_config(self) -> dict[str, Any]:
        """``{from_name: {"type", "to_name", "inputs", "labels", ...}}``."""
        return parse_tags(self._lsml_label_config)

    def get_first_tag_occurence(
        self,
        control_type: str | tuple[str, ...],
        object_type: str | tuple[str, ...],
        name_filter: Callable[[str], bool] | None = None,
        to_name_filter: Callable[[str], bool] | None = None,
    ) -> tuple[str, str, str]:
        """The first control of the given types on an object of the given types.

        Returns:
            ``(from_name, to_name, value)``; value is a key of ``task["data"]``.

        Raises:
            ValueError: if the label config has no such control.
        """
        found: tuple[str, str, str] = self.label_interface.get_first_tag_occurence(
            control_type=control_type,
            object_type=object_type,
            name_filter=name_filter,
            to_name_filter=to_name_filter,
        )
        return found

    def build_label_map(self, tag_name: str, names: list[str]) -> dict[str, str]:
        """Map the model's label names to the labels of the label config.

        A label matches the model's names in its ``predicted_values`` (comma separated).
        If none matches, it matches an equal name, then a name that differs only in
        case. A label with an ``alias`` matches by its alias or by its ``value``, and is
        mapped to its alias, which Label Studio stores.

        Args:
            tag_name: the name of the control tag.
            names: the model's label names.
        """
        by_lower = {name.lower(): name for name in names}
        label_map: dict[str, str] = {}
        attributes = self.label_interface.get_control(tag_name).labels_attrs or {}
        for label, tag in attributes.items():
            hints = [
                hint.strip() for hint in tag.attr.get("predicted_values", "").split(",")
            ]
            matched = [hint for hint in hints if hint in names]
            own = [label, tag.attr.get("value") or label]
            if not matched:
                matched = [name for name in own if name in names][:1]
            if not matched:
                lowered = (name.lower() for name in own)
                matched = [by_lower[name] for name in lowered if name in by_lower][:1]
            label_map.update(dict.fromkeys(matched, label))
        return label_map

    # Versions and parameters

    @property
    def model_version(self) -> Version | str | None:
        """The serving version, as a ``semver.Version`` if possible."""
        version = self.get("model_version")
        try:
            return Version.parse(version)
        except (TypeError, ValueError):
            return str(version) if version is not None else None

    def bump_model_version(self) -> Version:
        """Increment the minor version and return the new version.

        Raises:
            ValueError: if the version is not a semantic version.
        """
        version = self.model_version
        if not isinstance(version, Version):
            raise ValueError(
                f"the model version {version!r} is not a semantic version such as "
                '"0.1.0": set the next one with set("model_version", ...)'
            )
        bumped: Version = version.bump_minor()
        self.set("model_version", str(bumped))
        return bumped

    @property
    def extra_params(self) -> Any:
        """The "extra params" of Label Studio's model settings; ``{}`` if empty."""
        return parse_extra_params(self.get("extra_params"))

    def set_extra_params(self, extra_params: Any) -> None:
        """Set the extra params: an object, a list, or JSON as text."""
        self.set("extra_params", extra_params)

    # Events

    def process_event(
        self,
        event: str,
        data: dict[str, Any],
        job_id: str | None,
        additional_params: dict[str, Any],
    ) -> Any:
        """Call ``fit`` if the event is one of ``TRAIN_EVENTS``."""
        if event not in self.TRAIN_EVENTS:
            return None
        tasks = self._lsml.run.annotated_tasks
        return call_fit(
            self.fit, event, data, tasks, job_id=job_id, **additional_params
        )

    # Media

    def get_label_studio_access_token(self) -> str | None:
        """The API key of Label Studio, if ``LABEL_STUDIO_API_KEY`` is set."""
        return self._lsml.media.access_token()

    def get_local_path(
        self,
        url: str,
        project_dir: str | None = None,
        ls_host: str | None = None,
        ls_access_token: str | None = None,
        task_id: int | str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> str:
        """The path of a local copy of a file that task data refers to.

        Args:
            url: from task data.
            project_dir: a directory that contains Label Studio's ``upload`` directory.
            ls_host: ``LABEL_STUDIO_URL`` by default.
            ls_access_token: ``LABEL_STUDIO_API_KEY`` by default.
            task_id: needed for files in cloud storage.
            args: ignored.
            kwargs: further options of label-studio-sdk's ``get_local_path``.

        Raises:
            MediaError: if the file cannot be read, or reading it is not allowed.
        """
        return self._lsml.media.local_path(
            url,
            task_id=task_id,
            project_dir=project_dir,
            ls_host=ls_host,
            ls_access_token=ls_access_token,
            **kwargs,
        )

    def preload_task_data(
        self, task: Task, value: Any = None, read_file: bool = True
    ) -> Any:
        """Replace the URLs in task data by the files' contents or paths.

        Args:
            task: its ``id`` is used for files in cloud storage.
            value: any part of ``task["data"]``; all of it by default.
            read_file: False to insert paths in place of contents.

        Raises:
            MediaError: if a file cannot be read, or reading it is not allowed.
        """
        if value is None:
            value = task.get("data")
        if isinstance(value, dict):
            for key, item in value.items():
                value[key] = _preload(self, task, item, read_file)
            return value
        return _preload(self, task, value, read_file)


def _preload(model: LabelStudioMLBase, task: Task, value: Any, read_file: bool) -> Any:
    if isinstance(value, dict):
        return model.preload_task_data(task, value, read_file) if value else value
    if isinstance(value, list):
        return [_preload(model, task, item, read_file) for item in value]
    if not isinstance(value, str) or not names_a_file(value):
        return value
    path = model.get_local_path(value, task_id=task.get("id"))
    return Path(path).read_text(encoding="utf-8") if read_file else path


def overrides_process_event(model: type[LabelStudioMLBase]) -> bool:
    """Whether the class handles events itself, as label_studio_ml allows."""
    return model.process_event is not LabelStudioMLBase.process_event


def rules_of(model: type[LabelStudioMLBase], *, each_event: bool) -> TrainingRules:
    """The training rules of a class."""
    trains = (
        model.fit is not LabelStudioMLBase.fit
        or model._lsml_update is not None
        or overrides_process_event(model)
    )
    policy = model.training
    if each_event and not isinstance(policy, TrainingPolicy):
        policy = TrainingPolicy()  # the name is used for something else
    return TrainingRules(trains, tuple(model.TRAIN_EVENTS), policy, each_event)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as floats, also from numpy and torch; None for inf and nan."""
    found: dict[str, float | None] = {}
    for name, value in values.items():
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"the metric {name!r} is a {type(value).__name__}: pass a number"
            ) from error
        found[name] = number if math.isfinite(number) else None
    return found


def parse_extra_params(value: Any) -> Any:
    """Extra params as sent: JSON text is parsed, any other text stays text."""
    if not value:
        return {}
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


# What a user's function accepts


def accepted(
    function: Callable[..., Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The named arguments that a function accepts."""
    try:
        names = _known[function]
    except KeyError:
        names = _known[function] = _names(function)
    if names is None:
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in names}


def takes_annotations(fit: Callable[..., Any]) -> bool:
    """Whether a bound ``fit`` is ``fit(completions, workdir=None, **kwargs)``.

    That is its shape in label_studio_ml 1.0.
    """
    places = _places(_parameters(fit))
    names = {parameter.name for parameter in _parameters(fit)}
    first = places[0] if places else ""
    return first in _OLD_NAMES or (first != "event" and "workdir" in names)


def call_fit(
    fit: Callable[..., Any],
    event: str,
    data: dict[str, Any],
    annotated_tasks: Callable[[], Iterable[Any]],
    **others: Any,
) -> Any:
    """Call ``fit`` with what ``bind_fit`` finds; it may raise anything."""
    bound = bind_fit(fit, event, data, annotated_tasks, **others)
    return fit(*bound.args, **bound.kwargs)


def bind_fit(
    fit: Callable[..., Any],
    event: str,
    data: dict[str, Any],
    annotated_tasks: Callable[[], Iterable[Any]],
    **others: Any,
) -> inspect.BoundArguments:
    """The arguments that the signature of a bound ``fit`` accepts.

    Args:
        fit: gets the event and its data as the first two arguments, as from
            label_studio_ml 2.0; or what 1.0 gave it, if ``takes_annotations``.
        event: the action of the event.
        data: the event's body.
        annotated_tasks: called for a ``fit`` of 1.0.
        others: named arguments, such as ``job_id``.

    Raises:
        TrainingError: if the signature needs other arguments.
    """
    parameters = _parameters(fit)
    given: dict[str, Any] = {"event": event, "data": data, **others}
    if takes_annotations(fit):
        places: list[Any] = [annotated_tasks()]
    else:
        is_open = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        places = [event, data][: 2 if is_open else len(_places(parameters))]
        for name in ("event", "data")[: len(places)]:
            del given[name]
    for name in _places(parameters)[: len(places)]:
        given.pop(name, None)
    named = accepted(fit, given)
    try:
        return inspect.signature(fit).bind(*places, **named)
    except TypeError as error:
        shown = f"fit{inspect.signature(fit)}"
        raise TrainingError(
            f"{shown} cannot be called ({error}): write {FIT_SHAPE}"
        ) from None


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _places(parameters: list[inspect.Parameter]) -> list[str]:
    """The names of the parameters that may be given by position."""
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _names(function: Callable[..., Any]) -> frozenset[str] | None:
    """The argument names of a function; None if it accepts any."""
    parameters = _parameters(function)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY)
