"""The process that a ``fit`` runs in, as it is started in production."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from lsml_bento.processes.worker import child_environ, fit_command, fit_environ
from lsml_bento.settings import Settings
from lsml_bento.training.child_process import FitProcess, Message
from lsml_bento.versions.registry import Version
from tests.fits import NAME, ONE, Home, eventually, is_gone

MODEL = """
import logging, os, signal, subprocess, sys, time
from lsml_bento import LabelStudioMLBase

fits = []

def fall():
    raise ValueError("no luck")

class Model(LabelStudioMLBase):
    def setup(self):
        self.set("model_version", "base")

    def predict(self, tasks, context=None, **kwargs):
        return []

    def fit(self, event, data, **kwargs):
        fits.append(data["does"])
        exec(data["does"], globals(), {"self": self})
"""
FALLS = 1 + MODEL.splitlines().index('    raise ValueError("no luck")')


class Child:
    """One process for all tests, started again when one of them ended it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._process: FitProcess | None = None

    @property
    def process(self) -> FitProcess:
        if self._process is None or not self._process.is_alive:
            self.close()
            environ = {**child_environ(), **self.home.environ}
            self._process = FitProcess(fit_command(self.home.spec), environ)
        return self._process

    def begin(self, does: str) -> FitProcess:
        """Have a job carried out, on which ``fit`` does something."""
        process = self.process
        job = self.home.enqueue(does=does)
        process.send(job)
        return process

    def run(self, does: str) -> tuple[list[Any], Message | None]:
        """What it reports, and how it ends."""
        process = self.begin(does)
        reports = []
        while (message := process.receive(timeout_s=30)) and "report" in message:
            reports.append(message["report"])
        process.await_log(timeout_s=5)
        return reports, message

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    home = Home(tmp_path_factory.mktemp("fitting"))
    home.write(MODEL)
    made = Child(home)
    yield made
    made.close()
    home.close()


def cmdline(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline()).strip()


class TestWhatItSays:
    def test_reports_come_while_it_runs_and_then_that_it_is_done(
        self, child: Child
    ) -> None:
        reports, message = child.run(
            "self.report(0.25); self.report(loss=1.5); list(self.annotated_tasks())"
        )

        assert reports == [
            {"progress": 0.25, "metrics": {}},
            {"progress": None, "metrics": {"loss": 1.5}},
            {"source": "annotation store"},
        ]
        assert message == {"done": None}

    def test_whatever_is_printed_is_log_and_no_message(self, child: Child) -> None:
        reports, message = child.run(
            """
print("printed", '{"done": 1}')
os.write(1, b'{"done": 2}\\n')
subprocess.run(["echo", '{"done": 3}'])
print("to stderr", file=sys.stderr)
logging.getLogger("mine").info("logged")
print("no end", end="")
"""
        )

        assert (reports, message) == ([], {"done": None})
        tail = child.process.log_tail
        assert tail[:4] == [
            'printed {"done": 1}',
            '{"done": 2}',
            '{"done": 3}',
            "to stderr",
        ]
        assert tail[4].endswith("INFO mine: logged")
        assert tail[5:] == ["no end"]

    def test_what_is_printed_is_seen_while_it_runs(self, child: Child) -> None:
        process = child.begin('print("epoch 1")\nwhile not self.should_stop: pass')
        eventually(lambda: process.log_tail == ["epoch 1"], "the line")
        process.ask_to_stop()

        assert process.receive(timeout_s=5) == {"done": None}

    def test_a_version_is_reported_and_its_weights_are_stored(
        self, child: Child
    ) -> None:
        _, message = child.run(
            """
with self.save_weights({"f1": 0.5}) as directory:
    (directory / "a.bin").touch()
self.set("words", ["a"])
"""
        )

        assert message is not None
        version = Version.model_validate(message["done"])
        assert version.tag == f"learner-p{ONE}:{version.version}"
        assert child.home.stored == [version.tag]
        assert version.values == {"words": ["a"]}
        assert child.home.names == [], "that is the worker's to do"
        child.home.weights.delete(version.tag)

    def test_weights_that_cannot_be_written_fail_the_job(self, child: Child) -> None:
        _, message = child.run(
            """
import resource
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
try:
    with self.save_weights() as directory:
        (directory / "a.bin").write_bytes(bytes(2000))
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
"""
        )

        assert message is not None
        assert "fit() raised OSError: [Errno 27] File too large" in message["failed"]
        assert (child.home.stored, child.home.scraps) == ([], [])

    def test_a_failure_is_a_sentence_and_a_traceback(self, child: Child) -> None:
        _, message = child.run("fall()")

        assert message is not None
        place = f"model.py, line {FALLS}"
        assert message["failed"] == f"fit() raised ValueError: no luck ({place})"
        assert message["traceback"].startswith("Traceback (most recent call last)")
        assert message["traceback"].endswith("\nValueError: no luck\n")

    def test_an_exit_is_a_failure_and_the_process_lives(self, child: Child) -> None:
        before = child.process.pid
        _, message = child.run("sys.exit('no licence')")

        assert message is not None
        assert message["failed"].startswith("fit() raised SystemExit: no licence")
        assert child.process.pid == before

    def test_a_very_long_traceback_is_cut(self, child: Child) -> None:
        _, message = child.run("raise ValueError(200_000 * 'x')")

        assert message is not None
        assert len(message["traceback"]) == 20_000
        assert len(message["failed"]) < 500

    def test_an_error_that_cannot_be_printed_still_ends_the_job(
        self, child: Child
    ) -> None:
        _, message = child.run(
            """
class Odd(Exception):
    def __str__(self):
        raise KeyError("odd")
raise Odd
"""
        )

        assert message is None or "KeyError" in message["failed"]

    def test_a_class_that_does_not_import_is_a_failure(self, child: Child) -> None:
        spec = child.home.spec.to_json().replace('"model"', '"no_such_module"')
        command = fit_command(child.home.spec)[:-1]
        process = FitProcess(
            [*command, spec], {**child_environ(), **child.home.environ}
        )
        process.send(child.home.enqueue())
        message = process.receive(timeout_s=30)
        process.kill()

        assert message is not None
        assert "no_such_module" in message["failed"]


class TestItsProcess:
    def test_what_was_imported_lives_on_between_fits(self, child: Child) -> None:
        child.run("pass")
        child.run("self.report(fits=len(fits), pid=os.getpid())")
        [first], _ = child.run("self.report(fits=len(fits), pid=os.getpid())")
        [second], _ = child.run("self.report(fits=len(fits), pid=os.getpid())")

        assert second["metrics"]["fits"] == first["metrics"]["fits"] + 1
        assert second["metrics"]["pid"] == first["metrics"]["pid"]

    def test_user_code_finds_an_empty_input(self, child: Child) -> None:
        child.begin(
            """
assert sys.stdin.read() == ""
assert subprocess.run(["cat"], stdout=subprocess.PIPE, timeout=5).stdout == b""
"""
        )
        child.process.send(child.home.enqueue(does="pass"))

        found = [child.process.receive(timeout_s=20) for _ in range(2)]
        assert found == [{"done": None}] * 2, "neither took the second job"

    def test_it_is_nice_and_says_what_it_does(self, child: Child) -> None:
        job = child.home.enqueue(does="while not self.should_stop: time.sleep(0.01)")
        process = child.process
        process.send(job)
        own = psutil.Process(process.pid)
        title = f"lsml-bento fit job={job.id} project={ONE} {NAME}"
        eventually(lambda: cmdline(process.pid) == title, "its title")
        assert own.nice() == min(19, psutil.Process().nice() + 10)
        assert own.name().startswith("lsml-bento fit")
        assert "LSML_MODEL_STORE" in own.environ(), "the title must not overwrite it"
        process.ask_to_stop()
        process.receive(timeout_s=5)

        idle = f"lsml-bento fit idle {NAME}"
        eventually(lambda: cmdline(process.pid) == idle, "its title")

    def test_it_leaves_a_core_to_the_servers_and_has_gpus_of_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setenv("MKL_NUM_THREADS", "7")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/metrics")

        environ = fit_environ(Settings.from_env({"LSML_TRAIN_GPUS": "1,2"}))

        cores = len(os.sched_getaffinity(0))
        assert environ["CUDA_VISIBLE_DEVICES"] == "1,2"
        assert environ["OMP_NUM_THREADS"] == str(max(1, cores - 1))
        assert environ["MKL_NUM_THREADS"] == "7", "as somebody wanted it"
        assert "PROMETHEUS_MULTIPROC_DIR" not in environ
        same = fit_environ(Settings.from_env({}))
        assert same["CUDA_VISIBLE_DEVICES"] == "0"


class TestHowItEnds:
    def test_a_process_that_was_asked_to_stop_still_runs_the_next_job(
        self, child: Child
    ) -> None:
        process = child.begin(
            "self.report(0.5)\nwhile not self.should_stop: time.sleep(0.01)"
        )
        assert "report" in (process.receive(timeout_s=20) or {})
        process.ask_to_stop()
        assert process.receive(timeout_s=20) == {"done": None}

        reports, _ = child.run("self.report(stops=self.should_stop)")
        assert reports[0]["metrics"] == {"stops": 0.0}

    def test_what_it_forks_can_be_ended(self, child: Child) -> None:
        reports, _ = child.run(
            """
from multiprocessing import get_context
forked = get_context("fork").Process(target=time.sleep, args=(60,))
forked.start()
time.sleep(0.3)
forked.terminate()
forked.join(5)
self.report(code=forked.exitcode)
"""
        )

        assert reports == [{"progress": None, "metrics": {"code": -signal.SIGTERM}}]

    def test_ctrl_c_does_not_reach_it(self, child: Child) -> None:
        child.run("pass")
        os.kill(child.process.pid, signal.SIGINT)

        assert child.run("pass") == ([], {"done": None})

    def test_one_that_has_not_begun_ends_at_once(self, child: Child) -> None:
        environ = {**child_environ(), **child.home.environ}
        process = FitProcess(fit_command(child.home.spec), environ)
        process.ask_to_stop()

        eventually(lambda: not process.is_alive, "its end")
        assert "ended by SIGTERM" in process.cause_of_death()
        process.kill()

    def test_a_death_is_noticed_with_what_was_printed(self, child: Child) -> None:
        process = child.begin("print('last words'); os.kill(os.getpid(), 9)")

        assert process.receive(timeout_s=20) is None
        process.await_log(timeout_s=5)
        assert not process.is_alive
        assert process.log_tail[-1] == "last words"

    def test_it_goes_with_its_worker_and_takes_its_children_along(
        self, child: Child
    ) -> None:
        process = child.begin(
            "self.report(pid=subprocess.Popen(['sleep', '60']).pid); time.sleep(60)"
        )
        message = process.receive(timeout_s=20)
        assert message is not None
        pid = int(message["report"]["metrics"]["pid"])

        stdin = process._process.stdin
        assert stdin is not None
        stdin.close()

        eventually(lambda: not process.is_alive and is_gone(pid), "their end", 5)


class TestWhatItLeavesRunning:
    def test_a_process_is_waited_for_and_named(self, child: Child) -> None:
        reports, message = child.run(
            "self.report(pid=subprocess.Popen(['sleep', '4']).pid)"
        )

        pid = int(reports[0]["metrics"]["pid"])
        note = f"fit left process {pid} (sleep 4) running, and the job waited for it"
        assert reports[1:] == [{"note": note}]
        assert message == {"done": None}
        assert is_gone(pid)

    def test_a_run_that_is_stopped_meanwhile_fails_and_names_it(
        self, child: Child
    ) -> None:
        process = child.begin("self.report(pid=subprocess.Popen(['sleep', '60']).pid)")
        first, second = (process.receive(timeout_s=20) for _ in range(2))
        assert first is not None
        assert second is not None
        pid = int(first["report"]["metrics"]["pid"])
        process.ask_to_stop()
        third, last = (process.receive(timeout_s=20) for _ in range(2))
        process.kill()

        name = f"process {pid} (sleep 60)"
        assert third is not None
        assert third["report"]["note"].endswith(
            f"; {name} was still running and was killed"
        )
        assert last is not None
        assert last["failed"] == f"the job was stopped while it waited for {name}"
        eventually(lambda: is_gone(pid), "its end", 5)

    def test_daemon_processes_end_with_it(self, child: Child) -> None:
        reports, message = child.run(
            """
import multiprocessing
context = multiprocessing.get_context("fork")
worker = context.Process(target=time.sleep, args=(60,), daemon=True)
worker.start()
"""
        )

        assert (reports, message) == ([], {"done": None})
        child.close()
