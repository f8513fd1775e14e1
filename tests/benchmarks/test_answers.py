"""The checks of answers: what would make a benchmark's numbers meaningless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.common import preannotate, tasks


def test_nan_score_is_not_near() -> None:
    assert tasks.far_score([0.51, 0.3], [0.5, 0.31], 0.02) is None
    nan = float("nan")
    assert tasks.far_score([0.5, nan], [0.5, 0.5], 0.02) == (
        "task 2 has the score nan, not 0.5 +- 0.02"
    )


def _line(task_id: int, answered: int) -> str:
    region = {"id": f"t{answered}", "value": {"choices": ["Positive"]}}
    predictions = [{"result": [region], "score": 0.9}]
    return json.dumps({"id": task_id, "predictions": predictions}) + "\n"


def test_output_is_checked_line_by_line(tmp_path: Path) -> None:
    output = tmp_path / "output.jsonl"
    output.write_text(_line(1, 1) + _line(2, 2))
    assert preannotate.check(output, 2) == [0.9, 0.9]
    with pytest.raises(RuntimeError, match="2 lines for 5 tasks"):
        preannotate.check(output, 5)
    output.write_text(_line(1, 1) + _line(2, 3))
    with pytest.raises(RuntimeError, match="task 2 got"):
        preannotate.check(output, 2)


def test_texts_have_the_length_of_their_workload() -> None:
    assert {len(tasks.text(n).split()) for n in range(48)} == set(range(6, 18))
    assert len(tasks.text(7, "larger").split()) == 400
