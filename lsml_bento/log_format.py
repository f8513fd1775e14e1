"""The log's two formats: text for people, one JSON object per line for machines."""

from __future__ import annotations

import json
import logging
import re

from lsml_bento.contract import iso_time

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS = ("job", "project", "task")
_FIELD = re.compile(rf"(?<![\w.])({'|'.join(_FIELDS)})=(['\"]?)([^\s'\",;:()]+)\2")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger`` and ``event``.

    ``job``, ``project`` and ``task`` are fields where the event's text contains them as
    ``job=...``, or the logging call got them as ``extra``. A traceback is one field.
    """

    def format(self, record: logging.LogRecord) -> str:
        event = record.getMessage()
        line = {
            "time": iso_time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "event": event,
        }
        line |= {name: value for name, _, value in _FIELD.findall(event)}
        given = {name: getattr(record, name, None) for name in _FIELDS}
        line |= {name: str(value) for name, value in given.items() if value is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_log(level: str, log_format: str) -> None:
    """Write this process's log to standard error, as ``"text"`` or ``"json"``."""
    logging.basicConfig(level=level, format=_TEXT, force=True)
    if log_format == "json":
        write_json()


def write_json() -> None:
    """Let every handler that exists write JSON, including those of BentoML."""
    logging.captureWarnings(True)
    known = list(logging.root.manager.loggerDict.values())
    for logger in [logging.root, *known]:
        for handler in getattr(logger, "handlers", ()):
            handler.setFormatter(JsonFormatter())
