"""Which arguments a user's function accepts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from lsml_bento.errors import TrainingError

FIT_SHAPE = "fit(self, event, data, **kwargs)"
"""How ``fit`` should be written."""

_OLD_NAMES = frozenset({"annotations", "completions", "tasks"})
"""The first parameter of ``fit`` in label_studio_ml 1.0."""

# Weak, since a function keeps the globals of its module alive.
_known: WeakKeyDictionary[Any, frozenset[str] | None] = WeakKeyDictionary()


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
