"""``lsml-bento jobs``: list, show, cancel and retry."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from lsml_bento.jobs.events import Event
from lsml_bento.jobs.job import JobStatus, gather
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.model.training_policy import TrainingRules
from lsml_bento.state.store import Change
from tests.cli.commands import TOOL
from tests.cli.place import LEARNER, ONE, TWO, Place, QuickPlace, seconds

NO_WORKER = (
    "No worker is running for this backend. The job waits until you run `lsml-bento "
    "start .` or `lsml-bento worker .`.\n"
)


@pytest.fixture
def place(tmp_path: Path) -> QuickPlace:
    made = QuickPlace(tmp_path / "backend")
    made.connect(ONE, TWO)
    return made


def test_an_empty_list_says_so(place: Place) -> None:
    assert place.said("jobs", "list") == (
        "No jobs yet. Annotate in Label Studio or run `lsml-bento train`.\n"
    )
    assert place.said("jobs", "list", "--project", "9") == "No jobs found.\n"
    assert place.json("jobs", "list") == {"jobs": []}


def test_jobs_are_listed_newest_first(place: Place) -> None:
    failed, waiting = place.failed(), place.job(TWO)

    [head, first, second] = place.said("jobs", "list").splitlines()

    assert head.split()[:4] == ["job", "project", "event", "status"]
    assert first.split()[:4] == [waiting.id[-6:], str(TWO), "START_TRAINING", "queued"]
    assert second.split()[:4] == [failed.id[-6:], str(ONE), "START_TRAINING", "failed"]
    assert "1 min ago" in second
    assert "fit() raised Oops" in second


def test_jobs_are_listed_as_the_http_api_does(place: Place) -> None:
    failed, waiting = place.failed(), place.job(TWO)

    assert place.json("jobs", "list") == {"jobs": [waiting.public(), failed.public()]}
    for options, found in (
        (["--project", "1"], failed),
        (["--project", str(TWO)], waiting),
        (["--status", "queued"], waiting),
        (["--limit", "1"], waiting),
    ):
        assert place.json("jobs", "list", *options) == {"jobs": [found.public()]}


def test_a_job_is_shown_with_its_traceback_and_log(place: Place) -> None:
    failed = place.failed()

    said = place.said("jobs", "show", failed.id[-6:])

    lines = [" ".join(line.split()) for line in said.splitlines()]
    for fact in (
        f"job {failed.id}",
        "status failed",
        "progress 50%",
        "error fit() raised Oops",
        "collected 1 events, 0 annotations",
        "attempts 1",
        "worker me",
    ):
        assert fact in lines
    [created] = [line for line in lines if line.startswith("created")]
    assert created.endswith("Z (1 min ago)")
    assert lines[-7:] == ["traceback", "Traceback:", "Oops", "", "log", "one", "two"]
    details = place.json("jobs", "show", failed.id[:14])
    assert details == {**failed.details(), "log": ["one", "two"]}


def test_an_ambiguous_or_unknown_job_is_an_error(place: Place) -> None:
    one, two = place.failed(), place.job(TWO)

    assert place.refused("jobs", "show", "0") == (
        f"2 jobs match '0': {two.id}, {one.id}; give more of the id"
    )
    assert place.refused("jobs", "cancel", "zz") == (
        "there is no job 'zz': `lsml-bento jobs list` shows them"
    )


def test_a_queued_job_is_cancelled_and_retried(place: Place) -> None:
    job = place.job()

    assert place.said("jobs", "cancel", job.id) == f"Cancelled job {job.id}.\n"
    assert place.said("jobs", "cancel", job.id) == (
        f"Job {job.id} has already ended: cancelled.\n"
    )
    done = place.run("jobs", "retry", job.id)
    assert (done.returncode, done.stderr) == (0, NO_WORKER)
    assert done.stdout == f"Queued job {job.id} again.\n"
    assert place.json("jobs", "cancel", job.id)["status"] == "cancelled"


def test_a_running_job_is_stopped(place: Place) -> None:
    job = place.job()
    with place.state() as state:
        assert JobStore(state).lease("me") is not None

    assert place.said("jobs", "cancel", job.id) == (
        f"Stopping job {job.id}; it is killed after 5 s.\n"
    )
    assert place.said("jobs", "retry", job.id) == (
        f"Job {job.id} is running: only failed or cancelled jobs can be retried.\n"
    )
    shown = place.said("jobs", "show", job.id).split()
    assert " ".join(shown).count("stopping yes") == 1


def test_a_retry_starts_the_job_that_is_already_queued(place: Place) -> None:
    failed, waiting = place.failed(), place.job()

    assert place.run("jobs", "retry", failed.id).stdout == (
        f"Job {waiting.id} of this project was already queued and starts now.\n"
    )


def test_ten_thousand_jobs_are_listed_within_a_second(place: Place) -> None:
    def work(change: Change) -> None:
        for number in range(10_000):
            event = Event("ANNOTATION_CREATED", ONE, {}, ({"id": number},))
            rules = TrainingRules(each_event=True)
            gather(change, event, [number], rules, time.time())

    with place.state() as state:
        state.change(work)
    empty = Place(place.directory.parent / "empty", model=LEARNER)
    started = seconds(empty, "jobs", "list")

    for options in ([], ["--limit", "10000"], ["--limit", "10000", "--json"]):
        assert seconds(place, "jobs", "list", *options) - started < 1


# Following


@contextmanager
def leased(place: Place) -> Iterator[tuple[JobStore, Lease]]:
    """A job that runs in this process."""
    place.job()
    with place.state() as state:
        lease = JobStore(state).lease("me")
        assert lease is not None
        yield JobStore(state), lease


def test_a_job_is_followed_to_its_end(place: Place) -> None:
    with (
        leased(place) as (store, lease),
        place.running("jobs", "show", lease.job.id, "--follow") as shown,
    ):
        store.renew(lease, progress=0.25, log_tail=["one"])
        shown.await_line("one\n")
        store.renew(lease, progress=0.5, metrics={"f1": 0.5}, log_tail=["one", "two"])
        shown.await_line("two\n")
        store.succeed(lease, "v1", {})
        assert shown.process.wait(20) == 0

    name = lease.job.id
    assert sorted(shown.log.splitlines()) == [
        f"job {name} running",
        f"job {name} succeeded: v1 (f1 0.5)",
        *("one", "two"),
    ]
    assert shown.log.endswith(f"two\njob {name} succeeded: v1 (f1 0.5)\n")


def test_the_exit_code_is_zero_only_if_it_succeeded(place: Place) -> None:
    failed = place.failed()

    done = place.run("jobs", "show", failed.id, "--follow")

    assert done.returncode == 1
    assert done.stdout == f"one\ntwo\njob {failed.id} failed: fit() raised Oops\n"
    done = place.run("jobs", "show", failed.id, "--follow", "--json")
    assert done.returncode == 1
    assert f'"id": "{failed.id}"' in done.stdout
    assert done.stdout.startswith("{")


def test_ctrl_c_leaves_the_job_alone(place: Place) -> None:
    with leased(place) as (store, lease):
        with place.running("jobs", "show", lease.job.id, "--follow") as shown:
            shown.await_line("running")
            assert shown.end(signal.SIGINT) == 130
        assert shown.log.endswith(
            "The job keeps running. Follow it again with `lsml-bento jobs show "
            f"{lease.job.id} --follow`.\n"
        )
        assert store.find(lease.job.id).status is JobStatus.RUNNING


def test_on_a_terminal_jobs_are_watched_until_ctrl_c(place: Place) -> None:
    with (
        leased(place) as (store, lease),
        terminal(place, "jobs", "list", "--watch") as t,
    ):
        store.renew(lease, progress=0.25)
        t.await_text("25%")
        store.renew(lease, progress=0.75)
        t.await_text("75%")
        store.succeed(lease, "v1", {})
        t.await_text("succeeded")
        t.process.send_signal(signal.SIGINT)
        t.await_end()
        assert t.process.returncode == 0


def test_on_a_terminal_a_bar_shows_the_progress_of_a_job(place: Place) -> None:
    with leased(place) as (store, lease):
        follow = ["jobs", "show", lease.job.id, "--follow"]
        with terminal(place, *follow) as t:
            store.renew(lease, progress=0.25, log_tail=["one"])
            t.await_text("25%")
            store.renew(lease, progress=0.75, metrics={"f1": 0.5})
            t.await_text("f1 0.5")
            store.succeed(lease, "v1", {})
            t.await_text("succeeded")
            t.await_end()
            assert t.process.returncode == 0


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process = process
        self._end = end
        self.text = ""

    def await_text(self, part: str, timeout_s: float = 40) -> None:
        """Read until the terminal has shown something."""
        deadline = time.monotonic() + timeout_s
        while part not in self.text:
            assert time.monotonic() < deadline, f"no {part!r} in {self.text!r}"
            self._read()

    def await_end(self, timeout_s: float = 20) -> None:
        """Read until the command has ended."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            self._read()

    def _read(self) -> None:
        ready, _, _ = select.select([self._end], [], [], 0.1)
        with suppress(OSError):  # of a terminal that nobody writes to any more
            self.text += os.read(self._end, 65536).decode() if ready else ""


@contextmanager
def terminal(place: Place, *arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(TOOL), *arguments],
        cwd=place.directory,
        env={**place.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def test_watch_and_json_cannot_be_combined(place: Place) -> None:
    done = place.run("jobs", "list", "--watch", "--json")
    assert done.returncode == 2
    assert "--watch and --json cannot be combined" in done.stderr


def test_jobs_are_the_same_on_redis(tmp_path: Path, redis_server: str) -> None:
    name = f"Learner{uuid4().hex[:8]}"
    model = LEARNER.replace("class Learner", f"class {name}")
    place = Place(tmp_path / "backend", redis_server, model=model)
    place.name = name.lower()
    place.connect()
    job = place.job()

    assert place.json("jobs", "list") == {"jobs": [job.public()]}
    assert place.said("jobs", "cancel", job.id[-6:]) == f"Cancelled job {job.id}.\n"
    # Workers of other machines may train, so that nobody is missed.
    assert place.said("jobs", "retry", job.id) == f"Queued job {job.id} again.\n"
    assert place.json("jobs", "show", job.id)["status"] == "queued"
