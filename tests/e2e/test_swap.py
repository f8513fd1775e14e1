"""New versions reach every serving process while 8 clients ask, and none notices."""

import http.client
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx
import psutil
import pytest

from tests.doubles import CONFIG, PROJECT
from tests.e2e.learning import Annotator
from tests.e2e.processes import Server, eventually
from tests.e2e.serving import BACKENDS, start_command

log = logging.getLogger(__name__)

SWAPPING = BACKENDS / "swapping"
BASE, FIRST, SECOND = "swapping-0", "swapping-1", "swapping-2"
CLIENTS = 8
SWAPS = [FIRST, BASE, SECOND, FIRST, SECOND]

BODY = json.dumps(
    {
        "tasks": [{"id": 1, "data": {"text": "x"}}],
        "project": PROJECT,
        "label_config": CONFIG,
        "params": {},
    }
).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("swapping")
    with start_command(SWAPPING, home, environ={"WORKERS": "2"}) as started:
        yield started


@pytest.fixture(scope="module")
def annotator(server: Server) -> Iterator[Annotator]:
    made = Annotator(server)
    yield made
    made.close()


class Answer(NamedTuple):
    """One answer of ``/predict``; times in seconds, as ``time.monotonic`` has them."""

    asked_at: float
    took_s: float
    weights: str
    named: str
    seen: str
    worker: int


class Move(NamedTuple):
    """An activation, sent and answered at times of ``time.monotonic``.

    Processes may serve its version from ``sent_at``, and have to a second after ``at``.
    """

    sent_at: float
    at: float
    version: str


@dataclass
class Clients:
    """Threads that predict without a pause, over a new connection each time."""

    port: int
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            asked_at = time.monotonic()
            try:
                status, text = self._ask()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            if status != 200:
                self.failures.append(f"{status}: {text!r}")
                continue
            [slot] = json.loads(text)["results"]
            value = slot["result"][0]["value"]
            took_s = time.monotonic() - asked_at
            self.answers.append(
                Answer(
                    asked_at,
                    took_s,
                    value["choices"][0],
                    slot["model_version"],
                    value["version"],
                    value["worker"],
                )
            )

    def _ask(self) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/predict", BODY, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def titles(server: Server) -> list[str]:
    """What ``ps`` shows of the server's processes."""
    found = []
    for process in server.tree():
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:  # it has just ended
            continue
    return found


def test_two_annotations_make_two_versions(annotator: Annotator) -> None:
    assert annotator.setup() == BASE
    for number, version in ((1, FIRST), (2, SECOND)):
        job = annotator.ended(annotator.annotate(number))
        assert (job["status"], job["version"]) == ("succeeded", version), job
        assert job["metrics"] == {"tasks": number}
        annotator.serves(version, version)
    assert [v["version"] for v in annotator.versions()] == [SECOND, FIRST, BASE]


@pytest.mark.usefixtures("annotator")
def test_two_serving_processes_have_one_worker(server: Server) -> None:
    shown = titles(server)

    assert len([title for title in shown if "lsml-bento worker" in title]) == 1, shown


def test_five_swaps_cause_no_wrong_answer_for_eight_clients(
    server: Server, annotator: Annotator
) -> None:
    moves: list[Move] = []
    with Clients(server.port) as clients:
        time.sleep(0.5)
        for version in SWAPS:
            sent_at = time.monotonic()
            assert annotator.activate(version).status_code == 200
            moves.append(Move(sent_at, time.monotonic(), version))
            time.sleep(1.5)  # each process may serve the old one for a second
        assert annotator.setup() == SWAPS[-1]

    assert clients.failures == []
    mixed = [a for a in clients.answers if not a.weights == a.named == a.seen]
    assert mixed == []
    workers = {answer.worker for answer in clients.answers}
    assert len(workers) == 2
    ends = [move.sent_at for move in moves[1:]] + [float("inf")]
    for move, end in zip(moves, ends, strict=True):
        settled = [
            answer
            for answer in clients.answers
            if move.at + 1 < answer.asked_at and answer.asked_at + answer.took_s < end
        ]
        assert {answer.named for answer in settled} == {move.version}
        assert {answer.worker for answer in settled} == workers
    log.info(measured(clients.answers, moves))


def measured(answers: list[Answer], moves: list[Move]) -> str:
    """How long old answers were given after a move, and how long answers took."""

    def p99(times: list[float]) -> float:
        return sorted(times)[int(len(times) * 0.99)]

    old = [
        answer.asked_at - move.at
        for answer in answers
        for move in moves
        if move.at < answer.asked_at < move.at + 1 and answer.named != move.version
    ]
    near = [any(m.at < a.asked_at < m.at + 1 for m in moves) for a in answers]
    took = [
        [a.took_s for a, is_near in zip(answers, near, strict=True) if is_near is which]
        for which in (True, False)
    ]
    return (
        f"{len(answers)} answers; the last old one was asked for "
        f"{max(old, default=0):.3f} s after a move; p99 {p99(took[0]):.3f} s then, "
        f"{p99(took[1]):.3f} s else"
    )


def sample(text: str, name: str) -> list[float]:
    """The values of a metric, with these labels."""
    found = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return [float(value) for value in found]


@pytest.mark.usefixtures("annotator")
def test_each_metric_is_reported_once(server: Server) -> None:
    active = 'lsml_active_version_info{{project="{}",version="{}"}}'

    def text_of() -> str:
        return httpx.get(f"{server.url}/metrics").text

    eventually(  # they are measured every five seconds
        lambda: (
            sample(text_of(), active.format(PROJECT, SWAPS[-1])) == [1.0]
            and sample(text_of(), active.format(PROJECT, FIRST)) in ([], [0.0])
            and sample(text_of(), active.format(PROJECT, "base")) in ([], [0.0])
        ),
        lambda: "\n".join(re.findall("lsml_active.*", text_of())),
        timeout_s=17,
    )
    text = text_of()

    assert sample(text, 'lsml_jobs{status="succeeded"}') == [2.0]
    for status in ("queued", "running", "failed", "cancelled"):
        assert sample(text, f'lsml_jobs{{status="{status}"}}') == [0.0]
    assert sample(text, "lsml_oldest_queued_seconds") == [0.0]
    assert sample(text, "lsml_fit_seconds_count") == [2.0]
    [seconds] = sample(text, "lsml_fit_seconds_sum")
    assert 0 < seconds < 60
    assert sample(text, "lsml_webhook_seconds_count") == [2.0]


def test_all_processes_exit_within_ten_seconds_of_their_supervisor(
    server: Server, annotator: Annotator
) -> None:
    job = annotator.annotate(3, fit_s=60)
    eventually(
        lambda: annotator.job(job)["progress"] == 0.5,
        lambda: str(annotator.job(job)),
        timeout_s=20,
    )
    assert any(f"lsml-bento fit job={job}" in title for title in titles(server))
    assert server.process is not None

    server.process.kill()
    server.process.wait()
    began = time.monotonic()
    eventually(lambda: not server.tree(), lambda: str(titles(server)), timeout_s=10)
    log.info("gone after %.1f s", time.monotonic() - began)
