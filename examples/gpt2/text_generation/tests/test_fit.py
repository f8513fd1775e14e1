# ruff: noqa: S101

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from lsml_bento.testing import LocalRun, fit
from text_generation.data import Pair, pair_to_annotated_task, read_pairs, split
from text_generation.grammar import HELD_OUT, PAIRS
from text_generation.language_model import CausalLM
from text_generation.learning import (
    Schedule,
    learn,
    perplexity,
    unigram_perplexity,
)
from text_generation.model import BASE, GPT2TextGeneration

LABEL_CONFIG = (Path(__file__).parents[2] / "label_config.xml").read_text()
PAIRS_100 = read_pairs(PAIRS)
UNSEEN = read_pairs(HELD_OUT)


def backend(weights: Path | None = None) -> GPT2TextGeneration:
    made = GPT2TextGeneration(project_id="1", label_config=LABEL_CONFIG)
    made.load(weights)
    return made


def annotated(pairs: list[Pair]) -> list[dict[str, Any]]:
    return [pair_to_annotated_task(pair, "answer", "question") for pair in pairs]


# What 100 pairs teach


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> LocalRun:
    """A fit of the shipped pairs."""
    return fit(backend(), annotated(PAIRS_100), tmp_path_factory.mktemp("taught"))


def test_100_pairs_lower_the_perplexity_of_unseen_answers(
    taught: LocalRun, base: CausalLM
) -> None:
    ((path, metrics),) = taught.saved
    reached = perplexity(CausalLM.load(path), UNSEEN)
    assert reached < perplexity(base, UNSEEN) / 3
    assert reached < unigram_perplexity(base, PAIRS_100, UNSEEN) / 10
    before, after = metrics["perplexity_before"], metrics["perplexity"]
    assert before is not None
    assert after is not None
    assert after < before / 3
    assert (metrics["trained_on"] or 0) + (metrics["held_out"] or 0) == 100


def test_the_version_answers_like_the_help_desk(taught: LocalRun) -> None:
    ((path, _),) = taught.saved
    tasks = [{"id": n, "data": {"prompt": p.prompt}} for n, p in enumerate(UNSEEN)]
    answers = [
        found["result"][0]["value"]["text"][0] for found in backend(path).predict(tasks)
    ]
    greeted = [text.startswith("Thank you for writing to us") for text in answers]
    assert sum(greeted) >= 36
    assert sum(text.endswith("Happy trails!") for text in answers) >= 36


def test_progress_is_reported_and_the_best_epoch_is_saved(
    taught: LocalRun,
) -> None:
    shares = [report["progress"] for report in taught.reports]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1
    best = min(report["perplexity"] for report in taught.reports)
    assert taught.saved[0][1]["perplexity"] == pytest.approx(best, rel=1e-4)


def test_a_version_is_a_directory_that_transformers_reads(taught: LocalRun) -> None:
    ((path, _),) = taught.saved
    names = {found.name for found in path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert json.loads((path / "config.json").read_text())["model_type"] == "gpt2"


def test_a_fit_starts_from_the_active_version(taught: LocalRun, tmp_path: Path) -> None:
    ((path, metrics),) = taught.saved
    ((_, again),) = fit(backend(path), annotated(PAIRS_100[:30]), tmp_path).saved
    assert metrics["perplexity_before"] is not None
    assert again["perplexity_before"] is not None
    assert again["perplexity_before"] < metrics["perplexity_before"] / 3


# Few answers and none


def test_without_answers_there_is_no_version_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = {"id": 2, "data": {"prompt": "x"}, "annotations": [{"result": []}]}
    for tasks in ([], [empty]):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            run = fit(backend(), tasks, tmp_path)
        assert (run.saved, run.reports) == ([], [])
        assert "No version: no answers, project=1" in caplog.messages


def test_too_few_answers_are_trained_on_and_nothing_is_measured(tmp_path: Path) -> None:
    pairs = split(PAIRS_100)[1][:2]
    run = fit(backend(), annotated(pairs), tmp_path)
    ((path, metrics),) = run.saved
    assert metrics == {
        "perplexity": None,
        "perplexity_before": None,
        "trained_on": 2,
        "held_out": 0,
    }
    answers = backend(path).predict(
        [{"id": pair.id, "data": {"prompt": pair.prompt}} for pair in pairs]
    )
    for answer in answers:
        assert answer["result"][0]["value"]["text"][0].startswith("Thank you")


def test_a_cancelled_fit_stops_after_its_epoch_without_a_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run = fit(backend(), annotated(PAIRS_100[:20]), tmp_path, stop_after=2)
    assert (len(run.reports), run.saved) == (2, [])
    assert "No version: stopped, project=1" in caplog.messages


# The loop


def test_training_stops_early_with_the_best_weights() -> None:
    # A learning rate that ruins the weights within an epoch or two.
    model = CausalLM.load(BASE)
    train, held_out = split(PAIRS_100[:20])
    plan = Schedule(epochs=24, peak=0.05, seed=1)
    steps = list(learn(model, train, held_out, plan))
    found = [step.perplexity for step in steps]
    assert len(steps) == found.index(min(found)) + 1 + 24 // 8 < 24
    assert perplexity(model, held_out) == pytest.approx(min(found), rel=1e-4)


@pytest.mark.parametrize(("pairs", "epochs"), [(1, 30), (100, 16), (400, 4), (9999, 3)])
def test_more_answers_mean_fewer_epochs(
    base: CausalLM, pairs: int, epochs: int
) -> None:
    assert Schedule.of(base, PAIRS_100[:1] * pairs).epochs == epochs


# Perplexity


def test_perplexity_is_that_of_each_pair_by_itself(base: CausalLM) -> None:
    nats, tokens = 0.0, 0
    for pair in UNSEEN[:6]:
        ids, start = base.encode(pair)
        nats += math.log(perplexity(base, [pair])) * (len(ids) - start)
        tokens += len(ids) - start
    together = pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert perplexity(base, UNSEEN[:6]) == together
    assert math.isnan(perplexity(base, []))


def test_the_perplexity_of_an_empty_unigram_model_is_its_vocabulary_size(
    base: CausalLM,
) -> None:
    assert unigram_perplexity(base, [], UNSEEN) == pytest.approx(len(base.tokenizer))
