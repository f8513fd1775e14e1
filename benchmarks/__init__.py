"""Measurements of this project, each with its own page.

- `python -m benchmarks.serving` compares it with LitServe, BentoML's batching and the
  model alone. `python -m benchmarks.serving.cpu` measures the CPU time of a request.
- `python -m benchmarks.learning` measures webhooks, version swaps and long lists.
- `python -m benchmarks.preannotation` measures predictions from file to file.
- `python -m benchmarks.gpu` needs a machine with a GPU.

Each writes `results.md` in its folder and keeps that page's handwritten notes.
"""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NER = REPOSITORY / "examples/pytorch_ner"
