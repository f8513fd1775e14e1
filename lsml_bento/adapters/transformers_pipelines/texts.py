"""text-generation and summarization: ``<TextArea>`` on ``<Text>``."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import transformers
from pydantic import Field

from lsml_bento.adapters.transformers_pipelines.filling import (
    Filling,
    Options,
    Prediction,
    read_options,
    written,
)
from lsml_bento.adapters.transformers_pipelines.pretrained import Pretrained
from lsml_bento.adapters.transformers_pipelines.target import find_targets
from lsml_bento.model.base_class import LabelStudioMLBase

_NEW_TOKENS = 256


class _GenerationOptions(Options):
    max_new_tokens: int = Field(_NEW_TOKENS, ge=1)
    do_sample: bool = False
    temperature: float | None = Field(None, gt=0)
    top_p: float | None = Field(None, gt=0, le=1)
    num_beams: int | None = Field(None, ge=1)


class _Generated(Filling):
    """Text that a model generates from a text, deterministic unless ``do_sample``."""

    def __init__(self, model: LabelStudioMLBase, pretrained: Pretrained) -> None:
        self.options = read_options(_GenerationOptions, model)
        self.target = find_targets(model, pretrained, "TextArea", "Text")[0]

    def _generation(self, default: Any, **more: Any) -> Any:
        """The model's generation config, with this project's options."""
        config = copy.deepcopy(default)
        config.update(**{**self.options.model_dump(exclude_none=True), **more})
        config.max_length = None  # the number of new tokens is always given
        return config


class Continuations(_Generated):
    """The continuation of a text, without the text itself.

    A model with a chat template gets the text as a user's message. If a text is too
    long, its end is used.
    """

    @classmethod
    def load(cls, pretrained: Pretrained) -> Any:
        """The pipeline, with a tokenizer that pads on the left."""
        pipe = pretrained.pipe(pads=True)
        pretrained.bound(pipe.tokenizer)
        pipe.tokenizer.padding_side = pipe.tokenizer.truncation_side = "left"
        return pipe

    def predict(self, pipe: Any, inputs: list[str]) -> list[Prediction]:
        prompts: list[Any] = list(inputs)
        if pipe.tokenizer.chat_template:
            prompts = [[{"role": "user", "content": text}] for text in inputs]
        # Reserve at least half of the model's tokens for the text.
        limit = pipe.tokenizer.model_max_length
        new_tokens = min(self.options.max_new_tokens, max(1, limit // 2))
        found = pipe(
            prompts,
            batch_size=len(prompts),
            return_full_text=False,
            tokenizer_encode_kwargs={
                "truncation": True,
                "max_length": limit - new_tokens,
            },
            generation_config=self._generation(
                pipe.generation_config, max_new_tokens=new_tokens
            ),
        )
        return written(self.target, (one[0]["generated_text"] for one in found))


@dataclass(frozen=True)
class _Summarizer:
    """In place of the summarization pipeline, which transformers 5 has removed.

    Attributes:
        tokenizer: truncates texts to the model's limit.
        model: an encoder and a decoder.
        prefix: the prompt that the model was trained with.
        positions: maximum number of tokens of a summary.
    """

    tokenizer: Any
    model: Any
    prefix: str
    positions: int


class Summaries(_Generated):
    """A summary of the first tokens of a text."""

    @classmethod
    def load(cls, pretrained: Pretrained) -> Any:
        tokenizer = pretrained.read(transformers.AutoTokenizer)
        pretrained.bound(tokenizer, 1024)
        model = pretrained.read(transformers.AutoModelForSeq2SeqLM)
        trained = getattr(pretrained.config, "task_specific_params", None) or {}
        options = dict(trained.get("summarization", {}))
        prefix = options.pop("prefix", "")
        model.generation_config.update(**options)
        model = model.to(pretrained.device).eval()
        # LED's encoder and decoder have different limits.
        own = getattr(pretrained.config, "max_decoder_position_embeddings", None)
        return _Summarizer(tokenizer, model, prefix, own or pretrained.positions)

    def predict(self, pipe: _Summarizer, inputs: list[str]) -> list[Prediction]:
        rows = pipe.tokenizer(
            [pipe.prefix + text for text in inputs],
            return_tensors="pt",
            padding=True,
            truncation=True,
        )
        tokens = pipe.model.generate(
            input_ids=rows["input_ids"].to(pipe.model.device),
            attention_mask=rows["attention_mask"].to(pipe.model.device),
            generation_config=self._generation(
                pipe.model.generation_config,
                max_new_tokens=min(self.options.max_new_tokens, pipe.positions),
            ),
        )
        decoded = pipe.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return written(self.target, decoded)
