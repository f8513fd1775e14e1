"""A child process as its worker sees it: what it says, how it dies, what it leaves."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lsml_bento.jobs.job import Job
from lsml_bento.training.child_process import LOG_LINES, FitProcess
from tests.fits import SPEAKER, eventually, is_gone, speaker

Speak = Callable[..., FitProcess]

JOB = Job(id="a", project="1.100", event="START_TRAINING", created_at=0)


@pytest.fixture
def speak() -> Iterator[Speak]:
    made: list[FitProcess] = []

    def start(*arguments: Any) -> FitProcess:
        made.append(speaker(*arguments))
        return made[-1]

    yield start
    for process in made:
        process.kill()


def answers(process: FitProcess, job: Job = JOB) -> list[Any]:
    """All that it says about a job, None if it dies."""
    process.send(job)
    found: list[Any] = []
    while not found or (found[-1] is not None and "report" in found[-1]):
        found.append(process.receive(timeout_s=10))
    process.await_log(timeout_s=5)
    return found


def test_it_carries_out_one_job_after_the_other(speak: Speak) -> None:
    process = speak('send(report={"progress": 0.5, "of": job["id"]})')

    for name in ("a", "b"):
        assert answers(process, JOB.with_(id=name)) == [
            {"report": {"progress": 0.5, "of": name}},
            {"done": None},
        ]
        assert process.log_tail == [f"has {name}"], "of this job alone"
    assert process.is_alive


def test_only_the_last_lines_are_kept_and_long_ones_are_cut(speak: Speak) -> None:
    process = speak(f"for n in range({LOG_LINES + 50}): note(f'{{n}} ' + 5000 * 'x')")
    answers(process)

    tail = process.log_tail
    assert len(tail) == LOG_LINES
    assert tail[-1].startswith(f"{LOG_LINES + 49} x")
    assert {len(line) for line in tail} == {2_000}


def test_odd_bytes_and_a_last_line_without_an_end_are_kept(speak: Speak) -> None:
    process = speak(r"os.write(2, b'\xff\xfe\r\n'); os.write(2, b'no end')")
    answers(process)

    assert process.log_tail == ["has a", "\ufffd\ufffd", "no end"]


def test_the_log_is_also_copied_to_stderr(
    speak: Speak, capfd: pytest.CaptureFixture[str]
) -> None:
    answers(speak("note('epoch 3')"))

    assert "epoch 3\n" in capfd.readouterr().err


def test_in_json_every_line_of_output_is_an_object_with_its_job(
    capfd: pytest.CaptureFixture[str],
) -> None:
    does = """
        note("epoch 3 task=7")
        note('{"time": "T", "event": "logged"}')
        note("[1]")
    """
    command = [sys.executable, "-c", SPEAKER, textwrap.dedent(does)]
    process = FitProcess(command, os.environ, writes_json=True)
    answers(process)
    process.kill()

    found = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [one["event"] for one in found] == [
        "has a",
        "epoch 3 task=7",
        "logged",
        "[1]",
    ]
    wrapped = [one for one in found if one["event"] != "logged"]
    for one in wrapped:
        assert list(one) == ["time", "level", "logger", "event", "job", "project"]
        assert (one["job"], one["project"]) == ("a", "1.100")
    assert process.log_tail[1] == "epoch 3 task=7"


def test_lines_that_are_not_messages_are_ignored(speak: Speak) -> None:
    process = speak(r"sys.stdout.write('nonsense\n[1]\n\n\xff\n{\n'); send(report={})")

    assert answers(process) == [{"report": {}}, {"done": None}]


def test_thousands_of_messages_come_in_order(speak: Speak) -> None:
    process = speak("for n in range(5000): send(report={'n': n})")

    *reports, last = answers(process)
    assert [r["report"]["n"] for r in reports] == list(range(5000))
    assert last == {"done": None}


def test_nothing_said_in_time_is_none(speak: Speak) -> None:
    process = speak("time.sleep(5)")
    process.send(JOB)
    start = time.monotonic()

    assert process.receive(timeout_s=0.2) is None
    assert 0.1 < time.monotonic() - start < 1
    assert process.is_alive


def test_its_last_message_is_received(speak: Speak) -> None:
    process = speak("send(report={'n': 1}); note('goodbye'); os._exit(3)")

    assert answers(process) == [{"report": {"n": 1}}, None]
    assert process.log_tail == ["has a", "goodbye"]
    process.send(JOB)
    assert process.receive(timeout_s=1) is None, "a dead one takes no job"


@pytest.mark.parametrize(
    ("does", "cause"),
    [
        ("os._exit(3)", "the process of fit ended by itself with exit code 3"),
        ("sys.exit()", "the process of fit ended by itself with exit code 0"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "the process of fit was ended by SIGKILL, probably out of memory",
        ),
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            "the process of fit was ended by SIGSEGV",
        ),
        (
            "os.kill(os.getpid(), signal.SIGRTMIN + 3)",
            f"the process of fit was ended by signal {34 + 3}",
        ),
    ],
)
def test_the_cause_of_death_is_a_phrase(speak: Speak, does: str, cause: str) -> None:
    process = speak(does)

    assert answers(process) == [None]
    assert not process.is_alive
    assert process.cause_of_death() == cause


def test_it_is_asked_to_stop(speak: Speak) -> None:
    process = speak("while not stopped: time.sleep(0.01)")
    process.send(JOB)
    eventually(lambda: process.log_tail, "the job's beginning")
    process.ask_to_stop()

    assert process.receive(timeout_s=5) == {"done": None}
    assert process.is_alive


def test_killing_it_ends_all_that_it_started(speak: Speak) -> None:
    process = speak(
        """
        one = subprocess.Popen(["sleep", "60"])
        two = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 60 & wait"])
        send(report={"pids": [one.pid, two.pid]})
        time.sleep(60)
        """
    )
    process.send(JOB)
    message = process.receive(timeout_s=10)
    assert message is not None
    pids = [process.pid, *message["report"]["pids"]]
    pids += [child.pid for child in psutil.Process(pids[-1]).children()]
    assert not any(is_gone(pid) for pid in pids)

    process.kill()

    eventually(lambda: all(map(is_gone, pids)), "the end of all")
    process.kill()


def test_what_it_started_is_ended_when_it_died_before(speak: Speak) -> None:
    process = speak(
        """
        send(report={"pid": subprocess.Popen(["sleep", "60"]).pid})
        os._exit(1)
        """
    )
    process.send(JOB)
    message = process.receive(timeout_s=10)
    assert message is not None
    eventually(lambda: not process.is_alive, "its death")
    start = time.monotonic()

    process.kill()

    assert time.monotonic() - start < 5, "its children hold the pipes"
    eventually(lambda: is_gone(message["report"]["pid"]), "its child's end")


def test_no_file_and_no_thread_is_left(speak: Speak, tmp_path: Path) -> None:
    own = psutil.Process()
    fds, threads = own.num_fds(), own.num_threads()
    for _ in range(3):
        process = speak()
        answers(process)
        process.kill()

    eventually(lambda: own.num_fds() <= fds and own.num_threads() <= threads)


def test_it_has_a_session_and_an_environment_of_its_own(speak: Speak) -> None:
    environ = {"PATH": os.environ["PATH"], "ONLY": "this"}
    process = speak(
        "send(report={'sid': os.getsid(0), 'env': dict(os.environ)})", environ
    )

    [message, _] = answers(process)
    assert message["report"]["sid"] == process.pid
    assert message["report"]["env"].get("ONLY") == "this"
    assert "HOME" not in message["report"]["env"]


def test_it_gives_way_from_its_first_moment(speak: Speak) -> None:
    process = speak("time.sleep(60)")

    own = psutil.Process().nice()
    assert psutil.Process(process.pid).nice() == min(19, own + 10)
    weighed = Path(f"/proc/{process.pid}/autogroup")
    if weighed.exists():  # Linux, where sessions are weighed
        assert weighed.read_text().endswith(" nice 10\n")


def test_a_command_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="no-such-python"):
        FitProcess(["no-such-python"], os.environ)
    assert sys.executable
