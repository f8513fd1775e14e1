"""What all tests of the example share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from examples.gpt2.language_model import CausalLM
from examples.gpt2.model import BASE


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other, ten times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the shell's decides which model is tested, and none is downloaded."""
    for name in ("GPT2_MODEL", "GPT2_MAX_NEW_TOKENS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def base() -> CausalLM:
    """The shipped checkpoint; what trains it takes one of its own."""
    return CausalLM.load(BASE)
