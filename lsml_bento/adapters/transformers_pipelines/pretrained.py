"""A transformers model: its config is read first, its weights when they are needed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers

from lsml_bento.error_text import describe
from lsml_bento.errors import ModelSetupError
from lsml_bento.torch import device as default_device
from lsml_bento.torch import inference

_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024
"""Bytes per sample of a weights file for its fingerprint."""

_WEIGHTS = (".safetensors", ".bin", ".json", ".txt", ".model")

ENDLESS = 10**9
"""Number of tokens; a tokenizer without a limit says 10**30."""

_HEADS = {
    "token-classification": "ForTokenClassification",
    "text-classification": "ForSequenceClassification",
    "zero-shot-classification": "ForSequenceClassification",
    "image-classification": "ForImageClassification",
    "object-detection": "ForObjectDetection",
}
"""Required part of the architecture's name; transformers would add a random head."""


@dataclass(frozen=True)
class Pretrained:
    """A transformers model.

    Attributes:
        pipeline: the pipeline that it is used for.
        name: as the user wrote it.
        path: its directory, or its name on the hub.
        revision: on the hub; None for the newest.
        device: where it runs.
        config: a ``transformers.PretrainedConfig``.
        version: its name with the commit or a hash of its files.
    """

    pipeline: str
    name: str
    path: str
    revision: str | None
    device: torch.device
    config: Any
    version: str

    @property
    def labels(self) -> list[str]:
        """The labels that it was trained with, in the model's order."""
        return [str(label) for _, label in sorted(self.config.id2label.items())]

    @property
    def is_multi_label(self) -> bool:
        """Whether several labels can apply at once."""
        kind = self.config.problem_type
        return bool(kind == "multi_label_classification" or len(self.labels) == 1)

    @property
    def positions(self) -> int:
        """Its maximum number of tokens, ``ENDLESS`` if the config does not say."""
        found = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return found if found and found > 0 else ENDLESS  # XLNet's is -1

    def pipe(self, *, pads: bool = False, **options: Any) -> Any:
        """The ``transformers.Pipeline``, with its weights on the device.

        Args:
            pads: use the end token for padding if the tokenizer has no padding token.
            options: of ``transformers.pipeline``.

        Raises:
            ModelSetupError: if the weights cannot be read.
        """
        with _reading(self.name):
            make: Any = transformers.pipeline
            pipe = make(
                self.pipeline,
                model=self.path,
                revision=self.revision,
                device=self.device,
                **options,
            )
        if pads:
            _pad_with_end(pipe)
        return pipe

    def read(self, kind: Any) -> Any:
        """An object of one of transformers' ``Auto`` classes.

        Raises:
            ModelSetupError: if it cannot be read.
        """
        with _reading(self.name):
            return kind.from_pretrained(self.path, revision=self.revision)

    def computing(self, *, exact: bool) -> AbstractContextManager[None]:
        """Compute without gradients, and with autocast if the GPU benefits from it.

        Args:
            exact: whether bfloat16 is too inexact for the outputs.
        """
        return inference(self.device, dtype=torch.float32 if exact else None)

    def bound(self, tokenizer: Any, default: int = ENDLESS) -> None:
        """Set the tokenizer's limit to the model's, including special tokens.

        Args:
            tokenizer: modified if its limit is missing or too large.
            default: for a model without a limit.
        """
        limit = tokenizer.model_max_length or ENDLESS
        if self.positions < min(limit, ENDLESS):
            limit = self.positions - 2  # RoBERTa models reserve two positions
        tokenizer.model_max_length = default if limit > ENDLESS else limit


def _pad_with_end(pipe: Any) -> None:
    if pipe.tokenizer.pad_token is None:
        pipe.tokenizer.pad_token = pipe.tokenizer.eos_token
    config = pipe.model.config.get_text_config()
    for knows in (config, getattr(pipe, "generation_config", None)):
        if knows is not None and knows.pad_token_id is None:
            knows.pad_token_id = pipe.tokenizer.pad_token_id


@lru_cache(maxsize=4)
def open_pretrained(pipeline: str, model: str, device: str | None) -> Pretrained:
    """Read a model's config.

    Args:
        pipeline: the pipeline that it will be used for.
        model: a directory, or a name on the hub, optionally with ``@REVISION``.
        device: for example ``"cuda:1"``; the best one by default.

    Raises:
        ModelSetupError: if it cannot be read, or does not fit the pipeline.
    """
    path, revision = model, None
    if not Path(model).is_dir() and "@" in model:
        path, _, revision = model.rpartition("@")
    with _reading(model):
        config = transformers.AutoConfig.from_pretrained(path, revision=revision)
    head, made_for = _HEADS.get(pipeline), config.architectures or []
    if head and made_for and not any(head in name for name in made_for):
        raise ModelSetupError(
            f"the model {model} is a {made_for[0]}, and {pipeline} needs a model "
            f"trained for it, a ...{head}: use another model, or another pipeline"
        )
    return Pretrained(
        pipeline=pipeline,
        name=model,
        path=path,
        revision=revision,
        device=_device(device),
        config=config,
        version=_version(path, config),
    )


@contextmanager
def _reading(model: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelSetupError(
            f"the model {model} cannot be loaded: {describe(error)}; use a directory "
            "that save_pretrained() wrote, or a model on a hub that this machine can "
            "reach"
        ) from error


def _device(name: str | None) -> torch.device:
    try:
        return torch.device(name) if name else default_device()
    except RuntimeError as error:
        raise ModelSetupError(
            f"LSML_PIPELINE_DEVICE is {name!r}, which is not a device: use cpu, cuda, "
            "cuda:1, or mps"
        ) from error


def _version(path: str, config: Any) -> str:
    name = Path(path).absolute().name if Path(path).is_dir() else path
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "model"
    commit = getattr(config, "_commit_hash", None)
    if not commit and Path(path).is_dir():
        commit = fingerprint(Path(path))
    return f"{name}-{commit[:8]}" if commit else name


def fingerprint(directory: Path) -> str:
    """A hash of a model's files, independent of their location.

    Large files are sampled: evenly spaced parts of about 4 MiB in all, and the length.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix not in _WEIGHTS or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        last = max(0, size - _SAMPLE_BYTES)
        step = max(_SAMPLE_BYTES, last // _SAMPLES)
        with path.open("rb") as file:
            for start in (*range(0, last, step), last):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
