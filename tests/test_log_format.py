"""The log as text and as JSON."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from lsml_bento.contract import parse_time
from lsml_bento.log_format import JsonFormatter, TextFormatter
from lsml_bento.training.child_process import text_lines


def logged(message: str, *arguments: object, **options: Any) -> dict[str, Any]:
    """A line of the log, parsed."""
    record = logging.LogRecord(
        "lsml_bento.jobs", logging.WARNING, __file__, 1, message, arguments, None
    )
    vars(record).update(options)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_has_time_level_logger_and_event() -> None:
    line = logged("Worker started: %s", "host")

    assert parse_time(line.pop("time")).year >= 2026
    assert line == {
        "level": "WARNING",
        "logger": "lsml_bento.jobs",
        "event": "Worker started: host",
    }


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("job=ab12 project=1.1795426489 waits", ("ab12", "1.1795426489", None)),
        ("Fit failed: no memory job=ab12, project=1", ("ab12", "1", None)),
        ("could not read (task=7): project='1.2'", (None, "1.2", "7")),
        ("my_job=3 project= a.task=4", (None, None, None)),
    ],
)
def test_what_the_event_is_about_is_in_fields(
    text: str, fields: tuple[str | None, ...]
) -> None:
    line = logged(text)

    assert tuple(map(line.get, ("job", "project", "task"))) == fields
    assert line["event"] == text


def test_an_argument_cannot_add_or_replace_a_field() -> None:
    error = KeyError("project=99 job=abc task=7")
    line = logged("Predict failed: project=%s tasks=%d: %s %r", "1.5", 3, error, error)

    assert line["project"] == "1.5"
    assert not {"job", "task"} & line.keys()
    assert line["event"].endswith(f"{error} {error!r}")
    assert logged("%(why)s job=%(job)s", {"why": "task=7", "job": "a"})["job"] == "a"
    assert "job" not in logged("%s", "job=ab12 waits")


def test_what_the_call_got_as_extra_is_in_fields_too() -> None:
    assert logged("predicted", task=7)["task"] == "7"


def test_a_traceback_is_one_field() -> None:
    try:
        raise ValueError("first\nsecond \ud800")
    except ValueError as error:
        line = logged("it failed", exc_info=(ValueError, error, error.__traceback__))

    assert line["event"] == "it failed"
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("ValueError: first\nsecond \ud800")


def test_a_json_line_becomes_text_for_people() -> None:
    line = {"time": "T", "level": "INFO", "logger": "a", "event": "b", "job": "c"}

    assert list(text_lines(json.dumps(line))) == ["T INFO a: b"]
    assert list(text_lines(json.dumps({**line, "traceback": "d\n  e"}))) == [
        "T INFO a: b",
        "d",
        "  e",
    ]


@pytest.mark.parametrize(
    "line", ["", "epoch 3", '{"loss": 0.5}', '{"time": 1}', '{"time": "T", "event"']
)
def test_any_other_line_stays_as_it_is(line: str) -> None:
    assert list(text_lines(line)) == [line]


FORGED = "2030-01-01 00:00:00 ERROR lsml_bento: forged"
BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]


def written(name: str, message: str, *arguments: object, **options: Any) -> str:
    """What the text format writes."""
    record = logging.LogRecord(
        name, logging.WARNING, __file__, 1, message, arguments, options.pop("exc", None)
    )
    vars(record).update(options)
    formatter = TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    return formatter.format(record)


@pytest.mark.parametrize("logger", ["lsml_bento.jobs", "bentoml.access"])
@pytest.mark.parametrize("separator", [*BREAKS, "\x1b[2K"])
def test_an_argument_cannot_start_a_line(logger: str, separator: str) -> None:
    text = written(logger, "Predict failed: %s", f"task{separator}{FORGED}")

    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    escaped = separator.encode("unicode_escape").decode()
    assert text.endswith(f": Predict failed: task{escaped}{FORGED}")


def test_letters_tabs_and_quotes_stay_as_they_are() -> None:
    said = "Größe\t'日本語' \\n 🦊"

    assert written("lsml_bento.jobs", "%s", said).endswith(f"lsml_bento.jobs: {said}")


@pytest.mark.parametrize("separator", BREAKS)
def test_further_lines_of_user_code_are_indented(separator: str) -> None:
    text = written("model", "table:%s", f"{separator}{FORGED}")

    assert text.splitlines()[1:] == [f"    {FORGED}"]


@pytest.mark.parametrize("separator", BREAKS)
def test_a_traceback_is_indented(separator: str) -> None:
    try:
        raise ValueError(f"task{separator}{FORGED}")
    except ValueError as error:
        exc = (ValueError, error, error.__traceback__)
    for text in (
        written("lsml_bento.jobs", "Fit failed", exc=exc),
        written("lsml_bento.jobs", "Fit failed", traceback=f"task{separator}{FORGED}"),
    ):
        first, *others = text.splitlines()

        assert first.endswith(" WARNING lsml_bento.jobs: Fit failed")
        assert others[-1] == f"    {FORGED}"
        assert all(line.startswith("    ") for line in others)


def test_a_traceback_of_another_process_is_one_field() -> None:
    assert logged("Fit failed", traceback="a\nb")["traceback"] == "a\nb"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_every_handler_and_warnings_write_the_format(log_format: str) -> None:
    program = f"""
import logging, sys, warnings
own = logging.getLogger("bentoml")
own.addHandler(logging.StreamHandler())
own.propagate = False
from lsml_bento.log_format import configure_log
configure_log("INFO", {log_format!r})
logging.getLogger("lsml_bento").info("job=%s waits", "ab12")
logging.getLogger("lsml_bento").debug("left out")
own.warning("Service loaded")
own.warning("GET %s", "/a\\nforged\\u2028forged")
warnings.warn("old name")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    lines = done.stderr.splitlines()
    assert done.stdout == ""
    if log_format == "text":
        assert lines[0].endswith(" INFO lsml_bento: job=ab12 waits")
        assert lines[1:3] == ["Service loaded", r"GET /a\nforged\u2028forged"]
        return
    found = [json.loads(line) for line in lines]
    loggers = [one["logger"] for one in found]
    assert loggers == ["lsml_bento", "bentoml", "bentoml", "py.warnings"]
    assert found[0]["job"] == "ab12"
    assert "old name" in found[3]["event"]


SILENCING = {
    "dictConfig": """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "handlers": {"none": {"class": "logging.NullHandler"}},
    "root": {"level": "CRITICAL", "handlers": ["none"]},
})
""",
    "fileConfig": r"""
import io, logging.config
logging.config.fileConfig(io.StringIO(
    "[loggers]\nkeys=root\n[handlers]\nkeys=none\n[formatters]\nkeys=\n"
    "[logger_root]\nlevel=CRITICAL\nhandlers=none\n"
    "[handler_none]\nclass=NullHandler\nargs=()\n"
))
""",
    "basicConfig": """
logging.basicConfig(level="CRITICAL", handlers=[logging.NullHandler()], force=True)
""",
    "disable": "logging.disable(logging.CRITICAL)",
    "root": "logging.root.handlers.clear(); logging.root.setLevel('CRITICAL')",
}


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("how", SILENCING)
def test_logging_that_user_code_configures_does_not_silence_ours(
    how: str, log_format: str
) -> None:
    program = f"""
import logging, sys
early = logging.getLogger("lsml_bento.prediction.model_pool")
from lsml_bento.log_format import configure_log
configure_log("INFO", {log_format!r})
late = logging.getLogger("lsml_bento.adapters.huey_queue")
{SILENCING[how]}
early.info("job=%s early", "ab12")
late.info("late")
late.debug("left out")
logging.getLogger("lsml_bento").warning("root")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    lines = done.stderr.splitlines()
    if log_format == "json":
        lines = [json.loads(line)["event"] for line in lines]
    assert [line.split()[-1] for line in lines] == ["early", "late", "root"]


def test_user_code_may_configure_our_log_by_its_name() -> None:
    program = """
import logging, logging.config
from lsml_bento.log_format import configure_log
configure_log("INFO", "text")
logging.config.dictConfig({
    "version": 1,
    "formatters": {"own": {"format": "own %(message)s"}},
    "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
    "loggers": {"lsml_bento": {"handlers": ["own"], "level": "ERROR"}},
})
log = logging.getLogger("lsml_bento.prediction.model_pool")
log.warning("left out")
log.error("kept")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stderr.splitlines() == ["own kept"]
