"""Tiny models of transformers, made here: no network, and well under a second each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    XLNetConfig,
    XLNetForSequenceClassification,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
MOST_TOKENS = 24


def keyword_tagger(directory: Path, words: Mapping[str, str]) -> Path:
    """A token classifier that knows words by heart.

    Args:
        directory: made.
        words: the label of each word piece, such as ``{"ana": "B-PER"}``.
    """
    labels = ["O", *dict.fromkeys(words.values())]
    model = BertForTokenClassification(_config(labels, words))
    _know(model, labels, words)
    return _saved(directory, model, _word_pieces(words))


def keyword_classifier(
    directory: Path, labels: list[str], words: Mapping[str, str], **config: Any
) -> Path:
    """A text classifier that counts words by label."""
    model = BertForSequenceClassification(_config(labels, words, **config))
    _know(model, labels, words)
    pooler: Any = model.bert.pooler
    _be_identity(pooler.dense)
    return _saved(directory, model, _word_pieces(words))


def _config(labels: list[str], words: Mapping[str, str], **more: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(SPECIAL) + len(words),
        hidden_size=len(labels) + 1,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=MOST_TOKENS,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        **more,
    )


def _know(model: Any, labels: list[str], words: Mapping[str, str]) -> None:
    """A direction for each label; attention adds the mean of all tokens to each."""
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.zero_()
        table = model.bert.embeddings.word_embeddings.weight
        # A direction of its own: what is unknown counts for no class.
        table[1, labels.index("O") if "O" in labels else len(labels)] = 1.0
        for place, label in enumerate(words.values(), len(SPECIAL)):
            table[place, labels.index(label)] = 1.0
    for linear in (layer.attention.self.value, layer.attention.output.dense):
        _be_identity(linear)
    _be_identity(model.classifier, by=5.0)


def _be_identity(linear: nn.Linear, by: float = 1.0) -> None:
    with torch.no_grad():
        linear.weight.copy_(by * torch.eye(*linear.weight.shape))
        linear.bias.zero_()


def _word_pieces(words: Mapping[str, str]) -> PreTrainedTokenizerFast:
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def _words(words: list[str], **special: str) -> PreTrainedTokenizerFast:
    names = [*special.values(), *words]
    unknown = special["unk_token"]
    model = models.WordLevel({n: i for i, n in enumerate(names)}, unk_token=unknown)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )


def writer(directory: Path, words: list[str]) -> Path:
    """A language model that writes words without a sense; it knows no padding."""
    tokenizer = _words(words, unk_token="<unk>", eos_token="<end>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MOST_TOKENS,
        n_embd=16,
        n_layer=1,
        n_head=2,
        initializer_range=1.0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return _saved(directory, GPT2LMHeadModel(config), tokenizer)


def summarizer(directory: Path, words: list[str]) -> Path:
    """An encoder and decoder, with a prefix it was trained with."""
    tokenizer = _words(words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    make: Any = T5Config  # whose types leave out half of what it takes
    config = make(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        initializer_factor=5.0,
        task_specific_params={
            "summarization": {"prefix": words[0] + " ", "max_length": 9}
        },
    )
    return _saved(directory, T5ForConditionalGeneration(config), tokenizer)


def bart(directory: Path, words: list[str]) -> Path:
    """An encoder and a decoder of few positions, which never ends by itself."""
    tokenizer = _words(words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=MOST_TOKENS,
        init_std=1.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    model = BartForConditionalGeneration(config)
    with torch.no_grad():
        bias: Any = model.final_logits_bias
        bias[0, 1] = -1e9
    return _saved(directory, model, tokenizer)


def composite_writer(directory: Path, words: list[str]) -> Path:
    """A language model that sees images too: what it is of texts is in ``text_config``.

    Its tokenizer knows no padding.
    """
    tokenizer = _words(words, unk_token="<unk>", eos_token="<end>")
    torch.manual_seed(0)
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MOST_TOKENS,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": MOST_TOKENS,
        "initializer_range": 1.0,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    make: Any = Gemma3Config  # whose types leave out half of what it takes
    vision = {**_vision(), "image_size": 32}
    config = make(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return _saved(directory, Gemma3ForConditionalGeneration(config), tokenizer)


def endless_classifier(directory: Path, labels: list[str]) -> Path:
    """A text classifier whose config says -1 for how many tokens it takes."""
    tokenizer = _words([], pad_token="<pad>", cls_token="<cls>", unk_token="<unk>")
    torch.manual_seed(0)
    make: Any = XLNetConfig
    config = make(
        vocab_size=len(tokenizer),
        d_model=16,
        n_layer=1,
        n_head=2,
        d_inner=16,
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
    )
    return _saved(directory, XLNetForSequenceClassification(config), tokenizer)


def image_classifier(directory: Path, labels: list[str]) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        **_vision(),
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
    )
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    return _saved(directory, ViTForImageClassification(config), processor)


def detector(directory: Path, labels: list[str]) -> Path:
    torch.manual_seed(0)
    config = YolosConfig(
        **_vision(),
        num_detection_tokens=4,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
    )
    processor = YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    return _saved(directory, YolosForObjectDetection(config), processor)


def _vision() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": [32, 32],
        "patch_size": 8,
        "initializer_range": 1.0,
    }


def recogniser(directory: Path, letters: str) -> Path:
    """A CTC model that hears letters in noise."""
    directory.mkdir(parents=True)
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *letters]
    vocabulary = directory / "vocab.json"
    vocabulary.write_text(json.dumps({n: i for i, n in enumerate(names)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(names),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(10, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        initializer_range=1.0,
        pad_token_id=0,
    )
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return _saved(directory, Wav2Vec2ForCTC(config), tokenizer, extractor)


def whisper(directory: Path, letters: str) -> Path:
    """A Whisper that knows English alone, with windows of one second."""
    end, stamps = "<|endoftext|>", [f"<|{n * 0.02:.2f}|>" for n in range(51)]
    vocabulary = {name: i for i, name in enumerate([*letters, "Ġ", end])}
    make_tokenizer: Any = WhisperTokenizer
    tokenizer = make_tokenizer(vocab=vocabulary, merges=[], pad_token=end)
    special = ["startoftranscript", "en", "transcribe", "translate", "notimestamps"]
    names = {name: f"<|{name}|>" for name in special}
    tokenizer.add_special_tokens({"additional_special_tokens": [*names.values()]})
    tokenizer.add_tokens(stamps)
    ids = {n: tokenizer.convert_tokens_to_ids(text) for n, text in names.items()}
    torch.manual_seed(0)
    make_config: Any = WhisperConfig
    model = WhisperForConditionalGeneration(
        make_config(
            vocab_size=len(tokenizer),
            num_mel_bins=8,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_source_positions=50,
            max_target_positions=300,
            init_std=1.0,
            pad_token_id=vocabulary[end],
            bos_token_id=vocabulary[end],
            eos_token_id=vocabulary[end],
            decoder_start_token_id=ids["startoftranscript"],
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    )
    generation: Any = model.generation_config
    generation._from_model_config = False  # else it is made again where it is read
    generation.no_timestamps_token_id = ids["notimestamps"]
    generation.is_multilingual = True
    generation.lang_to_id = {"<|en|>": ids["en"]}
    generation.task_to_id = {n: ids[n] for n in ("transcribe", "translate")}
    generation.max_length = 24  # 20 would be taken for no limit at all
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    return _saved(directory, model, tokenizer, extractor)


def _saved(directory: Path, model: Any, *parts: Any) -> Path:
    for part in (model, *parts):
        part.save_pretrained(directory)
    return directory


transformers.utils.logging.disable_progress_bar()
