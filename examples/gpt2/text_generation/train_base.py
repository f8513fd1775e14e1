"""Train ``base/`` on the text of the example, and measure it.

python -m text_generation.train_base              train, write, measure
python -m text_generation.train_base --measure    only measure it
python -m text_generation.train_base --fit        fit the 100 pairs, then measure
python -m text_generation.train_base --speed      compare batches of 16 with one by one
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lsml_bento import testing
from text_generation.data import Pair, pair_to_annotated_task, read_pairs
from text_generation.generation import Generated, generate
from text_generation.grammar import CATALOGUE, HELD_OUT, PAIRS, plain_pairs
from text_generation.language_model import PROMPT, CausalLM
from text_generation.learning import Schedule, learn, perplexity, unigram_perplexity
from text_generation.model import BASE, GPT2TextGeneration

LABEL_CONFIG = Path(__file__).parents[1] / "label_config.xml"
END = "<|endoftext|>"
VOCABULARY = 768
POSITIONS = 192
WIDTH, LAYERS, HEADS = 64, 4, 4
SCHEDULE = Schedule(epochs=14, batch=16, peak=4e-3, whole=True)
RUNS = 3


def train_tokenizer(pairs: Sequence[Pair]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, as that of GPT-2, on the pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (f"{PROMPT.format(pair.prompt)} {pair.answer}" for pair in pairs)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )


def train_base(pairs: Sequence[Pair], schedule: Schedule = SCHEDULE) -> CausalLM:
    """Train a model from scratch. The result is reproducible on the same machine."""
    torch.manual_seed(schedule.seed)
    tokenizer = train_tokenizer(pairs)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = CausalLM.of(GPT2LMHeadModel(config), tokenizer)
    for epoch in learn(model, pairs, [], schedule):
        share, loss = epoch.share, epoch.loss
        print(f"\r{share:.0%}, loss {loss:.3f}", end="", flush=True)
    print()
    return model


def fitted(pairs: Sequence[Pair], directory: Path) -> CausalLM:
    """Fit the base model to the pairs, as the backend does."""
    backend = GPT2TextGeneration(label_config=LABEL_CONFIG.read_text(encoding="utf-8"))
    backend.model = CausalLM.load(BASE)
    names = backend.from_name, backend.to_name, backend.value
    tasks = [pair_to_annotated_task(pair, *names) for pair in pairs]
    started = time.monotonic()
    path, metrics = testing.fit(backend, tasks, directory).saved[-1]
    seconds = time.monotonic() - started
    print(f"fit took {seconds:.0f} s: {json.dumps(metrics)}")
    return CausalLM.load(path)


def report(name: str, model: CausalLM) -> None:
    """Print the perplexity on the held-out answers, and some generated answers."""
    pairs, held_out = read_pairs(PAIRS), read_pairs(HELD_OUT)
    print(f"perplexity of {len(held_out)} held-out answers")
    print(f"{name}: {perplexity(model, held_out):.2f}")
    print(f"unigram model: {unigram_perplexity(model, pairs, held_out):.2f}")
    known = plain_pairs()
    answers = [made.text for made in _answers(model, known)]
    right = sum(map(str.endswith, answers, (pair.answer for pair in known)))
    print(f"right by the catalogue: {right} of {len(known)} answers to its questions")
    found = list(zip(held_out, _answers(model, held_out), strict=True))
    same = sum(pair.answer == made.text.strip() for pair, made in found)
    print(f"equal to a held-out answer, letter by letter: {same} of {len(held_out)}")
    for pair, made in found[:3]:
        print(f"> {pair.prompt}\n{made.text.strip()} ({made.score:.2f})")


def _answers(model: CausalLM, pairs: Sequence[Pair]) -> list[Generated]:
    return generate(model, [PROMPT.format(pair.prompt) for pair in pairs])


def speed(model: CausalLM, pairs: Sequence[Pair], batch: int = 16) -> float:
    """The speedup of batches over single texts."""
    texts = [PROMPT.format(pair.prompt) for pair in pairs]
    runs = [[_seconds(model, texts, n) for n in (1, batch)] for _ in range(RUNS)]
    # The minimum, as other programs only add to a time.
    one, many = (len(texts) / min(run[k] for run in runs) for k in (0, 1))
    print(f"one by one: {one:.1f} tasks/s; batches of {batch}: {many:.1f} tasks/s")
    return many / one


def _seconds(model: CausalLM, texts: Sequence[str], size: int) -> float:
    started = time.perf_counter()
    for start in range(0, len(texts), size):
        generate(model, texts[start : start + size])
    return time.perf_counter() - started


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option in ("--measure", "--fit", "--speed"):
        parser.add_argument(option, action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums have the same order on every machine
    if arguments.speed:
        times = speed(CausalLM.load(BASE), read_pairs(PAIRS)[:64])
        print(f"{times:.1f} times as fast")
        return
    if arguments.fit:
        with tempfile.TemporaryDirectory() as directory:
            report("fitted", fitted(read_pairs(PAIRS), Path(directory)))
        return
    if not arguments.measure:
        train_base(read_pairs(CATALOGUE)).save(BASE)
    report(BASE.name, CausalLM.load(BASE))


if __name__ == "__main__":
    main()
