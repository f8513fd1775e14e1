"""Fixtures of the example's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from text_generation.language_model import CausalLM
from text_generation.model import BASE


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: on a busy machine, two are ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the shell's variables, and download nothing."""
    for name in ("GPT2_MODEL", "GPT2_MAX_NEW_TOKENS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def base() -> CausalLM:
    """The checkpoint of the example. Tests that train it load their own."""
    return CausalLM.load(BASE)
