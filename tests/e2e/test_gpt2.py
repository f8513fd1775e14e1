"""The text generation example, served: answers, continuations, learning, rollback."""

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest

from tests.e2e.processes import ROOT, Server, eventually
from tests.e2e.serving import start_command
from text_generation.data import Pair, read_pairs, region
from text_generation.grammar import PAIRS, plain_pairs

GPT2 = ROOT / "examples" / "gpt2"
LABEL_CONFIG = (GPT2 / "label_config.xml").read_text(encoding="utf-8")
BASE = "gpt2-base"
CREATED_AT = 1795426489
PROJECT = f"1.{CREATED_AT}"
LEARNT = read_pairs(PAIRS)[:30]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # No request of the shipped checkpoint goes to a hub.
    environ = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "GPT2_MODEL": ""}
    with start_command(GPT2, tmp_path_factory.mktemp("gpt2"), environ=environ) as made:
        yield made


class Annotator:
    """Asks for answers and accepts others, as Label Studio does."""

    def __init__(self, server: Server) -> None:
        self._http = httpx.Client(base_url=server.url, timeout=30)

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = self._http.request(method, path, **options)
        assert answer.is_success, answer.text
        return answer.json()

    def predict(self, *prompts: str, context: object = None) -> list[dict[str, Any]]:
        body = {
            "tasks": [
                {"id": number, "data": {"prompt": prompt}}
                for number, prompt in enumerate(prompts, 1)
            ],
            "project": PROJECT,
            "label_config": LABEL_CONFIG,
            "params": {"login": None, "password": None, "context": context},
        }
        results: list[dict[str, Any]] = self.call("POST", "/predict", json=body)[
            "results"
        ]
        return results

    def accept(self, pair: Pair) -> None:
        number, moment = int(pair.id), "2026-11-24T09:00:00Z"
        stamps = {"created_at": moment, "updated_at": moment}
        result = [region([pair.answer], "answer", "question")]
        self._event(
            "ANNOTATION_CREATED",
            annotation={"id": number, "task": number, "result": result, **stamps},
            task={"id": number, "data": {"prompt": pair.prompt}, **stamps},
        )

    def train(self) -> str:
        """The id of the job that the button *Start Training* leads to."""
        return str(self._event("START_TRAINING")["job"])

    def _event(self, action: str, **more: Any) -> dict[str, Any]:
        created = datetime.fromtimestamp(CREATED_AT, timezone.utc).isoformat()
        project = {"id": 1, "created_at": created, "label_config": LABEL_CONFIG}
        body = {"action": action, "project": project, **more}
        answer: dict[str, Any] = self.call("POST", "/webhook", json=body)
        return answer

    def ended(self, job: str) -> dict[str, Any]:
        """The job, once it has ended."""

        def read() -> dict[str, Any]:
            found: dict[str, Any] = self.call("GET", f"/api/jobs/{job}")
            return found

        ends = {"succeeded", "failed", "cancelled"}
        eventually(lambda: read()["status"] in ends, lambda: str(read()), 150)
        return read()

    def answers(self, prompt: str, version: str) -> str:
        """What a version answers, once it serves."""
        eventually(
            lambda: self.predict(prompt)[0]["model_version"] == version,
            lambda: str(self.predict(prompt)),
        )
        return text_of(self.predict(prompt)[0])


def text_of(slot: dict[str, Any]) -> str:
    ((text,),) = [found["value"]["text"] for found in slot["result"]]
    return str(text)


def test_gpt2_answers_continues_learns_and_rolls_back(server: Server) -> None:
    known = plain_pairs()[::7][:20]
    with closing(Annotator(server)) as annotator:
        slots = annotator.predict(*(pair.prompt for pair in known))
        assert {slot["model_version"] for slot in slots} == {BASE}
        answers = zip(known, slots, strict=True)
        right = [text_of(slot).endswith(pair.answer) for pair, slot in answers]
        assert sum(right) >= 15

        context = {"result": [region(["To clean"], "answer", "question")]}
        [slot] = annotator.predict("How do I clean the Otter pack?", context=context)
        assert text_of(slot).startswith("To clean the Otter pack, ")

        for pair in LEARNT:
            annotator.accept(pair)
        job = annotator.ended(annotator.train())
        assert job["status"] == "succeeded", job
        assert job["metrics"]["perplexity"] < job["metrics"]["perplexity_before"] / 2
        assert job["metrics"]["trained_on"] + job["metrics"]["held_out"] == len(LEARNT)

        prompt = LEARNT[0].prompt
        greeting = "Thank you for writing to us"
        assert annotator.answers(prompt, job["version"]).startswith(greeting)
        path = f"/api/projects/1/versions/{BASE}/activate"
        annotator.call("POST", path)
        assert not annotator.answers(prompt, BASE).startswith(greeting)
    assert "Traceback" not in server.log()
