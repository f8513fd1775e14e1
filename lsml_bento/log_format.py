"""The log's two formats: text for people, one JSON object per line for machines."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from numbers import Number
from pathlib import Path
from typing import Any

from lsml_bento.contract import iso_time

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_OF_ONE_LINE = ("lsml_bento", "bentoml")
_FIELDS = ("job", "project", "task")
_FIELD = re.compile(rf"(?<![\w.])({'|'.join(_FIELDS)})=(['\"]?)([^\s'\",;:()]+)\2")


class TextFormatter(logging.Formatter):
    """Text in which nothing that a message quotes can start a line of its own.

    Messages of this package and of BentoML are one line: control characters and line
    separators are escaped. Further lines of other messages, and tracebacks, are
    indented. A traceback may also come as ``extra={"traceback": text}``.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # as another formatter may have left it, not indented
        text = super().format(record)
        record.exc_text = None
        more = getattr(record, "traceback", None)
        return f"{text}\n{_indented(more)}" if more else text

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        text = super().formatMessage(record)
        if record.name.startswith(_OF_ONE_LINE):
            return _CONTROL.sub(_escaped, text)
        return "\n    ".join(text.splitlines())

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's
        return _indented(super().formatException(ei))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger`` and ``event``.

    ``job``, ``project`` and ``task`` are fields where the call's format contains them
    as ``job=...``, or the call got them as ``extra``. Such a text in an argument, e.g.
    in an error of user code, is not a field. A traceback is one field.
    """

    def format(self, record: logging.LogRecord) -> str:
        event = record.getMessage()
        line = {
            "time": iso_time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "event": event,
        }
        line |= _fields(record)
        given = {name: getattr(record, name, None) for name in _FIELDS}
        line |= {name: str(value) for name, value in given.items() if value is not None}
        if more := getattr(record, "traceback", None):
            line["traceback"] = more
        elif record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Argument:
    """An argument of a logging call, without the ``=`` that would make a field."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return str(self._value).replace("=", " ")

    def __repr__(self) -> str:
        return repr(self._value).replace("=", " ")


def _fields(record: logging.LogRecord) -> dict[str, str]:
    text, given = str(record.msg), record.args
    with suppress(TypeError, ValueError):  # no field of a format for other types
        if isinstance(given, Mapping):
            text %= {name: _inert(value) for name, value in given.items()}
        elif given:
            text %= tuple(map(_inert, given))
    return {name: value for name, _, value in _FIELD.findall(text)}


def _inert(value: object) -> object:
    return value if isinstance(value, Number) else _Argument(value)


class _LastingLogger(logging.Logger):
    """A logger that the logging configuration of user code does not silence.

    ``logging.config.dictConfig`` and ``fileConfig`` disable all loggers that exist.
    """

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, _: bool) -> None:
        pass

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return level >= self.getEffectiveLevel()  # after logging.disable() too


def configure_log(level: str, log_format: str) -> None:
    """Write this process's log to standard error, as ``"text"`` or ``"json"``."""
    logging.basicConfig(level=level, format=_TEXT, force=True)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_TEXT))
    log_apart(handler, level)
    write_as(log_format)


def log_apart(handler: logging.Handler, level: str | int) -> None:
    """Write this package's log with a handler that user code does not replace.

    A logging configuration that names ``lsml_bento`` still applies.
    """
    package = Path(__file__).parent
    for path in package.rglob("*.py"):  # some are imported later
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join((package.name, *parts)).removesuffix(".__init__")
        logging.getLogger(name).__class__ = _LastingLogger
    ours = logging.getLogger(package.name)
    ours.handlers[:], ours.propagate = [handler], False
    ours.setLevel(level)


def write_as(log_format: str) -> None:
    """Let every handler that exists write the format, including those of BentoML."""
    if log_format == "json":
        logging.captureWarnings(True)
    known = list(logging.root.manager.loggerDict.values())
    for logger in [logging.root, *known]:
        for handler in getattr(logger, "handlers", ()):
            if log_format == "json":
                handler.setFormatter(JsonFormatter())
            elif handler.formatter is None:
                handler.setFormatter(TextFormatter())
            elif type(handler.formatter) is logging.Formatter:
                handler.formatter.__class__ = TextFormatter  # keeps format and style
