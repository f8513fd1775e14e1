"""One run as its worker sees it: whatever happens, the job ends and says why."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.errors import JobNotFound, LeaseLost
from lsml_bento.jobs.job import LEASE_S, MAX_ATTEMPTS, Job, JobStatus
from lsml_bento.jobs.job_store import JobStore, Lease
from lsml_bento.state.store import below
from lsml_bento.training.child_process import FitProcess
from lsml_bento.training.job_supervisor import JobSupervisor
from lsml_bento.versions.registry import Version
from lsml_bento.versions.weights import store_name
from tests.fits import NAME, ONE, Home, eventually, speaker


class Supervised:
    """Runs jobs in processes that do something small."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.processes: list[FitProcess] = []
        self.is_stopping = False

    def watch(
        self,
        does: str,
        lease: Lease | None = None,
        *,
        timeout_s: float = 60,
        grace_s: float = 0.4,
    ) -> JobSupervisor:
        self.processes.append(speaker(does))
        return JobSupervisor(
            lease or self.home.lease(),
            self.processes[-1],
            self.home.job_store,
            self.home.publisher,
            timeout_s,
            lambda: self.is_stopping,
            grace_s,
        )

    def run(self, does: str, lease: Lease | None = None, **options: float) -> Job:
        lease = lease or self.home.lease()
        self.is_well = self.watch(does, lease, **options).run()
        return self.home.job(lease)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


@pytest.fixture
def supervised(home: Home) -> Iterator[Supervised]:
    made = Supervised(home)
    yield made
    for process in made.processes:
        process.kill()


def when_running(home: Home, then: Callable[[Job], Any]) -> threading.Thread:
    """Do something once the run has shown that it runs."""

    def work() -> None:
        [job] = eventually(lambda: home.job_store.jobs(status=JobStatus.RUNNING))
        eventually(lambda: home.job_store.log_tail(job.id), "the first line")
        then(job)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def weights_of(home: Home) -> dict[str, Any]:
    """What the process of a run that saved weights answers."""
    version = f"v{len(home.stored) + 1}"
    with home.weights.writing() as directory:
        (directory / "a.bin").touch()
        saved = home.weights.keep(directory, store_name(NAME, ONE), version, {}, {})
    made = Version(
        version=version, created_at=1, tag=saved.tag, manifest=saved.manifest
    )
    return made.model_dump(mode="json")


def made(home: Home, after: str = "") -> str:
    return f"{after}\nsend(done={weights_of(home)!r})\n"


class TestARunThatGoesWell:
    def test_its_version_serves(self, home: Home, supervised: Supervised) -> None:
        job = supervised.run(made(home))

        assert (job.status, job.version, job.progress) == (
            *(JobStatus.SUCCEEDED, "v1"),
            1.0,
        )
        assert home.active.version == "v1"
        assert supervised.is_well, "the process takes another job"

    def test_one_that_made_nothing_succeeds_too(
        self, home: Home, supervised: Supervised
    ) -> None:
        job = supervised.run("")

        assert (job.status, job.version, job.error) == (JobStatus.SUCCEEDED, None, None)

    def test_its_reports_are_visible_while_it_runs(
        self, home: Home, supervised: Supervised
    ) -> None:
        seen: list[Job] = []

        def look(job: Job) -> None:
            eventually(lambda: home.job(job).note, "the last report")
            seen.append(home.job(job))
            home.job_store.cancel(job.id)

        thread = when_running(home, look)
        job = supervised.run(
            """
            send(report={"source": "annotation store"})
            send(report={"progress": 0.25, "metrics": {"loss": 2.0, "f1": None}})
            send(report={"progress": None, "metrics": {"loss": 1.0}})
            send(report={"note": "set LABEL_STUDIO_API_KEY"})
            note("epoch 1")
            while not stopped: time.sleep(0.01)
            """
        )
        thread.join()

        assert seen[0].progress == 0.25
        assert seen[0].metrics == {"loss": 1.0, "f1": None}
        assert (seen[0].source, seen[0].note) == (
            "annotation store",
            "set LABEL_STUDIO_API_KEY",
        )
        assert home.job_store.log_tail(job.id) == [f"has {job.id}", "epoch 1"]
        assert job.status is JobStatus.CANCELLED

    def test_the_last_lines_are_kept(self, home: Home, supervised: Supervised) -> None:
        job = supervised.run("for n in range(300): note(str(n))")

        assert home.job_store.log_tail(job.id) == [str(n) for n in range(100, 300)]

    def test_the_lease_is_kept_for_as_long_as_it_takes(
        self, home: Home, supervised: Supervised
    ) -> None:
        lease = home.lease()
        before = lease.job.lease_until
        supervised.run("time.sleep(1.5)", lease)

        assert home.job(lease).lease_until > before + 1


class TestARunThatFails:
    def test_its_reason_is_kept_with_the_traceback(
        self, home: Home, supervised: Supervised
    ) -> None:
        job = supervised.run("send(failed='no luck', traceback='line 1\\nline 2')")

        assert (job.status, job.error) == (JobStatus.FAILED, "no luck")
        assert job.traceback == "line 1\nline 2"
        assert supervised.is_well, "its process did not fail"

    @pytest.mark.parametrize(
        ("does", "reason"),
        [
            ("os._exit(3)", "ended by itself with exit code 3"),
            ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ],
    )
    def test_a_death_is_tried_again_and_fails_the_third_time(
        self, home: Home, supervised: Supervised, does: str, reason: str
    ) -> None:
        lease: Lease | None = home.lease()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            assert lease is not None
            job = supervised.run(does, lease)
            assert not supervised.is_well
            assert job.attempts == attempt
            if attempt < MAX_ATTEMPTS:
                assert job.status is JobStatus.QUEUED
                assert job.note is not None
                assert job.note.startswith("run again: the process of fit ")
                assert reason in job.note
                lease = home.job_store.lease("test")

        assert job.status is JobStatus.FAILED
        assert job.error is not None
        assert job.error.startswith("the run ended without a result 3 times (last: ")
        assert reason in job.error
        assert home.job_store.lease("test") is None

    def test_one_that_the_state_failed_is_tried_again(
        self, home: Home, supervised: Supervised
    ) -> None:
        job = supervised.run("send(failed='Redis is away', traceback='', again=True)")

        assert (job.status, job.attempts) == (JobStatus.QUEUED, 1)
        assert job.note == "run again: Redis is away"
        assert supervised.is_well

    def test_a_run_over_the_time_limit_is_asked_to_stop_and_fails(
        self, home: Home, supervised: Supervised
    ) -> None:
        does = made(home, "while not stopped: time.sleep(0.01)")
        job = supervised.run(does, timeout_s=0.5)

        assert (job.status, job.error) == (
            *(JobStatus.FAILED,),
            "fit took longer than 0.5 s (LSML_FIT_TIMEOUT_S)",
        )
        assert (home.names, home.stored) == ([], []), "what it made is dropped"
        assert supervised.is_well

    def test_a_run_over_the_time_limit_that_does_not_stop_is_killed(
        self, home: Home, supervised: Supervised
    ) -> None:
        job = supervised.run("time.sleep(60)", timeout_s=0.5)

        assert job.status is JobStatus.FAILED
        assert job.error == "fit took longer than 0.5 s (LSML_FIT_TIMEOUT_S)"
        assert job.attempts == 1
        assert not supervised.is_well


class TestCancelling:
    def test_a_run_that_listens_ends_by_itself(
        self, home: Home, supervised: Supervised
    ) -> None:
        thread = when_running(home, lambda job: home.job_store.cancel(job.id))
        start = time.monotonic()
        job = supervised.run("while not stopped: time.sleep(0.01)", grace_s=30)
        thread.join()

        assert (job.status, job.error) == (JobStatus.CANCELLED, None)
        assert time.monotonic() - start < 5
        assert supervised.is_well

    def test_what_it_made_nevertheless_is_dropped(
        self, home: Home, supervised: Supervised
    ) -> None:
        thread = when_running(home, lambda job: home.job_store.cancel(job.id))
        job = supervised.run(made(home, "while not stopped: time.sleep(0.01)"))
        thread.join()

        assert (job.status, job.version) == (JobStatus.CANCELLED, None)
        assert (home.names, home.stored) == ([], [])

    def test_one_that_fails_for_being_stopped_is_cancelled(
        self, home: Home, supervised: Supervised
    ) -> None:
        thread = when_running(home, lambda job: home.job_store.cancel(job.id))
        job = supervised.run(
            """
            while not stopped: time.sleep(0.01)
            send(failed="interrupted")
            """
        )
        thread.join()

        assert (job.status, job.error) == (JobStatus.CANCELLED, None)

    def test_one_that_does_not_listen_is_killed(
        self, home: Home, supervised: Supervised
    ) -> None:
        thread = when_running(home, lambda job: home.job_store.cancel(job.id))
        start = time.monotonic()
        job = supervised.run("time.sleep(60)")
        thread.join()

        assert (job.status, job.error) == (JobStatus.CANCELLED, None)
        assert time.monotonic() - start < 5
        assert not supervised.is_well
        assert not supervised.processes[-1].is_alive

    def test_weights_of_another_version_are_not_dropped(
        self, home: Home, supervised: Supervised
    ) -> None:
        supervised.run(made(home))
        same = home.active.model_copy(update={"version": "v2"}).model_dump(mode="json")
        thread = when_running(home, lambda job: home.job_store.cancel(job.id))
        supervised.run(f"while not stopped: time.sleep(0.01)\nsend(done={same!r})")
        thread.join()

        assert home.names == ["v1"]
        assert home.stored == [home.active.tag]


class TestAWorkerThatEnds:
    def test_the_job_is_put_back_and_the_run_does_not_count(
        self, home: Home, supervised: Supervised
    ) -> None:
        def stop(_: Job) -> None:
            supervised.is_stopping = True

        thread = when_running(home, stop)
        job = supervised.run("time.sleep(60)")
        thread.join()

        assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
        assert not supervised.is_well
        assert not supervised.processes[-1].is_alive

    def test_what_was_made_in_the_last_moment_is_dropped(
        self, home: Home, supervised: Supervised
    ) -> None:
        # A supervisor tells all processes to end: fit stops early, and is not done.
        lease = home.lease()
        watch = supervised.watch(made(home), lease)
        supervised.processes[-1].send(lease.job)
        supervised.processes[-1].await_log(timeout_s=10)
        supervised.is_stopping = True

        assert not watch.run()
        assert home.job(lease).status is JobStatus.QUEUED
        assert (home.names, home.stored) == ([], [])


class TestAJobThatIsLost:
    def test_another_run_s_job_is_not_written_to(
        self, home: Home, supervised: Supervised
    ) -> None:
        home.job_store = JobStore(home.state, now=lambda: time.time() - LEASE_S - 1)
        lease = home.lease()
        home.job_store = JobStore(home.state)
        home.job_store.expire()
        other = home.job_store.lease("other")
        assert other is not None
        watch = supervised.watch(made(home), lease)
        supervised.processes[-1].send(lease.job)
        supervised.processes[-1].await_log(timeout_s=10)

        with pytest.raises(LeaseLost, match=r"lease lost: job .* is now"):
            watch.run()

        assert home.job(lease).token == other.token
        assert (home.names, home.stored) == ([], []), "what it made is dropped"

    def test_a_project_that_was_forgotten_ends_the_run(
        self, home: Home, supervised: Supervised
    ) -> None:
        lease = home.lease()

        def forget(_: Job) -> None:
            for key, _value in home.state.scan(below("job")):
                home.state.change(lambda change, k=key: change.delete(k))  # type: ignore[misc]

        thread = when_running(home, forget)
        with pytest.raises(JobNotFound):
            supervised.watch("time.sleep(60)", lease).run()
        thread.join()


def locked(home: Home, seconds: float) -> threading.Thread:
    """Another process writes to the state for so long."""
    held = threading.Event()

    def hold() -> None:
        path = home.path / "home" / "state.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            held.set()
            time.sleep(seconds)
            connection.execute("ROLLBACK")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    return thread


class TestAStateThatIsAway:
    def test_a_job_that_ends_meanwhile_still_ends(
        self, home: Home, supervised: Supervised
    ) -> None:
        lease = home.lease()
        does = made(home)
        thread = locked(home, 2.6)
        job = supervised.run(does, lease)
        thread.join()

        assert (job.status, job.version) == (JobStatus.SUCCEEDED, "v1")
        assert home.active.version == "v1"

    def test_a_worker_that_ends_does_not_wait_for_it(
        self, home: Home, supervised: Supervised
    ) -> None:
        lease = home.lease()
        thread = locked(home, 2.6)
        supervised.is_stopping = True
        with pytest.raises(LeaseLost, match="could not be written, and the worker"):
            supervised.run("time.sleep(60)", lease)
        thread.join()

        assert home.job(lease).status is JobStatus.RUNNING, "until its lease runs out"


def test_its_log_lines_show_version_and_note_apart_and_end_without_a_space(
    supervised: Supervised, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    job = supervised.run('send(report={"note": "few annotations"})')
    about = f"job={job.id} project={ONE}"
    failed = supervised.run('send(failed="ValueError", traceback="Traceback: 1")')

    assert f"Fit succeeded {about} version=None note='few annotations'" in (
        caplog.messages
    )
    failure = caplog.records[-1]
    assert failure.message == f"Fit failed: ValueError job={failed.id} project={ONE}"
    assert vars(failure)["traceback"] == "Traceback: 1"
