# ruff: noqa: S101

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from text_generation.data import Pair, read_pairs
from text_generation.generation import Generated, generate
from text_generation.grammar import CATALOGUE, HELD_OUT, PAIRS
from text_generation.language_model import IGNORED, PROMPT, CausalLM
from text_generation.learning import Schedule, learn
from text_generation.model import BASE
from text_generation.train_base import speed

PROMPTS = [
    pair.prompt for pair in (*read_pairs(HELD_OUT)[:12], *read_pairs(CATALOGUE)[:12])
]
TEXTS = [PROMPT.format(prompt) for prompt in PROMPTS]


def rounded(found: list[Generated]) -> list[tuple[str, object]]:
    """Rounded, as the last digits depend on the batch size."""
    return [(made.text, pytest.approx(made.score, abs=1e-4)) for made in found]


# Batches


def test_a_batch_generates_the_same_as_single_texts(base: CausalLM) -> None:
    lengths = {len(base.tokenizer(text).input_ids) for text in TEXTS}
    assert len(lengths) > 5
    alone = [made for text in TEXTS for made in generate(base, [text])]
    assert rounded(generate(base, TEXTS)) == rounded(alone)
    assert len({made.text for made in alone}) > 10


def test_batches_of_16_are_at_least_four_times_as_fast(base: CausalLM) -> None:
    assert speed(base, read_pairs(PAIRS)[:16]) >= 4


def test_texts_of_several_batches_keep_their_order(
    base: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = generate(base, TEXTS[:12])
    monkeypatch.setattr("text_generation.generation.TOKENS", 300)
    assert rounded(generate(base, TEXTS[:12])) == rounded(together)


def test_no_texts_give_no_answers(base: CausalLM) -> None:
    assert generate(base, []) == []


# What is generated


def test_the_score_is_the_mean_probability_of_the_tokens(base: CausalLM) -> None:
    for text, made in zip(TEXTS[:4], generate(base, TEXTS[:4]), strict=True):
        prompt = base.tokenizer(text).input_ids
        answer = [*base.tokenizer(made.text).input_ids, base.tokenizer.eos_token_id]
        with torch.inference_mode():
            logits = base.network(torch.tensor([prompt + answer])).logits[0]
        chances = logits.softmax(-1)[len(prompt) - 1 : -1]
        taken = chances[torch.arange(len(answer)), torch.tensor(answer)]
        assert made.score == pytest.approx(taken.mean().item(), abs=1e-4)


def test_an_answer_ends_where_the_model_ends_it(base: CausalLM) -> None:
    short, long = (generate(base, TEXTS, max_new_tokens=n) for n in (60, 90))
    assert rounded(short) == rounded(long)
    assert all(made.text.endswith(".") for made in short)


def test_an_answer_has_max_new_tokens_at_most(base: CausalLM) -> None:
    whole, cut = generate(base, TEXTS[:4]), generate(base, TEXTS[:4], 3)
    for made, start in zip(whole, cut, strict=True):
        assert made.text.startswith(start.text)
        assert len(base.tokenizer(start.text).input_ids) == 3


def test_answers_vary_only_with_a_temperature(base: CausalLM) -> None:
    torch.manual_seed(0)
    assert generate(base, TEXTS[:4]) == generate(base, TEXTS[:4])
    drawn = {tuple(generate(base, TEXTS[:1], 12, temperature=2.0)) for _ in range(4)}
    assert len({made.text for (made,) in drawn}) > 1
    assert all(0 < made.score < 1 for (made,) in drawn)


def test_a_prompt_that_is_too_long_is_cut_at_its_beginning(base: CausalLM) -> None:
    long = "tell me all of it. " * 500 + TEXTS[0]
    made = generate(base, [long, TEXTS[1]], max_new_tokens=10_000)
    assert made[0].text
    assert made[1].text == generate(base, [TEXTS[1]])[0].text


def says(token: int, tokenizer: PreTrainedTokenizerFast) -> CausalLM:
    """A model that always generates the same token."""
    size = len(tokenizer)
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.transformer.ln_f.bias.fill_(1.0)
        network.transformer.wte.weight[token] = 1.0
    return CausalLM.of(network, tokenizer)


def test_a_word_keeps_its_space_with_sentencepiece() -> None:
    words = {"</s>": 0, "\u2581once": 1, "\u2581upon": 2}
    plain = Tokenizer(models.WordLevel(words))
    plain.pre_tokenizer = pre_tokenizers.Metaspace()
    plain.decoder = decoders.Metaspace()
    special: Any = {"eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, **special)
    made = generate(says(2, tokenizer), ["once", "once once"], max_new_tokens=2)
    assert [each.text for each in made] == [" upon upon", " upon upon"]


def test_an_incomplete_character_is_dropped(base: CausalLM) -> None:
    first_of_three = base.tokenizer.convert_tokens_to_ids("\u00e2")
    model = says(first_of_three, base.tokenizer)
    assert [made.text for made in generate(model, TEXTS[:2], 2)] == ["", ""]


# Text and ids


def test_answers_are_learned_and_prompts_are_not(base: CausalLM) -> None:
    pairs = [Pair("1", "Why?", "Because."), Pair("2", "Why not, then?", "So.")]
    made = base.collate(pairs)
    assert made["input_ids"].shape == made["labels"].shape
    for pair, ids, mask, labels in zip(pairs, *made.values(), strict=True):
        assert base.tokenizer.decode(ids[mask == 1]) == (
            f"Question: {pair.prompt}\nAnswer: {pair.answer}<|endoftext|>"
        )
        learnt = labels[labels != IGNORED]
        assert base.tokenizer.decode(learnt) == f" {pair.answer}<|endoftext|>"


def test_padding_and_other_texts_of_a_batch_do_not_change_the_loss(
    base: CausalLM,
) -> None:
    pairs = read_pairs(HELD_OUT)[:4]
    made = base.collate(pairs)
    with torch.inference_mode():
        together = base.network(**made).logits
        for row, pair in enumerate(pairs):
            alone = base.network(**base.collate([pair])).logits[0]
            torch.testing.assert_close(
                together[row, : len(alone)], alone, atol=1e-4, rtol=1e-4
            )


def test_training_and_generation_use_the_same_ids(base: CausalLM) -> None:
    """An answer has the same ids after its prompt in training and in generation."""
    for pair in read_pairs(PAIRS)[:20]:
        text = f"{PROMPT.format(pair.prompt)} {pair.answer}"
        assert base.encode(pair)[0][:-1] == base.tokenizer(text).input_ids


@pytest.mark.parametrize(
    ("prompt", "answer"), [("long " * 400, "short"), ("short", "long " * 400)]
)
def test_a_pair_that_is_too_long_is_cut(
    base: CausalLM, prompt: str, answer: str
) -> None:
    ids, start = base.encode(Pair("1", prompt, answer))
    assert len(ids) == base.positions
    assert 1 <= start < len(ids)
    ends = ids[-1] == base.tokenizer.eos_token_id
    assert ends is (answer == "short")


# Models


def sees_images(**sizes: Any) -> PreTrainedConfig:
    """The config of a model of which texts are a part."""
    make: Any = Gemma3Config  # whose types leave out half of what it takes
    layer = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**layer, "intermediate_size": 8, "image_size": 16, "patch_size": 8}
    text = {**sizes, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 8}
    made: PreTrainedConfig = make(
        text_config=text, vision_config=vision, mm_tokens_per_image=1
    )
    return made


@pytest.mark.parametrize("kind", [GPT2Config, LlamaConfig, sees_images])
def test_any_causal_model_can_be_loaded_and_saved(
    tmp_path: Path, kind: Callable[..., PreTrainedConfig]
) -> None:
    tokenizer = CausalLM.load(BASE).tokenizer
    tokenizer.pad_token = None  # GPT-2's tokenizer has none
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    small = kind(**sizes)
    made = CausalLM.of(AutoModelForCausalLM.from_config(small), tokenizer)
    made.save(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    read = CausalLM.load(tmp_path)
    assert read.positions == 32
    alone = [found for text in TEXTS[:3] for found in generate(read, [text], 4)]
    assert rounded(generate(made, TEXTS[:3], 4)) == rounded(alone)
    pair = read_pairs(PAIRS)[0]
    assert Schedule.of(read, [pair]).peak > 5e-5
    train = Schedule(epochs=1, peak=1e-3)
    assert [step.loss > 0 for step in learn(read, [pair], [pair], train)] == [True]


def test_a_missing_model_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load '.*nothing'.*GPT2_MODEL"):
        CausalLM.load(tmp_path / "nothing")


def test_a_tokenizer_without_end_of_text_is_an_error() -> None:
    made = CausalLM.load(BASE)
    made.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos_token"):
        CausalLM.of(made.network, made.tokenizer)
